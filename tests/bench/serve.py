"""The processes that are measured: ``python -m tests.bench.serve KIND ADDRESS [OPTIONS AS JSON]``.

Each prints one line of JSON when it serves, takes commands on stdin ("profile", "dump PATH") and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import sqlite3
import sys
from pathlib import Path

import grpc


async def standpipe_server(address: str, options: dict) -> None:
    """Serve Standpipe itself."""
    from sidecar.config import Config
    from sidecar.server import Server

    config = Config(listen=(address,), http="", reflection=False, log_level="error", **options)
    async with Server(config):
        await _until_closed()


async def floor(address: str, options: dict) -> None:
    """Serve bytes: the method's name is how many."""
    answers: dict[str, bytes] = {}

    def handle(details):
        def answer(request, context):
            found = answers.get(details.method)
            if found is None:
                size = int(details.method.rpartition("/")[2])
                found = answers[details.method] = bytes(range(256)) * (size // 256) + bytes(size % 256)
            return found

        async def work(request, context):
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(work)

    await _serve(address, handle)


async def handwritten(address: str, options: dict) -> None:
    """Serve what is written by hand for want of Standpipe: history as JSON from a store, counted at every read.

    Fair to it: each message is counted once, vectors stay in memory, one matrix product ranks them, and the
    embedder and the tokenizer are Standpipe's own. In series, as such code is: history, embedding, search, fit.
    With `careful` it also stops counting where the budget ends.
    """
    import numpy as np

    from sidecar.embed import Embedder
    from sidecar.model import Model
    from sidecar.tokens import Tokenizers

    models = Path(options["models_dir"])
    count = Tokenizers(models / "tokenizers").get(options["tokenizer"]).count
    embedder = Embedder(Model.open(models / "all-MiniLM-L6-v2"))
    db = sqlite3.connect(options["db"])
    texts = [text for (text,) in db.execute("select text from memory order by id")]
    vectors = np.stack(
        [np.frombuffer(one, np.float32) for (one,) in db.execute("select vector from memory order by id")]
    )

    async def hydrate(request, context):
        asked = json.loads(request)
        (stored,) = db.execute("select history from session where id = ?", (asked["session"],)).fetchone()
        history, used = [], 0
        messages = json.loads(stored)
        if not asked["careful"]:
            counts = [count(f"{message['speaker']}: {message['text']}\n") for message in messages]
        for message in reversed(messages):
            tokens = count(f"{message['speaker']}: {message['text']}\n") if asked["careful"] else counts.pop()
            if used + tokens > options["history_tokens"]:
                break
            used += tokens
            history.append(message)
        recalled, used = [], 0
        if asked["query"]:
            vector = await asyncio.to_thread(embedder.embed_one, asked["query"])
            scores = vectors @ vector
            for index in np.argsort(-scores)[:200]:
                tokens = count(texts[index])
                if used + tokens > options["recall_tokens"]:
                    break
                used += tokens
                recalled.append(texts[index])
        return json.dumps({"history": history[::-1], "recalled": recalled}).encode()

    await _serve(address, lambda _: grpc.unary_unary_rpc_method_handler(hydrate))


async def _serve(address: str, handle) -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            return handle(handler_call_details)

    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(address)
    await server.start()
    try:
        await _until_closed()
    finally:
        await server.stop(None)


async def _until_closed() -> None:
    print(json.dumps({"ready": True}), flush=True)
    loop, profile = asyncio.get_running_loop(), None
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        if line == "profile":
            profile = cProfile.Profile()
            profile.enable()
        elif profile is not None:
            profile.disable()
            profile.dump_stats(line.removeprefix("dump "))
        print(json.dumps({"done": line}), flush=True)


if __name__ == "__main__":
    kind = {"standpipe": standpipe_server, "floor": floor, "handwritten": handwritten}[sys.argv[1]]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(kind(sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
