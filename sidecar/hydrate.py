"""HydrateContext: plan, look up, rank, fit, render; and ReplayContext, which does the same from a receipt.

The query's embedding starts first and runs beside the lookups. Each store is asked at most once: the hot store for
the session's tail, and, unless that is known to be the newest and nothing of memory is to be shown, the record store,
in one batch, for the route, for what the session has that the view does not, and for what memory has that is not
cached: items of the subject, changes of what is known of it, and the tenant's own documents. So a change of memory is
seen by every hydrate that starts after it was acknowledged (P4). A session or subject that is not cached yet costs a
load.

All of memory is ranked by one embedding model, the one that the record store names (R33). When it names another, the
first hydrate of a process that hears of it embeds its query once more.

Everything behind the lookups is `bundle.assemble`, a pure function. A receipt names its inputs, so replaying is
looking up the same inputs again, as they were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

from sidecar import bundle, limits, names, policy, recall, segment, validate, view
from sidecar.beliefs import Beliefs, BeliefStore
from sidecar.embedders import Embedders
from sidecar.embedding import Embedding, Vector
from sidecar.errors import (
    DeadlineExceeded,
    EmbedderUnavailable,
    InvalidField,
    Overloaded,
    PolicyNotFound,
    ReplayUnavailable,
    StandpipeError,
    StoreUnavailable,
    SubjectMismatch,
    VersionInFuture,
)
from sidecar.lease import Leases
from sidecar.policy import DOCUMENTS, FACTS, HISTORY, PROFILE, RANKED, RECALL, Policy
from sidecar.receipt import Receipt, Signer, Token
from sidecar.scope import Candidates, Library, ScopeMemory, Scopes, base_of, rank_documents
from sidecar.segment import Count
from sidecar.sessions import Look, Sessions
from sidecar.stores.hot import HotKey
from sidecar.stores.record import (
    ChangesRead,
    Deadline,
    Read,
    Record,
    RouteRead,
    ScopeRead,
    ScopeState,
    SessionState,
    StoredRoute,
)
from sidecar.telemetry import Telemetry
from sidecar.tokens import Tokenizers
from sidecar.view import View
from standpipe.v1 import bundle_pb2, context_pb2, memory_pb2

_FINISH_SHARE = 0.3
"""The share of the time left that is kept for ranking, fitting and rendering; at least `_FINISH_S_MIN`."""

_FINISH_S_MIN = 0.004

_SOURCE: Mapping[int, bundle_pb2.Source] = {int(source): source for source in bundle_pb2.Source.values()}

_SOURCE_NAMES = {source: bundle_pb2.Source.Name(source).removeprefix("SOURCE_").lower() for source in _SOURCE if source}

_T = TypeVar("_T")

_RULES = 1
"""The rules by which bundles are made now (`Receipt.rules`): profile, facts, documents, and folding."""

_MEMORY = (PROFILE, RECALL, FACTS, DOCUMENTS)
"""The sources that are of a subject's memory, in the order in which they stand in a bundle."""

_STATUS_NAMES = {
    status: memory_pb2.BeliefStatus.Name(status).removeprefix("BELIEF_STATUS_").lower()
    for status in memory_pb2.BeliefStatus.values()
}

_RANK_INLINE_ITEMS = 20_000
"""Scopes up to this size are ranked on the event loop, in a few milliseconds; larger ones in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A checked request: what is wanted, before it is known what there is."""

    tenant: str
    session: str
    subject: str
    route: str
    query: str
    total_tokens: int | None
    caps: Mapping[bundle_pb2.Source, int]
    include: frozenset[bundle_pb2.Source]
    tokenizer: str
    """Empty: the policy's."""
    nearest: bool
    fully: bool
    at_least: Token | None
    exactly: Token | None


@dataclass(frozen=True, slots=True)
class _Embedding:
    """A query's embedding, at work."""

    model: Embedding
    task: asyncio.Task[Vector]


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What there is of memory. None of each when it is not wanted, or could not be had."""

    items: ScopeMemory | None = None
    """The subject's."""
    beliefs: Beliefs | None = None
    library: ScopeMemory | None = None
    """The items of the tenant's own documents."""

    @property
    def model(self) -> str:
        """The embedding model that all of it is ranked by; empty without one."""
        block = self.items or self.library
        return block.model if block else ""


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What there is for a plan."""

    rules: Policy
    session: View
    memory: _Remembered
    position: int
    """The subject's last item that this hydrate may see."""
    known_position: int
    """The subject's last change of memory that it may see."""


@dataclass(slots=True)
class _Clock:
    """Time per phase, in microseconds."""

    started_ns: int = field(default_factory=time.perf_counter_ns)
    phases: dict[str, int] = field(default_factory=dict)

    def add(self, phase: str, since_ns: int) -> None:
        self.phases[phase] = self.phases.get(phase, 0) + (time.perf_counter_ns() - since_ns) // 1000


@dataclass(slots=True)
class _Degraded:
    """What is missing, by source and cause."""

    causes: dict[tuple[int, str], None] = field(default_factory=dict)

    def add(self, source: bundle_pb2.Source, cause: str) -> None:
        self.causes[int(source), cause] = None


class Hydrator:
    """The read path. One a process. Writes nothing to the record store."""

    def __init__(
        self,
        *,
        record: Record,
        sessions: Sessions,
        scopes: Scopes,
        beliefs: BeliefStore,
        leases: Leases,
        tokenizers: Tokenizers,
        embedders: Embedders,
        signer: Signer,
        telemetry: Telemetry,
    ) -> None:
        self._record = record
        self._sessions = sessions
        self._scopes = scopes
        self._beliefs = beliefs
        self._leases = leases
        self._tokenizers = tokenizers
        self._embedders = embedders
        self._signer = signer
        self._telemetry = telemetry
        self._frames: dict[str, bundle.Frames] = {}
        # Kept, since looking a child up by its label costs more than counting.
        phases = ("hot", "record", "embed", "rank", "render", "total")
        self._phase_seconds = {phase: telemetry.phase_seconds.labels(phase) for phase in phases}
        self._bundle_tokens = {source: telemetry.bundle_tokens.labels(name) for source, name in _SOURCE_NAMES.items()}
        self._subject_facts = {
            status: telemetry.subject_facts.labels(name) for status, name in _STATUS_NAMES.items() if status
        }
        self._in_flight = 0

    async def hydrate(
        self, tenant: str, request: context_pb2.HydrateContextRequest, *, deadline: Deadline
    ) -> context_pb2.HydrateContextResponse:
        """Return what the model should see. `tenant` is the caller's own; `deadline` is honoured."""
        if self._in_flight >= limits.hydrates_in_flight_max:
            raise Overloaded("too many hydrates at work", limit="hydrates_in_flight_max")
        self._in_flight += 1
        self._telemetry.hydrates_in_flight.set(self._in_flight)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await self._hydrate(self._plan(tenant, request), deadline)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the session was read", phase="lookup") from None
        finally:
            self._in_flight -= 1
            self._telemetry.hydrates_in_flight.set(self._in_flight)

    async def _hydrate(self, plan: _Plan, deadline: Deadline) -> context_pb2.HydrateContextResponse:
        clock, degraded = _Clock(), _Degraded()
        if plan.tokenizer and plan.tokenizer not in self._tokenizers.loaded:  # a third of a second, once
            await asyncio.to_thread(self._tokenizers.get, plan.tokenizer)
        embedding = self._start_embedding(plan, deadline)
        try:
            inputs = await self._look_up(plan, deadline, clock, degraded)
            rules, session, memory = inputs.rules, inputs.session, inputs.memory
            wanted = _wanted(rules, plan.include, session.subject, plan.query)
            ranked = _ranked(wanted, memory)
            if ranked and embedding is None:  # the route has just moved to a policy that recalls
                embedding = self._start_embedding(plan, deadline)
            query = await self._query(plan, rules, embedding, memory, ranked, deadline, clock, degraded)
        finally:
            if embedding is not None:
                embedding.task.cancel()
        items = memory.items if wanted & RANKED else None
        library = memory.library if DOCUMENTS in wanted else None
        beliefs = memory.beliefs if wanted & {PROFILE, FACTS} else None
        receipt = Receipt(
            tenant=plan.tenant,
            session=plan.session,
            subject=session.subject,
            policy_name=rules.name,
            policy_version=rules.version,
            tokenizer=session.tokenizer,
            version=session.version,
            position=inputs.position if items else 0,
            vector_position=min(_vectors(items, query), inputs.position) if items else 0,
            model=query.model,
            total_tokens=plan.total_tokens or 0,
            caps=tuple(sorted(plan.caps.items())),
            include=tuple(sorted(plan.include)),
            query=plan.query,
            query_vector=recall.pack_vector(query.vector, query.scale) if query.vector is not None else b"",
            degraded=tuple(degraded.causes),
            served_at_us=time.time_ns() // 1000,
            epoch=items.epoch if items else beliefs.epoch if beliefs else 0,
            rules=_RULES if wanted else 0,
            known_position=inputs.known_position if beliefs else 0,
            library_position=library.position if library else 0,
            library_vector_position=_vectors(library, query) if library else 0,
            library_epoch=library.epoch if library else 0,
            cosine_floor_thousandths=query.cosine_floor_thousandths,
        )
        answer = context_pb2.HydrateContextResponse()
        seen = _Remembered(items, beliefs, library)
        candidates = await self._assemble(receipt, rules, session, seen, query, into=answer.bundle, clock=clock)
        if wanted and not _is_new(answer.bundle, candidates):  # then it is as release 0.2.0 would have served it
            receipt = replace(
                receipt,
                position=receipt.position if RECALL in wanted else 0,
                vector_position=receipt.vector_position if RECALL in wanted else 0,
                epoch=items.epoch if items and RECALL in wanted else 0,
                rules=0,
                known_position=0,
                library_position=0,
                library_vector_position=0,
                library_epoch=0,
            )
        self._complete(answer, plan, receipt, session, candidates, clock, inputs)
        return answer

    async def search(
        self, tenant: str, request: memory_pb2.SearchMemoryRequest, *, deadline: Deadline
    ) -> memory_pb2.SearchMemoryResponse:
        """Find what a hydrate would, without a budget."""
        for at, source in enumerate(request.sources):
            if source not in RANKED:
                raise InvalidField("must be RECALL, FACTS or DOCUMENTS", field=f"sources[{at}]")
        validate.between(request.count_max, "count_max", 0, limits.search_results_max)
        validate.text(request.query, "query", limit="query_bytes", maximum=limits.query_bytes)
        if not request.query.strip():
            raise InvalidField("must not be blank", field="query")
        subject = validate.identifier(request.subject_id, "subject_id")
        plan = self._plan(
            tenant,
            context_pb2.HydrateContextRequest(
                session_id=subject,
                subject_id=subject,
                route=request.route,
                query=request.query,
                include=request.sources or sorted(RANKED),
            ),
        )
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                found, remembered = await self._search(plan, deadline)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before memory was searched", phase="search") from None
        listed = [
            (source, one)
            for source, each in ((RECALL, found), (FACTS, remembered.facts), (DOCUMENTS, remembered.documents))
            for one in (bundle.best(each) if each is not None else ())
        ]
        count = request.count_max or limits.search_results_default
        best = sorted(range(len(listed)), key=lambda at: -listed[at][1].segment.score_micros)[:count]
        answer = memory_pb2.SearchMemoryResponse()
        for source, one in (listed[at] for at in sorted(best)):
            answer.results.add(source=source, segment=one.segment).said_at.FromMicroseconds(one.said_at_us)
        return answer

    async def _search(self, plan: _Plan, deadline: Deadline) -> tuple[Candidates | None, bundle.Remembered]:
        clock, degraded = _Clock(), _Degraded()
        embedding = self._start_embedding(plan, deadline)
        try:
            items = self._scopes.fresh(plan.tenant, plan.subject)
            beliefs = self._beliefs.fresh(plan.tenant, plan.subject)
            library = self._scopes.fresh(plan.tenant, names.EVERYONE)
            reads = items.read(), beliefs.read(), library.read()
            asked_at = time.monotonic()
            route, *gains = await self._record.fetch(
                [RouteRead(tenant=plan.tenant, name=plan.route), *reads], deadline=deadline
            )
            known, gained, shelved = cast("list[ScopeState]", gains)
            stored = cast("StoredRoute | None", route)
            rules = await self._leases.policies.follow(plan.tenant, plan.route, stored, asked_at=asked_at)
            items = await self._scopes.ranked(await self._scopes.settle(items, reads[0], known))
            beliefs = await self._beliefs.settle(beliefs, reads[1], gained)
            library = await self._scopes.ranked(await self._scopes.settle(library, reads[2], shelved))
            memory = _Remembered(items, beliefs, library)
            ranked = _ranked(_wanted(rules, plan.include, plan.subject, plan.query), memory)
            query = await self._query(plan, rules, embedding, memory, ranked, deadline, clock, degraded)
        finally:
            if embedding is not None:
                embedding.task.cancel()
        receipt = Receipt(
            tenant=plan.tenant,
            session="",
            subject=plan.subject,
            policy_name=rules.name,
            policy_version=rules.version,
            tokenizer=_counted_as(plan, rules),
            version=0,
            position=items.position,
            vector_position=items.vector_position,
            model="",
            total_tokens=0,
            caps=(),
            include=tuple(sorted(plan.include)),
            query=plan.query,
            query_vector=b"",
            degraded=(),
            served_at_us=time.time_ns() // 1000,
            rules=_RULES,
            known_position=beliefs.position,
            library_position=library.position,
            library_vector_position=library.vector_position,
        )
        nothing = view.empty(session="", subject=plan.subject, tokenizer=receipt.tokenizer)
        return await self._found(receipt, rules, nothing, memory, query)

    async def replay(
        self, tenant: str, request: context_pb2.ReplayContextRequest, *, deadline: Deadline
    ) -> context_pb2.ReplayContextResponse:
        """Render a past bundle again. Raises ReceiptInvalid, and ReplayUnavailable when its inputs are gone."""
        receipt = self._signer.open(request.receipt, tenant=tenant, field_name="receipt")
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = context_pb2.ReplayContextResponse(session_id=receipt.session, subject_id=receipt.subject)
                same = await self._replay(receipt, into=answer.bundle, all_omissions=request.all_omissions)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the bundle was rendered", phase="replay") from None
        outcome = "equal" if answer.bundle.fingerprint == receipt.fingerprint else "different"
        self._telemetry.replays.labels(outcome).inc()
        if outcome == "different" and not same:
            raise ReplayUnavailable(
                "memory that the bundle saw is gone: erased, or its time had passed", missing="items"
            )
        if outcome == "different":
            self._telemetry.log.error("a replayed bundle differs", policy=answer.bundle.policy)
            raise ReplayUnavailable("the stored state no longer gives the bundle that was served", missing="state")
        answer.degraded.extend(_degradations(receipt))
        answer.served_at.FromMicroseconds(receipt.served_at_us)
        return answer

    async def _replay(self, receipt: Receipt, *, into: bundle_pb2.Bundle, all_omissions: bool) -> bool:
        """Render the bundle; return whether memory is of the epochs that it saw."""
        try:
            rules = await self._leases.policies.version(receipt.tenant, receipt.policy_name, receipt.policy_version)
        except PolicyNotFound:
            raise ReplayUnavailable("the policy version is gone", missing="policy") from None
        self._tokenizers.get(segment.tokenizer_of(receipt.tokenizer))
        read = self._sessions.read(receipt.tenant, receipt.session, receipt.tokenizer, None, at=receipt.version)
        state = (await self._record.fetch([read]))[0] if receipt.version else None
        if receipt.version and state is None:
            raise ReplayUnavailable("the session is gone", missing="session")
        if receipt.version and cast(SessionState, state).head.erased:
            raise ReplayUnavailable("what the bundle showed was erased", missing="subject")
        if receipt.version and cast(SessionState, state).head.expired:
            raise ReplayUnavailable("the session's log is gone: its time had passed", missing="session")
        if receipt.version:
            session = await self._sessions.settle(read, cast(SessionState, state), None, subject=receipt.subject)
        else:
            session = view.empty(session=receipt.session, subject=receipt.subject, tokenizer=receipt.tokenizer)
        memory = await self._remembered(receipt)
        query = recall.Query.of(receipt.query)
        if receipt.query_vector:
            vector = recall.unpack_vector(receipt.query_vector)
            floor = receipt.cosine_floor_thousandths
            query = recall.Query(receipt.query, query.terms, *vector, receipt.model, floor)
        omissions_max = (1 << 30) if all_omissions else limits.omissions_listed_max
        await self._assemble(receipt, rules, session, memory, query, into=into, omissions_max=omissions_max)
        subject = memory.items or memory.beliefs
        return (subject.epoch if subject else 0, memory.library.epoch if memory.library else 0) == (
            receipt.epoch,
            receipt.library_epoch,
        )

    async def _remembered(self, receipt: Receipt) -> _Remembered:
        """Return memory that holds all that a bundle saw. Raises ReplayUnavailable."""
        tenant = receipt.tenant
        dimensions = len(recall.unpack_vector(receipt.query_vector)[0]) if receipt.query_vector else 1
        of: Any = {"model": receipt.model, "dimensions": dimensions}
        items = beliefs = library = None
        if receipt.position:
            items = await self._scopes.at(tenant, receipt.subject, position=receipt.position, **of)
        if receipt.known_position:
            beliefs = await self._beliefs.current(tenant, receipt.subject)
        if receipt.library_position:
            library = await self._scopes.at(tenant, names.EVERYONE, position=receipt.library_position, **of)
        if (
            (items and items.position < receipt.position)
            or (beliefs and beliefs.position < receipt.known_position)
            or (library and library.position < receipt.library_position)
        ):
            raise ReplayUnavailable("memory that the bundle saw is gone", missing="items")
        if receipt.query_vector and (
            (items and items.vector_position < receipt.vector_position)
            or (library and library.vector_position < receipt.library_vector_position)
        ):
            raise ReplayUnavailable(
                "the vectors that the bundle was ranked by are gone: their model was dropped", missing="vectors"
            )
        return _Remembered(items, beliefs, library)

    # --- the steps --------------------------------------------------------------------------------------------

    def _plan(self, tenant: str, request: context_pb2.HydrateContextRequest) -> _Plan:
        validate.identifier(request.session_id, "session_id")
        validate.identifier(request.subject_id, "subject_id", optional=True)
        if request.route:
            validate.name(request.route, "route")
        validate.text(request.query, "query", limit="query_bytes", maximum=limits.query_bytes)
        caps = validate.budget(request.budget)
        for index, source in enumerate(request.include):
            validate.source(source, f"include[{index}]")
        if request.tokenizer and request.model:
            raise InvalidField("at most one of tokenizer and model may be set", field="model")
        tokenizer = ""
        if request.tokenizer:
            tokenizer = validate.named("tokenizer", lambda: self._tokenizers.known(request.tokenizer))
        elif request.model:
            tokenizer = validate.named("model", lambda: self._tokenizers.for_model(request.model))
        kind = request.consistency.WhichOneof("requirement")
        token = None
        if kind in ("at_least_as_fresh", "at_exact_snapshot"):
            token = self._signer.read_token(
                getattr(request.consistency, kind),
                tenant=tenant,
                session=request.session_id,
                field_name=f"consistency.{kind}",
            )
        return _Plan(
            tenant=tenant,
            session=request.session_id,
            subject=request.subject_id,
            route=request.route or "default",
            query=request.query,
            total_tokens=request.budget.total_tokens if request.budget.HasField("total_tokens") else None,
            caps=caps,
            include=frozenset(request.include),
            tokenizer=tokenizer,
            nearest=kind == "minimize_latency" and request.consistency.minimize_latency,
            fully=kind == "fully_consistent" and request.consistency.fully_consistent,
            at_least=token if kind == "at_least_as_fresh" else None,
            exactly=token if kind == "at_exact_snapshot" else None,
        )

    def _start_embedding(self, plan: _Plan, deadline: Deadline) -> _Embedding | None:
        """Start the query's embedding beside everything else, by the model that ranks as far as is known."""
        rules = self._leases.policies.nearest(plan.tenant, plan.route)
        model = self._embedders.ranking
        if model is None or not _wanted(rules, plan.include, plan.session, plan.query) & RANKED:
            return None
        task = asyncio.create_task(model.embed_query(plan.query, deadline_s=_spare_s(deadline)))
        task.add_done_callback(_seen)
        return _Embedding(model, task)

    async def _look_up(self, plan: _Plan, deadline: Deadline, clock: _Clock, degraded: _Degraded) -> _Inputs:
        """Read the policy, the session's view and the subject's memory, from as few places as will do."""
        rules = self._leases.policies.nearest(plan.tenant, plan.route)
        tokenizer = _counted_as(plan, rules) if rules else plan.tokenizer or self._tokenizers.written[0]
        near = self._sessions.held(plan.tenant, plan.session, tokenizer)
        wanted = _wanted(rules, plan.include, plan.subject or (near.subject if near else ""), plan.query)
        memory = self._held(plan, near, wanted)
        look = Look(key=HotKey(plan.tenant, plan.session, tokenizer), view=near)
        # Memory asks the record store anyway, in one trip with all else: then the hot store has nothing to add.
        cold = not wanted or bool(wanted & RANKED and memory.items is None)
        if near is None or cold or plan.nearest:
            look = await self._look(plan, look, deadline, clock)
        at_hand = self._at_hand(plan, look, tokenizer)
        if at_hand is not None:
            return at_hand
        # A session that may be shown without the record store is shown without what is known of the user, if need be.
        lenient = look.view is not None and not plan.fully and not plan.exactly
        optional = lenient and bool(wanted) and not wanted & RANKED
        stale = rules is not None and rules.stale and not plan.fully and not plan.exactly
        if not optional and not stale:
            return await self._ask_record(plan, look, memory, deadline, clock, degraded)
        try:
            async with asyncio.timeout(_spare_s(deadline)):
                return await self._ask_record(plan, look, memory, deadline, clock, degraded)
        except (StoreUnavailable, DeadlineExceeded, TimeoutError) as error:
            if optional:
                look = await self._look(plan, look, deadline, clock)
                at_hand = self._at_hand(plan, look, tokenizer, memory_too=False)
                if at_hand is not None:
                    cause = "store_unavailable" if isinstance(error, StoreUnavailable) else "store_timed_out"
                    for source in _wanted(at_hand.rules, plan.include, at_hand.session.subject, plan.query):
                        degraded.add(source, cause)
                    return at_hand
            if (
                not stale
                or rules is None
                or look.view is None
                or _outlived(look.view, rules)
                or (plan.at_least is not None and look.view.version < plan.at_least.version)
            ):
                raise
        self._telemetry.log.warning("record store not reached; an old view is shown")
        degraded.add(HISTORY, "stale")
        wanted = _wanted(rules, plan.include, look.view.subject, plan.query)
        memory = self._held(plan, look.view, wanted)
        held = {RECALL: memory.items, FACTS: memory.beliefs, PROFILE: memory.beliefs, DOCUMENTS: memory.library}
        for source in _MEMORY:
            if source in wanted:
                degraded.add(source, "stale" if held[source] else "store_unavailable")
        return self._as_held(rules, self._owned(look.view, plan), memory)

    async def _look(self, plan: _Plan, look: Look, deadline: Deadline, clock: _Clock) -> Look:
        """Look at the hot store."""
        since = time.perf_counter_ns()
        rules = self._leases.policies.nearest(plan.tenant, plan.route)
        ttl_s = rules.session_hot_s if rules else None
        look = await self._sessions.look(plan.tenant, plan.session, look.key.tokenizer, ttl_s=ttl_s, deadline=deadline)
        clock.add("hot", since)
        return look

    def _held(self, plan: _Plan, session: View | None, wanted: frozenset[bundle_pb2.Source]) -> _Remembered:
        """Return what is wanted of memory as far as it is in the cache."""
        subject = plan.subject or (session.subject if session else "")
        return _Remembered(
            self._scopes.held(plan.tenant, subject) if wanted & RANKED else None,
            self._beliefs.held(plan.tenant, subject) if wanted & {PROFILE, FACTS} else None,
            self._scopes.held(plan.tenant, names.EVERYONE) if DOCUMENTS in wanted else None,
        )

    def _as_held(self, rules: Policy, session: View, memory: _Remembered) -> _Inputs:
        """Return inputs of all that is cached, however old."""
        position = memory.items.position if memory.items else 0
        known_position = memory.beliefs.position if memory.beliefs else 0
        return _Inputs(rules, session, memory, position, known_position)

    def _at_hand(self, plan: _Plan, look: Look, tokenizer: str, *, memory_too: bool = True) -> _Inputs | None:
        """Return what can be shown without asking the record store, if that is fresh enough for this request.

        `memory_too` false: the session alone, if it is fresh.
        """
        session = look.view
        if session is None or plan.fully or plan.exactly is not None:
            return None
        heard_since = time.monotonic() - limits.nearest_s  # however near, what was erased is not shown for long (P11)
        if plan.nearest:
            rules = self._leases.policies.nearest(plan.tenant, plan.route) if session.heard.at > heard_since else None
        elif look.fresh or (plan.at_least and look.tail_version and plan.at_least.version <= session.version):
            rules = self._leases.policy(plan.tenant, plan.route)
        else:
            return None
        if rules is None or _counted_as(plan, rules) != tokenizer or _outlived(session, rules):
            return None
        wanted = _wanted(rules, plan.include, session.subject, plan.query)
        if not wanted or not memory_too:
            return self._as_held(rules, self._owned(session, plan), _Remembered())
        memory = self._held(plan, session, wanted)
        needed = (
            *([memory.items] if wanted & RANKED else []),
            *([memory.beliefs] if wanted & {PROFILE, FACTS} else []),
            *([memory.library] if DOCUMENTS in wanted else []),
        )
        if not plan.nearest or any(one is None or one.read_at < heard_since for one in needed):
            return None
        return self._as_held(rules, self._owned(session, plan), memory)

    async def _ask_record(
        self,
        plan: _Plan,
        look: Look,
        memory: _Remembered,
        deadline: Deadline,
        clock: _Clock,
        degraded: _Degraded,
    ) -> _Inputs:
        """Ask the record store, in one trip, for the route and what the session and memory have gained."""
        since = time.perf_counter_ns()
        tokenizer = look.key.tokenizer
        at = plan.exactly.version if plan.exactly else None
        session_read = self._sessions.read(plan.tenant, plan.session, tokenizer, look.view, at=at)
        rules = self._leases.policies.nearest(plan.tenant, plan.route)
        subject = plan.subject or (look.view.subject if look.view else "")
        wanted = _wanted(rules, plan.include, subject, plan.query)
        items = memory.items
        beliefs = self._beliefs.fresh(plan.tenant, subject) if wanted & {PROFILE, FACTS} else None
        library = self._scopes.fresh(plan.tenant, names.EVERYONE) if DOCUMENTS in wanted else None
        more: list[ScopeRead | ChangesRead] = [one.read() for one in (items, beliefs, library) if one is not None]
        reads: list[Read] = [RouteRead(tenant=plan.tenant, name=plan.route), session_read, *more]
        asked_at = time.monotonic()
        answers = await self._record.fetch(reads, deadline=deadline)
        route = cast("StoredRoute | None", answers[0])
        gains = iter(zip(more, cast("list[ScopeState]", answers[2:]), strict=True))
        rules = await self._leases.policies.follow(plan.tenant, plan.route, route, asked_at=asked_at)
        if _counted_as(plan, rules) != tokenizer:  # the route moved to a policy that counts or masks otherwise
            tokenizer = _counted_as(plan, rules)
            look = await self._sessions.look(plan.tenant, plan.session, tokenizer, deadline=deadline)
            session_read = self._sessions.read(plan.tenant, plan.session, tokenizer, look.view, at=at)
            answers[1] = (await self._record.fetch([session_read], deadline=deadline))[0]
        state = cast("SessionState | None", answers[1])
        session = await self._sessions.settle(session_read, state, look.view, subject=plan.subject)
        session = self._owned(session, plan)
        if at is None:
            await self._sessions.share(look, state)
        if plan.at_least is not None and session.version < plan.at_least.version:
            raise VersionInFuture(
                f"the session is at version {session.version}; the token has seen {plan.at_least.version}",
                current_version=session.version,
            )
        if items is not None:
            read, gain = next(gains)
            items = await self._scopes.settle(items, cast(ScopeRead, read), gain)
        clock.add("record", since)
        if items is not None:
            items = await self._ranked_anew(items, sorted(wanted & RANKED), deadline, clock, degraded)
        wanted = _wanted(rules, plan.include, session.subject, plan.query)
        knows = sorted(wanted & {PROFILE, FACTS})
        if beliefs is not None:
            read, gain = next(gains)
            settling = self._beliefs.settle(beliefs, cast(ChangesRead, read), gain)
            beliefs = await self._in_time(settling, knows, deadline, clock, degraded)
        elif knows:
            reading = self._beliefs.current(plan.tenant, session.subject)
            beliefs = await self._in_time(reading, knows, deadline, clock, degraded)
        if library is not None:
            read, gain = next(gains)
            settling_library = self._scopes.settle(library, cast(ScopeRead, read), gain)
            library = await self._in_time(settling_library, [DOCUMENTS], deadline, clock, degraded)
            if library is not None:
                library = await self._ranked_anew(library, [DOCUMENTS], deadline, clock, degraded)
        elif DOCUMENTS in wanted:
            loading = self._scopes.load(plan.tenant, names.EVERYONE)
            library = await self._in_time(loading, [DOCUMENTS], deadline, clock, degraded)
        if items is None and wanted & RANKED:
            loading = self._scopes.load(plan.tenant, session.subject)
            items = await self._in_time(loading, sorted(wanted & RANKED), deadline, clock, degraded)
        position = items.position if items else 0
        known_position = beliefs.position if beliefs else 0
        if plan.exactly is not None:
            position = plan.exactly.position
            known_position = min(known_position, position)
            if items is not None and items.base != base_of(position):
                of: Any = {"model": items.model, "dimensions": items.dimensions}
                items = await self._scopes.at(plan.tenant, session.subject, position=position, **of)
        if items is not None and items.base:
            for source in sorted(wanted & RANKED):
                degraded.add(source, "items_max")
        if items is not None and library is not None and items.model != library.model:
            degraded.add(DOCUMENTS, "stale")  # of the tenant's own, by words alone
        return _Inputs(rules, session, _Remembered(items, beliefs, library), position if items else 0, known_position)

    async def _ranked_anew(
        self,
        memory: ScopeMemory,
        sources: Sequence[bundle_pb2.Source],
        deadline: Deadline,
        clock: _Clock,
        degraded: _Degraded,
    ) -> ScopeMemory:
        """Return memory with the vectors of the model that ranks now, or as it is if those do not come in time."""
        if memory.model == self._embedders.ranking_id:
            return memory
        reading = self._scopes.ranked(memory)
        return await self._in_time(reading, sources, deadline, clock, degraded, cause="stale") or memory

    async def _in_time(
        self,
        reading: Awaitable[_T],
        sources: Sequence[bundle_pb2.Source],
        deadline: Deadline,
        clock: _Clock,
        degraded: _Degraded,
        *,
        cause: str = "",
    ) -> _T | None:
        """Wait for a part of memory as far as the deadline allows; a load goes on for the next hydrate."""
        since = time.perf_counter_ns()
        try:
            async with asyncio.timeout(_spare_s(deadline)):
                return await reading
        except (TimeoutError, DeadlineExceeded):
            cause = cause or "store_timed_out"
        except StandpipeError as error:
            self._telemetry.log.warning("memory not loaded", reason=error.reason)
            cause = cause or "store_unavailable"
        finally:
            clock.add("record", since)
        for source in sources:
            degraded.add(source, cause)
        return None

    async def _query(
        self,
        plan: _Plan,
        rules: Policy,
        embedding: _Embedding | None,
        memory: _Remembered,
        ranked: Sequence[bundle_pb2.Source],
        deadline: Deadline,
        clock: _Clock,
        degraded: _Degraded,
    ) -> recall.Query:
        """Return the query with a vector of memory's own model, or without one if it does not come in time; then all
        that is ranked is reduced.
        """
        if not plan.query.strip():
            return recall.Query.of("")
        if not ranked:
            return recall.Query.of(plan.query)
        since = time.perf_counter_ns()
        try:
            async with asyncio.timeout(min(rules.embed_ms / 1000, _spare_s(deadline))):
                return await self._embedded(plan, embedding, memory.model, deadline)
        except (TimeoutError, DeadlineExceeded):
            cause = "embedding_timed_out"
        except EmbedderUnavailable:
            cause = "embedder_unavailable" if self._embedders.configured else "embedder_off"
        except StandpipeError as error:
            self._telemetry.log.warning("query not embedded", reason=error.reason)
            cause = "embedding_failed"
        finally:
            clock.add("embed", since)
        for source in ranked:
            degraded.add(source, cause)
        return recall.Query.of(plan.query)

    async def _embedded(
        self, plan: _Plan, embedding: _Embedding | None, model_id: str, deadline: Deadline
    ) -> recall.Query:
        """Return the query with its vector of a model: the one at work, unless that is another model's."""
        model = self._embedders.at(model_id)
        if embedding is not None and embedding.model.id == model_id:
            model, vector = embedding.model, await asyncio.shield(embedding.task)
        elif model is not None:
            vector = await model.embed_query(plan.query, deadline_s=_spare_s(deadline))
        else:
            raise EmbedderUnavailable("the model that memory is ranked by is not at hand")
        floor = model.cosine_floor_thousandths
        return recall.Query.of(plan.query, vector, model=model.id, cosine_floor_thousandths=floor)

    async def _assemble(
        self,
        receipt: Receipt,
        rules: Policy,
        session: View,
        memory: _Remembered,
        query: recall.Query,
        *,
        into: bundle_pb2.Bundle,
        clock: _Clock | None = None,
        omissions_max: int = limits.omissions_listed_max,
    ) -> Candidates | None:
        """Render the bundle that a receipt stands for. Hydrate and replay meet here."""
        clock = clock or _Clock()
        frames = self._frames.get(session.tokenizer)
        if frames is None:
            count = self._tokenizers.get(segment.tokenizer_of(session.tokenizer)).count
            frames = bundle.Frames(count, masked=session.tokenizer.endswith(segment.MASKED))
            self._frames[session.tokenizer] = frames
        allocation = policy.allocate(
            rules,
            prompt_tokens=sum(piece.tokens for piece in bundle.prompts(rules, frames)),
            total_tokens=receipt.total_tokens or None,
            caps={_SOURCE[source]: cap for source, cap in receipt.caps},
            include=frozenset(_SOURCE[source] for source in receipt.include),
        )
        since = time.perf_counter_ns()
        candidates, remembered = await self._found(receipt, rules, session, memory, query)
        clock.add("rank", since)
        if remembered.facts is not None and remembered.facts.counts:
            for status, observed in self._subject_facts.items():
                observed.observe(remembered.facts.counts.get(status, 0))
        since = time.perf_counter_ns()
        bundle.assemble(
            rules,
            allocation,
            session,
            candidates,
            frames=frames,
            remembered=remembered,
            omissions_max=omissions_max,
            into=into,
        )
        clock.add("render", since)
        return candidates

    async def _found(
        self, receipt: Receipt, rules: Policy, session: View, memory: _Remembered, query: recall.Query
    ) -> tuple[Candidates | None, bundle.Remembered]:
        """Find what is remembered, in a thread if there is much of it."""
        count = self._tokenizers.get(segment.tokenizer_of(session.tokenizer)).count
        find = partial(self._find, receipt, rules, session, memory, query, count)
        largest = max(receipt.position - memory.items.base if memory.items else 0, receipt.library_position)
        if largest <= _RANK_INLINE_ITEMS:
            return find()
        async with AsyncExitStack() as stack:
            for one in (memory.items, memory.library):
                if one is not None:
                    await stack.enter_async_context(one.lock)
            return await asyncio.to_thread(find)

    def _find(
        self,
        receipt: Receipt,
        rules: Policy,
        session: View,
        memory: _Remembered,
        query: recall.Query,
        count: Count,
    ) -> tuple[Candidates | None, bundle.Remembered]:
        """Find what is remembered, as it was at the receipt's positions and time."""
        include = frozenset(_SOURCE[source] for source in receipt.include)
        wanted = _wanted(rules, include, receipt.subject, query.text)
        standing = known = None
        if receipt.rules and memory.beliefs is not None:
            known = memory.beliefs.at(position=receipt.known_position)
            standing = known.standing(now_us=receipt.served_at_us, lifetimes=rules.lifetimes)
        rank: Any = {"tokenizer": session.tokenizer, "count": count, "floor": rules.recall_floor}
        at: Any = {"position": receipt.position, "vector_position": receipt.vector_position}
        candidates = facts = documents = None
        if memory.items is not None and RECALL in wanted:
            fold = receipt.rules > 0
            candidates = memory.items.rank(query, session=session.session, fold=fold, **at, **rank)
        if memory.items is not None and standing is not None and FACTS in wanted:
            now_us = receipt.served_at_us
            facts = memory.items.rank_facts(query, standing, rules.lifetimes, now_us=now_us, **at, **rank)
        if receipt.rules and DOCUMENTS in wanted:
            libraries = [Library(memory.items, **at)] if memory.items else []
            if memory.library is not None:
                libraries.append(Library(memory.library, receipt.library_position, receipt.library_vector_position))
            documents = rank_documents(libraries, query, **rank)
        if known is None or standing is None or PROFILE not in wanted:
            return candidates, bundle.Remembered(facts=facts, documents=documents)
        profile = [bundle.Attribute(name, value, known.profile_refs[name]) for name, value in known.profile.items()]
        pinned = [belief for belief in standing.held if belief.claim.pinned]
        return candidates, bundle.Remembered(profile, pinned, facts, documents)

    def _complete(
        self,
        answer: context_pb2.HydrateContextResponse,
        plan: _Plan,
        receipt: Receipt,
        session: View,
        candidates: Candidates | None,
        clock: _Clock,
        inputs: _Inputs,
    ) -> None:
        """Put beside the bundle what tells of it: receipt, token, times, costs."""
        served = answer.bundle
        answer.receipt = self._signer.seal(replace(receipt, fingerprint=served.fingerprint))
        answer.consistency_token = self._signer.token(
            tenant=plan.tenant,
            session=plan.session,
            version=session.version,
            position=max(inputs.position, inputs.known_position, session.position_end),
        )
        answer.degraded.extend(_degradations(receipt))
        answer.token_tax.bundle_tokens = served.tokens
        answer.token_tax.transcript_tokens = session.transcript_tokens
        answer.token_tax.stable_tokens = sum(one.tokens for one in served.sections if one.source not in RANKED)
        if candidates is not None:
            answer.recall.items = candidates.total
            answer.recall.items_without_vector = max(0, receipt.position - receipt.vector_position)
            answer.recall.items_relevant = candidates.relevant
        clock.add("total", clock.started_ns)
        for phase, us in clock.phases.items():
            setattr(answer.timings, f"{phase}_us", us)
        self._measure(answer, clock, candidates)

    def _measure(
        self, answer: context_pb2.HydrateContextResponse, clock: _Clock, candidates: Candidates | None
    ) -> None:
        telemetry = self._telemetry
        for phase, us in clock.phases.items():
            self._phase_seconds[phase].observe(us / 1e6)
        for section in answer.bundle.sections:
            self._bundle_tokens[section.source].observe(section.tokens)
        telemetry.token_tax.observe(answer.token_tax.bundle_tokens)
        telemetry.tokens_saved.inc(max(0, answer.token_tax.transcript_tokens - answer.token_tax.bundle_tokens))
        telemetry.stable_tokens.inc(answer.token_tax.stable_tokens)
        if candidates is not None:
            telemetry.recalls.labels("hit" if candidates.chosen else "empty").inc()
            telemetry.recalled_items.inc(candidates.chosen)
            telemetry.recall_folded.inc(candidates.folded)
        for item in answer.degraded:
            telemetry.degraded.labels(_SOURCE_NAMES[item.source], item.cause).inc()

    def _owned(self, session: View, plan: _Plan) -> View:
        """Check that the session is the subject's that the request names."""
        if plan.subject and session.subject != plan.subject:
            raise SubjectMismatch("the session belongs to another subject")
        return session


def _vectors(memory: ScopeMemory, query: recall.Query) -> int:
    """Return the last item of memory whose vector counts: without a query's vector the last that has one, as ever."""
    return memory.vectors_for(query, memory.vector_position) if query.vector is not None else memory.vector_position


def _counted_as(plan: _Plan, rules: Policy) -> str:
    """Return under which name a view's tokens are counted: a tokenizer's, or that of its masked form."""
    tokenizer = plan.tokenizer or rules.tokenizer
    return segment.masked_as(tokenizer) if rules.mask else tokenizer


def _seen(done: asyncio.Task[Vector]) -> None:
    """Look at a task's outcome, which nobody may have waited for."""
    if not done.cancelled():
        done.exception()


def _outlived(session: View, rules: Policy) -> bool:
    """Return whether a session's log may have been removed, by this process's clock: the record store knows."""
    kept_us = rules.session_log_s * 1_000_000
    return bool(kept_us and session.version and session.committed_at_us + kept_us <= time.time_ns() // 1000)


def _wanted(
    rules: Policy | None, include: frozenset[bundle_pb2.Source], subject: str, query: str
) -> frozenset[bundle_pb2.Source]:
    """Return the sources of memory that are shown; with `rules` None, as far as it is known."""
    if not subject:
        return frozenset()
    allowed = frozenset(_MEMORY) if rules is None else rules.sources.keys() & _MEMORY
    asked = allowed if query.strip() else allowed - RANKED
    return frozenset(asked & include if include else asked)


def _ranked(wanted: frozenset[bundle_pb2.Source], memory: _Remembered) -> list[bundle_pb2.Source]:
    """Return the sources in which the query looks for something."""
    if memory.items is None:
        return []
    there = {
        RECALL: True,
        FACTS: memory.items.facts.count > 0,
        DOCUMENTS: memory.items.documents.count > 0 or (memory.library and memory.library.documents.count > 0),
    }
    return [source for source in _MEMORY if source in wanted and there.get(source)]


def _is_new(served: bundle_pb2.Bundle, candidates: Candidates | None) -> bool:
    """Return whether a bundle, or what it says of itself, holds anything that release 0.2.0 did not know."""
    kinds = {one.source for one in (*served.sections, *served.omission_counts)}
    return bool(kinds & {PROFILE, FACTS, DOCUMENTS}) or bool(candidates and candidates.folded)


def _spare_s(deadline: Deadline) -> float:
    """Return how long an optional phase may take, in seconds: what is left, less what the finish needs."""
    left_s = deadline - time.monotonic()
    return max(0.0, left_s - max(_FINISH_S_MIN, left_s * _FINISH_SHARE))


def _degradations(receipt: Receipt) -> list[context_pb2.Degradation]:
    return [context_pb2.Degradation(source=_SOURCE[source], cause=cause) for source, cause in receipt.degraded]
