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
    """Serve bytes: the method's name is how many. With stores, do beside it what nobody can do without.

    `/floor/<size>` fetches as many bytes from Redis; `/commit/<size>` inserts the request, and tells Redis.
    """
    answers: dict[str, bytes] = {}
    redis = db = None
    if "redis" in options:
        redis, db = await _stores(options)

    def handle(details):
        kind, size = details.method.strip("/").split("/")

        async def work(request, context):
            found = answers.get(size)
            if found is None:
                found = answers[size] = bytes(range(256)) * (int(size) // 256) + bytes(int(size) % 256)
                if redis:
                    await redis.set(f"view{size}", found)
            if not redis:
                return found
            if kind == "commit":
                await db.execute("INSERT INTO log (body) VALUES (%b)", (request,))
                await redis.set("view", request)
                return found
            async with redis.pipeline(transaction=False) as pipeline:
                pipeline.get(f"view{size}")
                (view,) = await pipeline.execute()
            return view

        return grpc.unary_unary_rpc_method_handler(work)

    await _serve(address, handle)


async def _stores(options: dict) -> tuple:
    """Connect to Redis and PostgreSQL."""
    import psycopg
    from redis.asyncio import Redis

    return (
        Redis.from_url(options["redis"], protocol=3),
        await psycopg.AsyncConnection.connect(options["postgres"], autocommit=True),
    )


async def handwritten(address: str, options: dict) -> None:
    """Serve what is written by hand for want of Standpipe: history as JSON from a store, counted at every read.

    Fair to it: each message is counted once, the embedder and the tokenizer are Standpipe's own, and vectors are ranked
    by pgvector, or stay in memory where one matrix product ranks them. In series, as such code is: history, embedding,
    search, fit.
    With `careful` it also stops counting where the budget ends.
    """
    import numpy as np

    from sidecar.embed import Embedder
    from sidecar.model import Model
    from sidecar.tokens import Tokenizers

    models = Path(options["models_dir"])
    count = Tokenizers(models / "tokenizers").get(options["tokenizer"]).count
    embedder = Embedder(Model.open(models / "all-MiniLM-L6-v2"))
    if "redis" in options:
        redis, db = await _stores(options)

        async def read(session: str) -> bytes:
            return await redis.get(session)

        async def search(vector: np.ndarray) -> list[str]:
            query = "SELECT text FROM hand ORDER BY vector <#> %s LIMIT 200"
            return [text for (text,) in await (await db.execute(query, (str(vector.tolist()),))).fetchall()]

    else:
        db = sqlite3.connect(options["db"])
        texts = [text for (text,) in db.execute("select text from memory order by id")]
        vectors = np.stack(
            [np.frombuffer(one, np.float32) for (one,) in db.execute("select vector from memory order by id")]
        )

        async def read(session: str) -> bytes:
            return db.execute("select history from session where id = ?", (session,)).fetchone()[0]

        async def search(vector: np.ndarray) -> list[str]:
            return [texts[index] for index in np.argsort(-(vectors @ vector))[:200]]

    async def hydrate(request, context):
        asked = json.loads(request)
        stored = await read(asked["session"])
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
            for text in await search(vector):
                tokens = count(text)
                if used + tokens > options["recall_tokens"]:
                    break
                used += tokens
                recalled.append(text)
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
