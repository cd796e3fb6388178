"""WebSockets, by the `websockets` package, unmodified.

`server`: tells its port. Echoes what it is sent, and pushes a tick every 50 ms to whoever asked for `ticks`. Answers each
line on its input with what it was sent so far.

`client URL RESOURCE MANDATE`: connects, and tells `{"open": true}` or the status and body of the refusal. Each line on its
input is sent, and the answer told; `wait` only waits. At the end of the connection it tells `{"closed": …}`.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus


def tell(what: object) -> None:
    print(json.dumps(what), flush=True)


async def lines():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield line.strip()


async def server() -> None:
    received: list[str] = []
    seen: list[dict] = []

    async def ticks(connection) -> None:
        while True:
            await connection.send("tick")
            await asyncio.sleep(0.05)

    async def handle(connection) -> None:
        seen.append({name.lower(): value for name, value in connection.request.headers.raw_items()})
        ticking = None
        try:
            async for message in connection:
                received.append(message)
                if message == "ticks":
                    ticking = asyncio.create_task(ticks(connection))
                else:
                    await connection.send(f"echo {message}")
        except ConnectionClosed:
            pass
        finally:
            if ticking is not None:
                ticking.cancel()

    async with serve(handle, "127.0.0.1", 0) as running:
        tell(running.sockets[0].getsockname()[1])
        async for _ in lines():
            tell({"received": received, "headers": seen})


async def client(url: str, resource: str, mandate: str) -> None:
    headers = {"X-Caracal-Resource": resource}
    if mandate:
        headers["Authorization"] = f"Bearer {mandate}"
    try:
        connection = await connect(url, additional_headers=headers, proxy=None, ping_interval=None)
    except InvalidStatus as refusal:
        response = refusal.response
        tell({"status": response.status_code, "body": json.loads(response.body)})
        return
    tell({"open": True})
    try:
        async for line in lines():
            if line != "wait":
                await connection.send(line)
            message = await asyncio.wait_for(connection.recv(), 10)
            while line not in ("ticks", "wait") and message == "tick":
                message = await asyncio.wait_for(connection.recv(), 10)
            tell({"got": message})
    except ConnectionClosed as closed:
        tell({"closed": closed.rcvd.code if closed.rcvd else None})


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run(server() if role == "server" else client(*arguments))
