"""A held mint: waited for, decided by a person, released once."""

import asyncio

from caracalai import ApprovalRequired, Authority

from world import RESOURCE, client, code_of, hear, say


async def main() -> None:
    caracal = client()
    narrow = Authority.narrow(["orders:read", "orders:write"], ttl_seconds=600, resource_id=RESOURCE)
    async with caracal.session(labels=["clerk"]):
        async with caracal.session(labels=["clerk"], authority=narrow):

            async def write(approval_id):
                return await caracal.fetch(
                    RESOURCE, "/v1/orders", method="POST", scopes=["orders:write"], approval_id=approval_id
                )

            # What is not risky is not held.
            free = await caracal.fetch(RESOURCE, "/v1/orders", scopes=["orders:read"])

            # Held, then decided while the SDK waits, then released with the approval's id.
            held = await hold(caracal)
            say({"free": free.status_code, "approval": held.approval_id, "tier": held.tier, "state": held.state})
            state = await asyncio.to_thread(caracal.wait_for_approval, held.approval_id, timeout_seconds=60)
            answer = await write(held.approval_id)
            other = code_of(caracal.mint_mandate, RESOURCE, ["orders:read"], approval_id=held.approval_id)
            consumed = await asyncio.to_thread(caracal.wait_for_approval, held.approval_id, timeout_seconds=60)
            say({"decided": state, "written": answer.status_code, "other_scope": other, "then": consumed})

            # The same in one call. A second request is a second hold.
            second = asyncio.create_task(caracal.with_approval(write, timeout_seconds=60))
            say({"second": (await asyncio.shield(second)).status_code})

            # Turned down: the call raises what it was held with.
            await hear()
            try:
                await caracal.with_approval(write, timeout_seconds=60)
                say({"third": "released"})
            except ApprovalRequired as error:
                late = code_of(caracal.mint_mandate, RESOURCE, ["orders:write"], approval_id=error.approval_id)
                say({"third": "held", "approval": error.approval_id, "late": late})
    await caracal.aclose()


async def hold(caracal) -> ApprovalRequired:
    """Mints what has to be approved first."""
    try:
        await asyncio.to_thread(caracal.mint_mandate, RESOURCE, ["orders:write"])
    except ApprovalRequired as error:
        return error
    raise AssertionError("nothing was held")


if __name__ == "__main__":
    asyncio.run(main())
