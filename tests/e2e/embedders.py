"""Shared embedders, in processes that can die and in this one, and a stock gRPC client of either."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from sidecar.config import Config
from sidecar.embed import Embedder, Shape, Tokens
from sidecar.embed_server import EmbedServer
from sidecar.telemetry import Log
from standpipe.v1 import context_pb2, embedding_pb2, embedding_pb2_grpc
from tests.e2e.pods import MODELS, ROOT, WIRE_BYTES
from tests.e2e.talk import a_sentence
from tests.servers import LOOPBACK, Server, free_port

QUERY, PASSAGE = embedding_pb2.EMBED_KIND_QUERY, embedding_pb2.EMBED_KIND_PASSAGE
Vectors = NDArray[np.float32]


def texts_of(dice: random.Random, count: int, *, sentences: int = 4) -> list[str]:
    """Return texts of mixed length, each of which is said once."""
    said = (" ".join(a_sentence(dice) for _ in range(dice.randrange(1, sentences + 1))) for _ in range(count))
    return [f"{text} That is {number}." for number, text in enumerate(said)]


def get(address: str, path: str) -> tuple[int, str]:
    """Ask the HTTP port; return the status and the page, 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metrics(address: str) -> dict[str, float]:
    """Return metrics, by name and labels, as they are exposed."""
    lines = get(address, "/metrics")[1].splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def total(found: dict[str, float], name: str, **labels: str) -> float:
    """Return the sum of a metric's series that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    series = {key: value for key, value in found.items() if key.partition("{")[0] == f"standpipe_{name}"}
    return sum(value for key, value in series.items() if all(one in key for one in wanted))


class Caller:
    """A client of one shared embedder."""

    def __init__(self, target: str, model_id: str = "") -> None:
        self.model_id = model_id
        self.channel = grpc.aio.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", WIRE_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )
        self.stub = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)

    async def ask(
        self, *texts: str, kind: int = QUERY, timeout_s: float | None = 60.0, **fields: Any
    ) -> embedding_pb2.EmbedResponse:
        """Embed texts, and return the answer as it came."""
        request = embedding_pb2.EmbedRequest(**{"model_id": self.model_id, "kind": kind, "texts": texts, **fields})
        return await self.stub.Embed(request, timeout=timeout_s)

    async def embed(self, *texts: str, **fields: Any) -> Vectors:
        """Embed texts: [texts, dimensions]."""
        answer = await self.ask(*texts, **fields)
        assert answer.model_id == fields.get("model_id", self.model_id)
        return np.frombuffer(answer.vectors, "<f4").reshape(len(texts), answer.dimensions)

    async def models(self) -> list[context_pb2.EmbeddingInfo]:
        """List the models."""
        return list((await self.stub.ListModels(embedding_pb2.ListModelsRequest(), timeout=20)).models)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


class EmbedderProcess(Server):
    """`standpipe embed`, on a port and on a socket file."""

    kind = "embedder"

    def __init__(self, **settings: str | int) -> None:
        super().__init__()
        self.http = f"{LOOPBACK}:{free_port()}"
        self.socket = self.directory / "socket"
        self.settings = {
            "listen": f"{LOOPBACK}:{self.port},unix:{self.socket}",
            "http": self.http,
            "models_dir": str(MODELS),
            **settings,
        }

    @property
    def target(self) -> str:
        """Where it listens, by port."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        flags = (f"--{name.replace('_', '-')}={value}" for name, value in self.settings.items())
        return [sys.executable, "-m", "sidecar", "embed", *flags]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
        paths = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
        return {**kept, "PYTHONPATH": paths, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}

    def ready(self) -> bool:
        return get(self.http, "/readyz")[0] == 200


class Gated(Embedder):
    """The real model behind a gate: a run waits while the gate is closed, and fails with what it is told to."""

    def __init__(self, real: Embedder, *, opened: bool = False) -> None:
        self.__dict__.update(real.__dict__)
        self.open = threading.Event()
        if opened:
            self.open.set()
        self.failing: Exception | None = None
        self.begun: list[int] = []
        """How many texts each run was of."""

    def run(self, texts: Sequence[Tokens], shape: Shape) -> Vectors:
        """Wait at the gate, then run."""
        self.begun.append(len(texts))
        assert self.open.wait(60)
        if self.failing:
            raise self.failing
        return super().run(texts, shape)


class Local(Caller):
    """A shared embedder in this process, with a client of it."""

    def __init__(self, server: EmbedServer, model_id: str, log: io.StringIO) -> None:
        super().__init__(f"{LOOPBACK}:{server.ports[0]}", model_id)
        self.server = server
        self.log = log

    def metrics(self) -> dict[str, float]:
        """Return the server's metrics."""
        return metrics(self.server.http_address)


@contextlib.asynccontextmanager
async def embedding(*embedders: Embedder, **settings: Any) -> AsyncIterator[Local]:
    """Serve embeddings in this process. A defect that the server logged fails the test."""
    log = io.StringIO()
    usual = {"listen": (f"{LOOPBACK}:0",), "http": f"{LOOPBACK}:0", "models_dir": str(MODELS)}
    server = EmbedServer(Config(**{**usual, **settings}), embedders=embedders)
    server.telemetry.log = Log(log)
    async with server:
        caller = Local(server, embedders[0].id, log)
        try:
            yield caller
        finally:
            for embedder in embedders:
                if isinstance(embedder, Gated):
                    embedder.open.set()
            await caller.close()
    assert '"defect"' not in log.getvalue(), log.getvalue()
