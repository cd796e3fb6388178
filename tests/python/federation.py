"""A user signs in, an agent works for them, and the user is revoked."""

import asyncio
from contextlib import AsyncExitStack

import httpx

from caracalai import Authority

from world import GATEWAY, RESOURCE, client, code_of, governed, hear, outcome_of, say


async def work(caracal, sessions: AsyncExitStack) -> None:
    token = await hear()
    user = caracal.federate_subject(token, ttl_seconds=600)
    record = {"subject_authority_record_id": user.subject_authority_record_id}
    proof = {**record, "subject_authority_record_token": user.token}

    async def start(**subject):
        async with caracal.session(labels=["clerk"], **subject):
            pass

    await sessions.enter_async_context(caracal.session(labels=["clerk"], **proof))
    narrow = Authority.narrow(["orders:read"], ttl_seconds=300, resource_id=RESOURCE)
    agent = await sessions.enter_async_context(caracal.session(labels=["reader"], authority=narrow))
    answer = await caracal.fetch(RESOURCE, "/v1/orders", scopes=["orders:read"])
    held = caracal.mint_mandate(RESOURCE, ["orders:read"])
    say(
        {
            "record": user.subject_authority_record_id,
            "expires_in": user.expires_in_seconds,
            "call": answer.status_code,
            "held": held.token,
            "unproved": await outcome_of(start(**record)),
            "rotated": code_of(caracal.federate_subject, await hear()),
            "stranger": code_of(caracal.federate_subject, await hear()),
        }
    )
    await hear()
    say(
        {
            "held": await refusals(held.token),
            "mint": code_of(caracal.mint_mandate, RESOURCE, ["orders:read"], ctx=agent),
            "start": await outcome_of(start(**proof)),
            "same_token": code_of(caracal.federate_subject, token),
            "signed_in_again": code_of(caracal.federate_subject, await hear()),
        }
    )


async def refusals(token: str) -> list:
    """How a held mandate is refused: at first by the STS perhaps, and by the filter alone once it has heard."""
    codes = []
    async with httpx.AsyncClient() as plain:
        while not codes or codes[-1] == [403, "access_denied"]:
            answer = await plain.get(f"{GATEWAY}/v1/orders", headers=governed(token))
            codes.append([answer.status_code, answer.json().get("error")])
    return codes[-1]


async def main() -> None:
    caracal, sessions = client(), AsyncExitStack()
    await work(caracal, sessions)
    # They ended with the user: there is nothing left to end.
    await outcome_of(sessions.aclose())
    await caracal.aclose()


if __name__ == "__main__":
    asyncio.run(main())
