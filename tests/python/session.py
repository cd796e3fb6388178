"""The published SDK, unmodified: session, narrowed child, a governed call, replay, and the end of the session.

Prints one JSON object with what happened; every expectation is checked by the test that runs this.
"""

import asyncio
import json
import os
import sys

import httpx

from caracalai import Authority, Caracal
from caracalai_oauth import CaracalError


async def main() -> dict:
    resource = os.environ["TEST_RESOURCE"]
    gateway = os.environ["CARACAL_GATEWAY_URL"]
    caracal = Caracal.from_client_secret(
        zone_id=os.environ["CARACAL_ZONE_ID"],
        application_id=os.environ["CARACAL_APPLICATION_ID"],
        client_secret=os.environ["CARACAL_APP_CLIENT_SECRET"],
        sts_url=os.environ["CARACAL_STS_URL"],
        coordinator_url=os.environ["CARACAL_COORDINATOR_URL"],
        gateway_url=gateway,
        resources=[resource],
    )
    outcome: dict = {}
    async with caracal.session(labels=["clerk"], ttl_seconds=600, task="reconcile") as root:
        outcome["root"] = root.session_id
        outcome["root_delegation"] = root.delegation_id
        narrow = Authority.narrow(["orders:read"], ttl_seconds=300, resource_id=resource)
        async with caracal.session(labels=["reader"], authority=narrow) as child:
            outcome["child"] = child.session_id
            outcome["child_delegation"] = child.delegation_id
            outcome["hop"] = child.hop

            answer = await caracal.fetch(resource, "/v1/orders", scopes=["orders:read"])
            outcome["fetch"] = [answer.status_code, answer.json()]

            minted = caracal.mint_mandate(resource, ["orders:read"])
            token = getattr(minted, "token", None) or getattr(minted, "access_token", None)
            headers = {"Authorization": f"Bearer {token}", "X-Caracal-Resource": resource}
            async with httpx.AsyncClient() as plain:
                first = await plain.get(f"{gateway}/v1/orders", headers=headers)
                again = await plain.get(f"{gateway}/v1/orders", headers=headers)
            outcome["first_use"] = first.status_code
            outcome["replay"] = [again.status_code, again.json()["error"]]

            try:
                caracal.mint_mandate(resource, ["orders:write"])
                outcome["wider"] = "minted"
            except CaracalError as error:
                outcome["wider"] = error.code

            # An inherited grandchild, three levels down, still mints.
            async with caracal.session(labels=["reader"]) as grandchild:
                outcome["grandchild_delegation"] = grandchild.delegation_id
                answer = await caracal.fetch(resource, "/v1/orders", scopes=["orders:read"])
                outcome["grandchild_fetch"] = answer.status_code

            held = caracal.mint_mandate(resource, ["orders:read"])
            held_token = getattr(held, "token", None) or getattr(held, "access_token", None)
            held_context = child
        headers = {"Authorization": f"Bearer {held_token}", "X-Caracal-Resource": resource}
        async with httpx.AsyncClient() as plain:
            late = await plain.get(f"{gateway}/v1/orders", headers=headers)
        outcome["after_end"] = [late.status_code, late.json()["error"]]
        try:
            caracal.mint_mandate(resource, ["orders:read"], ctx=held_context)
            outcome["mint_after_end"] = "minted"
        except CaracalError as error:
            outcome["mint_after_end"] = error.code
    await caracal.aclose()
    return outcome


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
