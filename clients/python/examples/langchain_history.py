"""A LangChain chat history that is kept by Standpipe.

Run it beside a server: `pip install 'standpipe[langchain,openai]'`, `standpipe serve`, then this file. STANDPIPE_TARGET
names another server, OPENAI_BASE_URL any OpenAI-compatible endpoint, OPENAI_MODEL its model.
"""

import os
import uuid

from langchain_core.messages import AIMessage, HumanMessage, convert_to_openai_messages
from openai import OpenAI

import standpipe
from standpipe.adapters.langchain import ChatHistory

client = OpenAI()
with standpipe.sync.connect() as pipe:
    history = ChatHistory(pipe.session(f"langchain-{uuid.uuid4().hex}", subject="anna"))
    for question in ("Hi, I am Anna, and I sail.", "What did I say I do?"):
        asked = HumanMessage(question)
        answer = client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
            messages=convert_to_openai_messages([*history.messages, asked]),
        )
        history.add_messages([asked, AIMessage(answer.choices[0].message.content or "")])
        print(history.messages[-1].text)
    print(f"{len(history.messages)} messages are kept.")
