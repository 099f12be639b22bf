"""An agent of the OpenAI Agents SDK whose session is kept by Standpipe.

Run it beside a server: `pip install 'standpipe[openai-agents]'`, `standpipe serve`, then this file. STANDPIPE_TARGET
names another server, OPENAI_BASE_URL any OpenAI-compatible endpoint, OPENAI_MODEL its model.
"""

import asyncio
import os
import uuid

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

import standpipe
from standpipe.adapters.openai_agents import AgentsSession


async def main() -> None:
    """Talk, and show what the session holds."""
    set_tracing_disabled(disabled=True)  # or the SDK sends its traces to OpenAI
    model = OpenAIChatCompletionsModel(os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), AsyncOpenAI())
    agent = Agent(name="Mate", instructions="Be brief.", model=model)
    async with standpipe.connect() as pipe:
        session = AgentsSession(pipe.session(f"agents-{uuid.uuid4().hex}", subject="anna"))
        for question in ("Hi, I am Anna, and I sail.", "What did I say I do?"):
            result = await Runner.run(agent, question, session=session)
            print(result.final_output)
        print(f"{len(await session.get_items())} items are kept.")


asyncio.run(main())
