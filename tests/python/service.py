"""A service session in a process of its own. Each line it hears is an order; each answer is one line.

`service.py start` starts a service below a service, narrowed to reading; `service.py attach PARENT SESSION DELEGATION`
waits for a first line and then takes both over.
"""

import asyncio
import sys

import httpx

from caracalai import Authority

from world import GATEWAY, RESOURCE, client, code_of, governed, hear, outcome_of, say


async def start(caracal, lost):
    parent = await caracal.start_session(labels=["keeper"], task="keep")
    narrow = Authority.narrow(["orders:read"], ttl_seconds=600, resource_id=RESOURCE)
    async with caracal.bind(parent.context):
        handle = await caracal.start_session(labels=["reader"], authority=narrow, on_lease_lost=lost.set_result)
    return parent, handle, handle.context.delegation_id


async def attach(caracal, lost, parent, session, delegation):
    await hear()
    parent = await caracal.attach_session(parent)
    handle = await caracal.attach_session(session, on_lease_lost=lost.set_result)
    return parent, handle, delegation


async def main() -> None:
    caracal = client()
    lost = asyncio.get_running_loop().create_future()
    role = {"start": start, "attach": attach}[sys.argv[1]]
    try:
        parent, handle, delegation = await role(caracal, lost, *sys.argv[2:])
    except Exception as error:
        say({"refused": getattr(error, "code", None) or type(error).__name__})
        await caracal.aclose()
        return
    say(
        {
            "session": handle.session_id,
            "parent": parent.session_id,
            "delegation": delegation,
            "generation": handle.lease_generation,
        }
    )
    held = None
    while order := await hear():
        if order == "beat":
            outcome = {"beat": await outcome_of(handle.heartbeat()), "status": handle.status}
        elif order == "call":
            async with caracal.bind(handle.context), caracal.accept_delegation(delegation, validate=True):
                answer = await caracal.fetch(RESOURCE, "/v1/orders", scopes=["orders:read"])
            outcome = {"call": answer.status_code}
        elif order == "hold":
            async with caracal.bind(handle.context), caracal.accept_delegation(delegation):
                held = caracal.mint_mandate(RESOURCE, ["orders:read"])
            outcome = {"held": True}
        elif order == "use":
            async with httpx.AsyncClient() as plain:
                answer = await plain.get(f"{GATEWAY}/v1/orders", headers=governed(held.token))
            outcome = {"use": answer.status_code}
        elif order == "mint":
            async with caracal.bind(handle.context), caracal.accept_delegation(delegation):
                outcome = {"mint": code_of(caracal.mint_mandate, RESOURCE, ["orders:read"])}
        elif order == "lost":
            error = await lost
            outcome = {"lost": error.code}
        elif order == "close":
            outcome = {"close": await outcome_of(handle.aclose())}
        say(outcome)
    await parent.aclose()
    await caracal.aclose()


if __name__ == "__main__":
    asyncio.run(main())
