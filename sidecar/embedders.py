"""The embedding models that this process has at hand, and the one that recall ranks by.

The record store names one model whose vectors rank (R33), and every read of memory tells it, so that all processes rank
by the same one. A process may have two models at hand: the one that its deployment moves to, and the one that it comes
from, which serves until every item has the other's vectors (`sidecar.switch`). A process that has not the one that
serves ranks by its own, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import cast

from sidecar.batching import EmbedQueue
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.embedding import Embedding
from sidecar.model import Model, Precision
from sidecar.remote import SharedEmbedder
from sidecar.telemetry import Log, Telemetry


class Embedders:
    """What there is to embed with. One a process."""

    def __init__(
        self,
        found: Callable[[], Sequence[Embedding]] = tuple,
        *,
        telemetry: Telemetry | None = None,
        shared: SharedEmbedder | None = None,
    ) -> None:
        """`found` tells the models at hand: first the one that the deployment moves to. It may tell others later,
        if it is `shared` that tells.
        """
        self._found = found
        self._telemetry = telemetry
        self._shared = shared
        self.serving = ""
        """The model that the record store last named; empty: none that this process has heard of."""
        self._told: Embedding | None = None
        self.configured = False
        """Whether there is to be a model: then one that is not at hand is missing."""

    @property
    def all(self) -> Sequence[Embedding]:
        """The models at hand, first the one that the deployment moves to."""
        return self._found()

    @property
    def known(self) -> bool:
        """Whether the models at hand are the deployment's: a fallback may be there before the shared embedder tells."""
        return self._shared is None or self._shared.listed

    async def news(self, seconds: float) -> None:
        """Wait until there are other models at hand, or for so long."""
        if self._shared is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shared.changed.wait()
        self._shared.changed.clear()

    @property
    def ranking(self) -> Embedding | None:
        """What this process ranks by: the model that serves, or else its own; None without a model at hand."""
        found = self.all
        return next((one for one in found if one.id == self.serving), found[0] if found else None)

    @property
    def ranking_id(self) -> str:
        """Its id; empty without one."""
        ranking = self.ranking
        return ranking.id if ranking else ""

    def at(self, model_id: str) -> Embedding | None:
        """Return a model at hand."""
        return next((one for one in self.all if one.id == model_id), None)

    def saw(self, serving: str) -> Embedding | None:
        """Take note of the model that an answer of the record store names; return what is ranked by."""
        news, self.serving = serving != self.serving, serving
        ranking = self.ranking
        if news or ranking is not self._told:
            self._tell(ranking)
        return ranking

    def _tell(self, ranking: Embedding | None) -> None:
        """Publish what is ranked by from now on."""
        before, self._told = self._told, ranking
        if self._telemetry is None or ranking is None:
            return
        for one in self.all:
            self._telemetry.embedding_ranks.labels(one.id).set(one is ranking)
        if self.serving and ranking.id != self.serving:
            self._telemetry.log.warning(
                "the model that serves is not at hand: recall ranks by another", serving=self.serving, model=ranking.id
            )
        elif before is not None and before is not ranking:
            self._telemetry.log.info("recall ranks by another model", model=ranking.id)


@contextlib.asynccontextmanager
async def embedders_of(
    config: Config, telemetry: Telemetry, *, given: Sequence[Embedder] = ()
) -> AsyncIterator[Embedders]:
    """Have the models that a configuration names; `given` stand in for those that this process would load.

    Raises ModelInvalid for one that cannot be loaded. A shared embedder that does not answer is not waited for.
    """
    async with contextlib.AsyncExitStack() as stack:
        found: Callable[[], Sequence[Embedding]] = tuple
        shared: SharedEmbedder | None = None
        if config.embedder_address and not given:
            fallback = None
            if config.embedder_fallback:
                loaded = await asyncio.to_thread(load, config, config.embedder, config.embed_precision)
                fallback = await queued(stack, loaded, telemetry)
            shared = await stack.enter_async_context(
                SharedEmbedder(
                    config.embedder_address,
                    telemetry,
                    fallback=fallback,
                    ca_file=config.embedder_ca_file,
                    cert_file=config.embedder_cert_file,
                    key_file=config.embedder_key_file,
                )
            )
            found = shared.models
        elif given or config.embedder != "none":
            local = given or await asyncio.to_thread(loaded_by, config, telemetry.log)
            queues = [await queued(stack, embedder, telemetry) for embedder in local]
            found = lambda: queues  # noqa: E731 - what is at hand here stays so
        embedders = Embedders(found, telemetry=telemetry, shared=shared)
        embedders.configured = bool(given or config.embedder_address or config.embedder != "none")
        yield embedders


def loaded_by(config: Config, log: Log) -> list[Embedder]:
    """Load the models that a configuration names, the one to move to first; log how the search for a GPU ended.

    Raises ModelInvalid, and ConfigInvalid where the device is not there.
    """
    found = [load(config, config.embedder, config.embed_precision)]
    if config.embedder_before:
        name, _, precision = config.embedder_before.partition("/")
        found.append(load(config, name, cast(Precision, precision)))
    if config.device != "cpu":
        for embedder in found:
            log.info("device", model=embedder.id, chosen=embedder.chosen)
    return found


async def queued(stack: contextlib.AsyncExitStack, embedder: Embedder, telemetry: Telemetry) -> EmbedQueue:
    """Put a queue before an embedder, until the stack is closed."""
    queue = EmbedQueue(embedder, telemetry=telemetry)
    stack.push_async_callback(queue.close)
    return queue


def load(config: Config, name: str, precision: Precision) -> Embedder:
    """Load a model of models_dir onto the device that a configuration names. Raises as Embedder does."""
    return Embedder(
        Model.open(Path(config.models_dir) / name),
        precision=precision,
        # No faster on a GPU, where a text's bits would depend on its company; it is there to be moved away from.
        device="cpu" if precision == "int8" else config.device,
        threads=config.embed_threads,
        gpu_memory_bytes=config.gpu_memory_bytes,
    )
