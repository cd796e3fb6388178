"""Calls as the application itself: no session bound, every request with a mandate of its own."""

import asyncio
import os

from world import GATEWAY, RESOURCE, client, outcome_of, say


async def main() -> None:
    caracal = client()
    async with caracal.application_transport(RESOURCE, scopes=["orders:read"], labels=["reader"]) as transport:
        together = await asyncio.gather(*(transport.get(f"{GATEWAY}/v1/orders?n={n}") for n in range(4)))
    with caracal.sync_application_transport(RESOURCE, scopes=["orders:write"], labels=["clerk"]) as transport:
        written = await asyncio.to_thread(transport.post, f"{GATEWAY}/v1/orders", json={"item": 1})
    # The label that is there without being asked for is the application's id.
    async with caracal.application_transport(RESOURCE, scopes=["orders:read"]) as transport:
        default = await transport.get(f"{GATEWAY}/v1/orders")

    async def call(scopes, labels):
        async with caracal.application_transport(RESOURCE, scopes=scopes, labels=labels) as transport:
            await transport.get(f"{GATEWAY}/v1/orders")

    say(
        {
            "together": [answer.status_code for answer in together],
            "written": written.status_code,
            "default": default.status_code,
            "no_role": await outcome_of(call(["orders:write"], ["reader"])),
            "no_scope": await outcome_of(call(["orders:delete"], ["clerk"])),
            "application": os.environ["CARACAL_APPLICATION_ID"],
        }
    )
    await caracal.aclose()


if __name__ == "__main__":
    asyncio.run(main())
