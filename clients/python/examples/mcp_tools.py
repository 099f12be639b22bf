"""An agent's host and its memory: start `standpipe mcp`, list its tools, and call them as a model would.

Run it beside a server: `pip install 'standpipe[mcp]'`, `standpipe serve`, then this file. STANDPIPE_TARGET names
another server.
"""

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters

STARTED = StdioServerParameters(
    command=sys.executable,
    args=["-m", "sidecar", "mcp", "--subject", "anna"],  # a host's configuration says: standpipe mcp --subject anna
    env=dict(os.environ),
)


async def main() -> None:
    """Remember something, find it again, and see what it counts as."""
    async with Client(STARTED) as client:
        for tool in (await client.list_tools()).tools:
            print(f"{tool.name}: {', '.join(tool.input_schema['properties'])}")

        noted = await client.call_tool(
            "remember",
            {"attribute": "home city", "value": "Porto", "statement": "Anna said that she moved to Porto."},
        )
        print(noted.structured_content["outcome"])  # an agent's word waits for review

        seen = await client.call_tool("hydrate", {"query": "Where does Anna live?", "budget_tokens": 500})
        print(seen.structured_content["context"])

        wrong = await client.call_tool("forget", {"fact": "nothing@1.0"})
        print(wrong.content[0].text)


asyncio.run(main())
