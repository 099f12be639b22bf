"""A LlamaIndex chat memory that is kept by Standpipe.

Run it beside a server: `pip install 'standpipe[llama-index,openai]'`, `standpipe serve`, then this file.
STANDPIPE_TARGET names another server, OPENAI_BASE_URL any OpenAI-compatible endpoint, OPENAI_MODEL its model.
"""

import os
import uuid

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from openai import OpenAI

import standpipe
from standpipe.adapters.llama_index import StandpipeMemory

client = OpenAI()
with standpipe.sync.connect() as pipe:
    memory = StandpipeMemory.of(pipe.session(f"llama-{uuid.uuid4().hex}", subject="anna"), messages_max=20)
    for question in ("Hi, I am Anna, and I sail.", "What did I say I do?"):
        asked = ChatMessage(question)
        answer = client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
            messages=[{"role": one.role.value, "content": one.content} for one in [*memory.get(), asked]],
        )
        said = answer.choices[0].message.content or ""
        memory.put_messages([asked, ChatMessage(said, role=MessageRole.ASSISTANT)])
        print(said)
    print(f"{len(memory.get_all())} messages are kept.")
