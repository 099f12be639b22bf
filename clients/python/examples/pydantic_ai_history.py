"""A Pydantic AI agent whose message history is kept by Standpipe.

Run it beside a server: `pip install 'standpipe[pydantic-ai,openai]'`, `standpipe serve`, then this file.
STANDPIPE_TARGET names another server, OPENAI_BASE_URL any OpenAI-compatible endpoint, OPENAI_MODEL its model.
"""

import asyncio
import os
import uuid

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import standpipe
from standpipe.adapters.pydantic_ai import History


async def main() -> None:
    """Talk, and show what the session holds."""
    provider = OpenAIProvider(openai_client=AsyncOpenAI())
    agent = Agent(OpenAIChatModel(os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), provider=provider))
    async with standpipe.connect() as pipe:
        history = History(pipe.session(f"pydantic-{uuid.uuid4().hex}", subject="anna"))
        for question in ("Hi, I am Anna, and I sail.", "What did I say I do?"):
            result = await agent.run(question, message_history=await history.load())
            await history.save(result.new_messages())
            print(result.output)
        print(f"{len(await history.load())} messages are kept.")


asyncio.run(main())
