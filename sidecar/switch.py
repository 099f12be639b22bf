"""The way from one embedding model to another, under load, with nothing unsearchable in between.

::

    0.3.0, one model          the first process names its own                   serve(old, instead_of="")
    embedder: new             new items get the vectors of both, old items those of new, behind the log;
    embedder_before: old      recall ranks by old all the while
    new no further behind     one process of all names the other                serve(new, instead_of=old)
    embedder: new             recall ranks by new; `standpipe model drop` removes what is left of old

Only a process that was told of both, and comes from the one that serves, ever switches: so one of before never switches
back. To go back is the same way: the two settings change places.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import cast

from sidecar.embedders import Embedders
from sidecar.errors import StandpipeError
from sidecar.projection import EmbeddingProjection
from sidecar.stores.record import Figures, FiguresRead, Lag, LagRead, Models, ModelsRead, Record
from sidecar.telemetry import Telemetry

_LOOK_S = 5.0
"""Between two looks at which model serves, which are at hand, and how far each is behind."""

_BEHIND_S = 5.0
"""What waits for its vector for no longer than this counts as embedded: under load there is always something."""

_BEHIND_ITEMS = 64
"""Unless it is more than this, and more than this part of all items: what is young may be all that there is."""


class Switch:
    """Projects every model at hand, and moves recall to the one that the deployment moves to. One a process."""

    def __init__(self, record: Record, embedders: Embedders, *, telemetry: Telemetry, project: bool = True) -> None:
        """`project`: whether this process embeds items, or leaves that to others."""
        self._record = record
        self._embedders = embedders
        self._telemetry = telemetry
        self._project = project
        self._projections: dict[str, EmbeddingProjection] = {}
        self._held_up = False

    def wake(self) -> None:
        """Say that there is something to embed."""
        for projection in self._projections.values():
            projection.wake.set()

    def attend(self) -> Sequence[EmbeddingProjection]:
        """Return a projection for each model that is at hand by now."""
        self._projections = {
            one.id: self._projections.get(one.id) or EmbeddingProjection(self._record, one, telemetry=self._telemetry)
            for one in self._embedders.all
        }
        return list(self._projections.values())

    async def run(self) -> None:
        """Work until cancelled, on the models that are at hand by then."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for projection in self.attend():
                    if projection.model_id not in tasks:
                        work = projection.run() if self._project else projection.watch()
                        tasks[projection.model_id] = asyncio.create_task(work)
                for model_id in tasks.keys() - self._projections.keys():
                    await _ended(tasks.pop(model_id))
                await self._embedders.news(_LOOK_S)
                await self.look()
        finally:
            for task in tasks.values():
                await _ended(task)

    async def look(self) -> None:
        """See which model serves; name one if none does, or if the next is no further behind."""
        with contextlib.suppress(StandpipeError):  # the next look may be luckier
            serving = await self._serving()
            models = [one.id for one in self._embedders.all]
            if models and not serving and self._embedders.known:
                await self._record.serve((models[1:] or models)[0], instead_of="")
                serving = await self._serving()
            elif serving in models[1:] and await self._caught_up(models[0], serving):
                if await self._record.serve(models[0], instead_of=serving):
                    self._telemetry.model_switches.inc()
                    self._telemetry.log.info("recall moved to another model", model=models[0], instead_of=serving)
                serving = await self._serving()
            self._embedders.saw(serving)

    async def lags(self) -> Mapping[str, Lag]:
        """Return how far each model at hand is behind."""
        models = [one.id for one in self._embedders.all]
        answers = await self._record.fetch([LagRead(model=model) for model in models]) if models else []
        return dict(zip(models, cast(Sequence[Lag], answers), strict=True))

    async def _serving(self) -> str:
        (answer,) = await self._record.fetch([ModelsRead()])
        return cast(Models, answer).serving

    async def _caught_up(self, new: str, old: str) -> bool:
        """Return whether a model is no further behind than another, in one snapshot."""
        *lags, figures = await self._record.fetch([LagRead(model=new), LagRead(model=old), FiguresRead()])
        ours, theirs = cast(Sequence[Lag], lags)
        behind_max = max(_BEHIND_ITEMS, cast(Figures, figures).items // _BEHIND_ITEMS)
        held_up = ours.parked > theirs.parked
        if held_up and not self._held_up:
            self._telemetry.log.warning("parked orders hold the switch of models up", model=new, parked=ours.parked)
        self._held_up = held_up
        late = ours.age_s > max(_BEHIND_S, theirs.age_s) or ours.items > theirs.items + behind_max
        return not held_up and not late


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
