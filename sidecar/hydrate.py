"""HydrateContext: plan, look up, rank, fit, render; and ReplayContext, which does the same from a receipt.

The query's embedding starts first and runs beside the lookups. Each store is asked at most once: the hot store for
the session's tail, and, unless that is known to be the newest and nothing is to be recalled, the record store, in one
batch, for the route, for what the session has that the view does not, and for what the subject's memory has that the
cached block does not. A session or subject that is not cached yet costs a load.

Everything behind the lookups is `bundle.assemble`, a pure function. A receipt names its inputs, so replaying is
looking up the same inputs again, as they were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from sidecar import bundle, limits, policy, recall, segment, validate, view
from sidecar.embed import EmbedQueue, Vector
from sidecar.errors import (
    DeadlineExceeded,
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
from sidecar.policy import HISTORY, RECALL, Policy
from sidecar.receipt import Receipt, Signer, Token
from sidecar.scope import Candidates, ScopeMemory, Scopes, base_of
from sidecar.sessions import Look, Sessions
from sidecar.stores.hot import HotKey
from sidecar.stores.record import Deadline, Read, Record, RouteRead, ScopeState, SessionState, StoredRoute
from sidecar.telemetry import Telemetry
from sidecar.tokens import Tokenizers
from sidecar.view import View
from standpipe.v1 import bundle_pb2, context_pb2

_FINISH_SHARE = 0.3
"""The share of the time left that is kept for ranking, fitting and rendering; at least `_FINISH_S_MIN`."""

_FINISH_S_MIN = 0.004

_SOURCE: Mapping[int, bundle_pb2.Source] = {int(source): source for source in bundle_pb2.Source.values()}

_SOURCE_NAMES = {source: bundle_pb2.Source.Name(source).removeprefix("SOURCE_").lower() for source in _SOURCE if source}

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
class _Inputs:
    """What there is for a plan."""

    rules: Policy
    session: View
    memory: ScopeMemory | None
    """None when recall is not wanted, or could not be had."""
    position: int
    """The last item that this hydrate may see."""


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
        leases: Leases,
        tokenizers: Tokenizers,
        embedder: EmbedQueue | None,
        model_id: str,
        signer: Signer,
        telemetry: Telemetry,
    ) -> None:
        self._record = record
        self._sessions = sessions
        self._scopes = scopes
        self._leases = leases
        self._tokenizers = tokenizers
        self._embedder = embedder
        self._model_id = model_id
        self._signer = signer
        self._telemetry = telemetry
        self._frames: dict[str, bundle.Frames] = {}
        # Kept, since looking a child up by its label costs more than counting.
        phases = ("hot", "record", "embed", "rank", "render", "total")
        self._phase_seconds = {phase: telemetry.phase_seconds.labels(phase) for phase in phases}
        self._bundle_tokens = {source: telemetry.bundle_tokens.labels(name) for source, name in _SOURCE_NAMES.items()}
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
            rules, session, memory, position = inputs.rules, inputs.session, inputs.memory, inputs.position
            wanted = memory is not None and RECALL in rules.sources and _included(plan.include, RECALL)
            if wanted and embedding is None:  # the route has just moved to a policy that recalls
                embedding = self._start_embedding(plan, deadline)
            query = await self._query(plan, rules, embedding if wanted else None, deadline, clock, degraded)
        finally:
            if embedding is not None:
                embedding.cancel()
        receipt = Receipt(
            tenant=plan.tenant,
            session=plan.session,
            subject=session.subject,
            policy_name=rules.name,
            policy_version=rules.version,
            tokenizer=session.tokenizer,
            version=session.version,
            position=position if wanted and memory else 0,
            vector_position=min(memory.vector_position, position) if wanted and memory else 0,
            model=self._model_id if query.vector is not None else "",
            total_tokens=plan.total_tokens or 0,
            caps=tuple(sorted(plan.caps.items())),
            include=tuple(sorted(plan.include)),
            query=plan.query,
            query_vector=recall.pack_vector(query.vector, query.scale) if query.vector is not None else b"",
            degraded=tuple(degraded.causes),
            served_at_us=time.time_ns() // 1000,
            epoch=memory.epoch if wanted and memory else 0,
        )
        answer = context_pb2.HydrateContextResponse()
        candidates = await self._assemble(
            receipt, rules, session, memory if wanted else None, query, into=answer.bundle, clock=clock
        )
        self._complete(answer, plan, receipt, session, candidates, clock, position)
        return answer

    async def replay(
        self, tenant: str, request: context_pb2.ReplayContextRequest, *, deadline: Deadline
    ) -> context_pb2.ReplayContextResponse:
        """Render a past bundle again. Raises ReceiptInvalid, and ReplayUnavailable when its inputs are gone."""
        receipt = self._signer.open(request.receipt, tenant=tenant, field_name="receipt")
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = context_pb2.ReplayContextResponse(session_id=receipt.session, subject_id=receipt.subject)
                epoch = await self._replay(receipt, into=answer.bundle, all_omissions=request.all_omissions)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the bundle was rendered", phase="replay") from None
        outcome = "equal" if answer.bundle.fingerprint == receipt.fingerprint else "different"
        self._telemetry.replays.labels(outcome).inc()
        if outcome == "different" and epoch != receipt.epoch:
            raise ReplayUnavailable(
                "memory that the bundle saw is gone: erased, or its time had passed", missing="items"
            )
        if outcome == "different":
            self._telemetry.log.error("a replayed bundle differs", policy=answer.bundle.policy)
            raise ReplayUnavailable("the stored state no longer gives the bundle that was served", missing="state")
        answer.degraded.extend(_degradations(receipt))
        answer.served_at.FromMicroseconds(receipt.served_at_us)
        return answer

    async def _replay(self, receipt: Receipt, *, into: bundle_pb2.Bundle, all_omissions: bool) -> int:
        """Render the bundle; return the epoch of the memory that was at hand."""
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
        memory = None
        if receipt.position:
            memory = await self._scopes.at(
                receipt.tenant, receipt.subject, position=receipt.position, model=receipt.model or self._model_id
            )
            if memory.position < receipt.position or memory.vector_position < receipt.vector_position:
                raise ReplayUnavailable("memory that the bundle saw is gone", missing="items")
        query = recall.Query.of(receipt.query)
        if receipt.query_vector:
            query = recall.Query(receipt.query, query.terms, *recall.unpack_vector(receipt.query_vector))
        omissions_max = (1 << 30) if all_omissions else limits.omissions_listed_max
        await self._assemble(receipt, rules, session, memory, query, into=into, omissions_max=omissions_max)
        return memory.epoch if memory else 0

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

    def _start_embedding(self, plan: _Plan, deadline: Deadline) -> asyncio.Task[Vector] | None:
        """Start the query's embedding beside everything else."""
        if self._embedder is None or not plan.query.strip() or not _included(plan.include, RECALL):
            return None
        rules = self._leases.policies.nearest(plan.tenant, plan.route)
        if rules is not None and RECALL not in rules.sources:
            return None
        task = asyncio.create_task(self._embedder.embed_query(plan.query, deadline_s=_spare_s(deadline)))
        task.add_done_callback(_seen)
        return task

    async def _look_up(self, plan: _Plan, deadline: Deadline, clock: _Clock, degraded: _Degraded) -> _Inputs:
        """Read the policy, the session's view and the subject's memory, from as few places as will do."""
        rules = self._leases.policies.nearest(plan.tenant, plan.route)
        tokenizer = _counted_as(plan, rules) if rules else plan.tokenizer or self._tokenizers.written[0]
        near = self._sessions.held(plan.tenant, plan.session, tokenizer)
        subject = plan.subject or (near.subject if near else "")
        memory = self._scopes.held(plan.tenant, subject) if _wants_recall(plan, subject, rules) else None
        look = Look(key=HotKey(plan.tenant, plan.session, tokenizer), view=near)
        # Recall asks the record store anyway, in one trip with all else: then the hot store has nothing to add.
        if near is None or memory is None or plan.nearest:
            since = time.perf_counter_ns()
            ttl_s = rules.session_hot_s if rules else None
            look = await self._sessions.look(plan.tenant, plan.session, tokenizer, ttl_s=ttl_s, deadline=deadline)
            clock.add("hot", since)
        at_hand = self._at_hand(plan, look, tokenizer)
        if at_hand is not None:
            return at_hand
        if rules is None or not (rules.stale or plan.nearest) or plan.fully or plan.exactly:
            return await self._ask_record(plan, look, memory, deadline, clock, degraded)
        try:
            async with asyncio.timeout(_spare_s(deadline)):
                return await self._ask_record(plan, look, memory, deadline, clock, degraded)
        except (StoreUnavailable, DeadlineExceeded, TimeoutError):
            if (
                look.view is None
                or _outlived(look.view, rules)
                or (plan.at_least is not None and look.view.version < plan.at_least.version)
            ):
                raise
        self._telemetry.log.warning("record store not reached; an old view is shown")
        degraded.add(HISTORY, "stale")
        if _wants_recall(plan, look.view.subject, rules):
            degraded.add(RECALL, "stale" if memory else "store_unavailable")
        return _Inputs(rules, self._owned(look.view, plan), memory, memory.position if memory else 0)

    def _at_hand(self, plan: _Plan, look: Look, tokenizer: str) -> _Inputs | None:
        """Return what can be shown without asking the record store, if that is fresh enough for this request."""
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
        memory = None
        if _wants_recall(plan, session.subject, rules):
            memory = self._scopes.held(plan.tenant, session.subject)
            if memory is None or not plan.nearest or memory.read_at < heard_since:
                return None
        return _Inputs(rules, self._owned(session, plan), memory, memory.position if memory else 0)

    async def _ask_record(
        self,
        plan: _Plan,
        look: Look,
        memory: ScopeMemory | None,
        deadline: Deadline,
        clock: _Clock,
        degraded: _Degraded,
    ) -> _Inputs:
        """Ask the record store, in one trip, for the route and what the session and the memory have gained."""
        since = time.perf_counter_ns()
        tokenizer = look.key.tokenizer
        at = plan.exactly.version if plan.exactly else None
        session_read = self._sessions.read(plan.tenant, plan.session, tokenizer, look.view, at=at)
        reads: list[Read] = [RouteRead(tenant=plan.tenant, name=plan.route), session_read]
        scope_read = memory.read() if memory is not None else None
        if scope_read is not None:
            reads.append(scope_read)
        asked_at = time.monotonic()
        answers = await self._record.fetch(reads, deadline=deadline)
        route = cast("StoredRoute | None", answers[0])
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
        if memory is not None and scope_read is not None:
            memory = await self._scopes.settle(memory, scope_read, cast(ScopeState, answers[2]))
        clock.add("record", since)
        if memory is None and _wants_recall(plan, session.subject, rules):
            memory = await self._cold_memory(plan.tenant, session.subject, deadline, clock, degraded)
        if memory is None:
            return _Inputs(rules, session, None, 0)
        position = memory.position
        if plan.exactly is not None:
            position = plan.exactly.position
            if memory.base != base_of(position):
                memory = await self._scopes.at(plan.tenant, session.subject, position=position, model=self._model_id)
        if memory.base and RECALL in rules.sources:
            degraded.add(RECALL, "items_max")
        return _Inputs(rules, session, memory, position)

    async def _cold_memory(
        self, tenant: str, subject: str, deadline: Deadline, clock: _Clock, degraded: _Degraded
    ) -> ScopeMemory | None:
        """Load a subject's memory, as far as the deadline allows; the load goes on for the next hydrate."""
        since = time.perf_counter_ns()
        try:
            async with asyncio.timeout(_spare_s(deadline)):
                return await self._scopes.load(tenant, subject)
        except TimeoutError:
            degraded.add(RECALL, "store_timed_out")
        except StandpipeError as error:
            self._telemetry.log.warning("memory not loaded", reason=error.reason)
            degraded.add(RECALL, "store_unavailable")
        finally:
            clock.add("record", since)
        return None

    async def _query(
        self,
        plan: _Plan,
        rules: Policy,
        embedding: asyncio.Task[Vector] | None,
        deadline: Deadline,
        clock: _Clock,
        degraded: _Degraded,
    ) -> recall.Query:
        """Return the query with its vector, or without one if it does not come in time."""
        if not plan.query.strip():
            return recall.Query.of("")
        if embedding is None:
            if self._embedder is None and RECALL in rules.sources and _included(plan.include, RECALL):
                degraded.add(RECALL, "embedder_off")
            return recall.Query.of(plan.query)
        since = time.perf_counter_ns()
        try:
            async with asyncio.timeout(min(rules.embed_ms / 1000, _spare_s(deadline))):
                return recall.Query.of(plan.query, await asyncio.shield(embedding))
        except (TimeoutError, DeadlineExceeded):
            degraded.add(RECALL, "embedding_timed_out")
        except StandpipeError as error:
            self._telemetry.log.warning("query not embedded", reason=error.reason)
            degraded.add(RECALL, "embedding_failed")
        finally:
            clock.add("embed", since)
        return recall.Query.of(plan.query)

    async def _assemble(
        self,
        receipt: Receipt,
        rules: Policy,
        session: View,
        memory: ScopeMemory | None,
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
        candidates = None
        if memory is not None and query.text:
            rank = partial(
                memory.rank,
                query,
                position=receipt.position,
                vector_position=receipt.vector_position,
                tokenizer=session.tokenizer,
                count=frames.count,
                session=session.session,
                floor=rules.recall_floor,
            )
            if receipt.position - memory.base <= _RANK_INLINE_ITEMS:
                candidates = rank()
            else:
                async with memory.lock:
                    candidates = await asyncio.to_thread(rank)
        clock.add("rank", since)
        since = time.perf_counter_ns()
        bundle.assemble(rules, allocation, session, candidates, frames=frames, omissions_max=omissions_max, into=into)
        clock.add("render", since)
        return candidates

    def _complete(
        self,
        answer: context_pb2.HydrateContextResponse,
        plan: _Plan,
        receipt: Receipt,
        session: View,
        candidates: Candidates | None,
        clock: _Clock,
        position: int,
    ) -> None:
        """Put beside the bundle what tells of it: receipt, token, times, costs."""
        served = answer.bundle
        answer.receipt = self._signer.seal(replace(receipt, fingerprint=served.fingerprint))
        answer.consistency_token = self._signer.token(
            tenant=plan.tenant,
            session=plan.session,
            version=session.version,
            position=max(position, session.position_end),
        )
        answer.degraded.extend(_degradations(receipt))
        answer.token_tax.bundle_tokens = served.tokens
        answer.token_tax.transcript_tokens = session.transcript_tokens
        answer.token_tax.stable_tokens = sum(one.tokens for one in served.sections if one.source != RECALL)
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
        for item in answer.degraded:
            telemetry.degraded.labels(_SOURCE_NAMES[item.source], item.cause).inc()

    def _owned(self, session: View, plan: _Plan) -> View:
        """Check that the session is the subject's that the request names."""
        if plan.subject and session.subject != plan.subject:
            raise SubjectMismatch("the session belongs to another subject")
        return session


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


def _wants_recall(plan: _Plan, subject: str, rules: Policy | None) -> bool:
    """Return whether recall is asked for; with `rules` None, as far as it is known."""
    allowed = rules is None or RECALL in rules.sources
    return allowed and bool(subject and plan.query.strip()) and _included(plan.include, RECALL)


def _included(include: frozenset[bundle_pb2.Source], source: bundle_pb2.Source) -> bool:
    return not include or source in include


def _spare_s(deadline: Deadline) -> float:
    """Return how long an optional phase may take, in seconds: what is left, less what the finish needs."""
    left_s = deadline - time.monotonic()
    return max(0.0, left_s - max(_FINISH_S_MIN, left_s * _FINISH_SHARE))


def _degradations(receipt: Receipt) -> list[context_pb2.Degradation]:
    return [context_pb2.Degradation(source=_SOURCE[source], cause=cause) for source, cause in receipt.degraded]
