"""The client of the official MCP package, unmodified, through the Gateway.

Started with the URL, the resource and a mandate. Reads one JSON object a line: `call` names a tool, `list` asks for the
tools. Answers with what came of it: `content`, `tools`, or `refused` with the status of the answer.
"""

import asyncio
import json
import sys

import httpx2
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

statuses: list[int] = []


async def remember(response: httpx2.Response) -> None:
    statuses.append(response.status_code)


async def asked(session: ClientSession, order: dict) -> dict:
    before = len(statuses)
    try:
        if "list" in order:
            return {"tools": [tool.name for tool in (await session.list_tools()).tools]}
        if "ping" in order:
            await session.send_ping()
            return {"pong": True}
        result = await session.call_tool(order["call"], {})
        return {"content": [part.text for part in result.content], "failed": bool(result.is_error)}
    except Exception as error:
        refused = [status for status in statuses[before:] if status >= 400]
        return {"refused": refused, "error": str(error)}


async def main() -> None:
    url, resource, mandate = sys.argv[1:4]
    headers = {"Authorization": f"Bearer {mandate}", "X-Caracal-Resource": resource}
    client = httpx2.AsyncClient(headers=headers, event_hooks={"response": [remember]}, timeout=10)
    async with client, streamable_http_client(url, http_client=client) as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            print(json.dumps({"initialized": True}), flush=True)
            loop = asyncio.get_running_loop()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                print(json.dumps(await asked(session, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
