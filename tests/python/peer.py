"""Two applications, two processes: one delegates, the other accepts, calls, and is cut off.

`peer.py issuer RESOURCE` and `peer.py receiver`; the test carries the ids between them.
"""

import asyncio
import sys

import httpx

from caracalai import Authority

from world import GATEWAY, RESOURCE, client, code_of, governed, hear, outcome_of, say


async def issuer() -> None:
    caracal = client(sys.argv[2])
    async with caracal.session(labels=["clerk"]):
        session, application = (await hear()).split()

        def hand_over(scopes):
            return caracal.delegate(
                to_session_id=session,
                to_application_id=application,
                scopes=scopes,
                resource_id=RESOURCE,
                ttl_seconds=120,
            )

        refused = await outcome_of(hand_over(["orders:delete"]))
        delegation = await hand_over(["orders:read"])
        say({"refused": refused, "delegation": delegation.delegation_id, "scopes": delegation.scopes})
        await hear()
        await caracal.revoke_delegation(delegation.delegation_id)
        say({"again": await outcome_of(caracal.revoke_delegation(delegation.delegation_id))})
        await hear()
    await caracal.aclose()


async def receiver() -> None:
    caracal = client()
    async with caracal.session(labels=["reader"]) as own:
        without = code_of(caracal.mint_mandate, RESOURCE, ["orders:read"])
        say({"session": own.session_id, "without": without})
        delegation = await hear()
        async with caracal.accept_delegation(delegation, validate=True) as accepted:
            answer = await caracal.fetch(RESOURCE, "/v1/orders", scopes=["orders:read"])
            wider = code_of(caracal.mint_mandate, RESOURCE, ["orders:write"])
            async with caracal.session(labels=["reader"]):
                below = await caracal.fetch(RESOURCE, "/v1/orders", scopes=["orders:read"])
            held = caracal.mint_mandate(RESOURCE, ["orders:read"])
            say({"call": answer.status_code, "hop": accepted.hop, "wider": wider, "below": below.status_code})
            await hear()
            async with httpx.AsyncClient() as plain:
                late = await plain.get(f"{GATEWAY}/v1/orders", headers=governed(held.token))
            after = code_of(caracal.mint_mandate, RESOURCE, ["orders:read"])

        async def accept():
            async with caracal.accept_delegation(delegation, validate=True):
                pass

        async def child(authority):
            async with caracal.session(labels=["reader"], authority=authority):
                pass

        say(
            {
                "held": [late.status_code, late.json()["error"]],
                "mint": after,
                "accept": await outcome_of(accept()),
                "inheriting_child": await outcome_of(child(Authority.inherit())),
                "bare_child": await outcome_of(child(Authority.none())),
            }
        )
    await caracal.aclose()


if __name__ == "__main__":
    asyncio.run({"issuer": issuer, "receiver": receiver}[sys.argv[1]]())
