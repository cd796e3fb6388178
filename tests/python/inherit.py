"""A narrowed session, three levels of inheritance below it, and the end of the level in the middle."""

import asyncio
from contextlib import AsyncExitStack

from caracalai import Authority, DelegationConstraints

from world import RESOURCE, client, code_of, outcome_of, say


async def descend(caracal, constraints) -> dict:
    """Narrows once, inherits three times; each level mints and calls, and none mints more."""
    levels, contexts = [], []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(caracal.session(labels=["clerk"]))
        narrow = Authority.narrow(
            ["orders:read"], ttl_seconds=300, resource_id=RESOURCE, constraints=constraints
        )
        for level in range(4):
            authority = narrow if level == 0 else Authority.inherit()
            context = await stack.enter_async_context(caracal.session(labels=["reader"], authority=authority))
            contexts.append(context)
            answer = await caracal.fetch(RESOURCE, "/v1/orders", scopes=["orders:read"])
            levels.append(
                {
                    "delegation": context.delegation_id,
                    "hop": context.hop,
                    "call": answer.status_code,
                    "wider": code_of(caracal.mint_mandate, RESOURCE, ["orders:write"]),
                }
            )

        async def start(authority):
            async with caracal.session(labels=["reader"], authority=authority):
                pass

        again = Authority.narrow(["orders:read"], ttl_seconds=60, resource_id=RESOURCE)
        wider = Authority.narrow(["orders:read", "orders:write"], ttl_seconds=60, resource_id=RESOURCE)
        outcome = {
            "levels": levels,
            "narrowed_again": await outcome_of(start(again)),
            "widened": await outcome_of(start(wider)),
            "free_below": await outcome_of(bare(caracal)),
        }
    outcome["after_end"] = [
        code_of(caracal.mint_mandate, RESOURCE, ["orders:read"], ctx=context) for context in contexts
    ]
    return outcome


async def bare(caracal):
    """A child that turns inheritance down holds nothing."""
    async with caracal.session(labels=["reader"], authority=Authority.none()):
        await asyncio.to_thread(caracal.mint_mandate, RESOURCE, ["orders:read"])


async def main() -> None:
    caracal = client()
    say(
        {
            "one_hop": await descend(caracal, None),
            "six_hops": await descend(caracal, DelegationConstraints(max_hops=6)),
        }
    )
    await caracal.aclose()


if __name__ == "__main__":
    asyncio.run(main())
