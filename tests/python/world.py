"""What every script needs: a client of one application, the resource, and lines to and from the test that runs it."""

import asyncio
import json
import os
import sys

from caracalai import Caracal

RESOURCE = os.environ["TEST_RESOURCE"]
GATEWAY = os.environ["CARACAL_GATEWAY_URL"]


def client(resource: str = RESOURCE) -> Caracal:
    """The SDK, unmodified, as the application that the test names, which owns this resource."""
    return Caracal.from_client_secret(
        zone_id=os.environ["CARACAL_ZONE_ID"],
        application_id=os.environ["CARACAL_APPLICATION_ID"],
        client_secret=os.environ["CARACAL_APP_CLIENT_SECRET"],
        sts_url=os.environ["CARACAL_STS_URL"],
        coordinator_url=os.environ["CARACAL_COORDINATOR_URL"],
        gateway_url=GATEWAY,
        resources=[resource],
    )


def governed(token: str) -> dict:
    """The headers of a plain call with this mandate."""
    return {"Authorization": f"Bearer {token}", "X-Caracal-Resource": RESOURCE}


def say(outcome: dict) -> None:
    """Tells the test what happened."""
    print(json.dumps(outcome), flush=True)


async def hear() -> str:
    """Waits for the test to say what comes next."""
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


async def outcome_of(call) -> str:
    """Awaits a call: "done", or the code it was refused with."""
    try:
        await call
    except Exception as error:
        return getattr(error, "code", None) or type(error).__name__
    return "done"


def code_of(call, *arguments, **named) -> str:
    """Makes a call: "done", or the code it was refused with."""
    try:
        call(*arguments, **named)
    except Exception as error:
        return getattr(error, "code", None) or type(error).__name__
    return "done"
