"""An application that remembers, by one changed line: `wrap_openai`.

Run it beside a server: `pip install 'standpipe[openai]'`, `standpipe serve`, then this file. STANDPIPE_TARGET names
another server, OPENAI_BASE_URL any OpenAI-compatible endpoint, OPENAI_MODEL its model.
"""

import os
import uuid

from openai import OpenAI

import standpipe

with standpipe.sync.connect() as pipe:
    session = pipe.session(f"chat-{uuid.uuid4().hex}", subject="anna")
    client = standpipe.wrap_openai(OpenAI(), session=session)  # the changed line: it was OpenAI()
    for question in ("Hi, I am Anna, and I sail.", "What did I say I do?"):
        stream = client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
            messages=[{"role": "user", "content": question}],
            stream=True,
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()
    print(f"{session.get().version} turns are kept.")
