"""A server of the official MCP package: two tools that change or show what it keeps, and one that takes its time.

Tells its port first. Then answers each line on its input with the calls that reached the tools so far.
"""

import asyncio
import json
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

called: list[str] = []
server = MCPServer("orders", log_level="ERROR")


@server.tool()
def list_orders() -> list[str]:
    """The orders."""
    called.append("list_orders")
    return ["one", "two"]


@server.tool()
def drop_orders() -> str:
    """Drops every order."""
    called.append("drop_orders")
    return "gone"


@server.tool()
async def watch(ctx: Context) -> str:
    """Tells of itself for as long as it is listened to."""
    called.append("watch")
    for number in range(600):
        await ctx.report_progress(number, 600)
        await asyncio.sleep(0.05)
    return "done"


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    app = server.streamable_http_app()
    running = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=0))
    serving = asyncio.create_task(running.serve(sockets=[listener]))
    print(json.dumps(listener.getsockname()[1]), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(called), flush=True)
    running.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
