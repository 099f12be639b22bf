"""Metrics and logs. Neither ever carries content: no text, no query, no tenant, session or subject id as a label.

One `Telemetry` a process, with a registry of its own, so that two servers in one process (tests) do not meet.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHARE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_FACTS = (0, 1, 4, 16, 64, 256, 1024, 4096)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)


class Log:
    """Structured logs, one JSON object a line. Fields are figures, names and reasons: callers pass no content."""

    def __init__(self, stream: IO[str] | None = None, *, level: str = "info") -> None:
        self._stream = stream or sys.stderr
        self._level = logging.getLevelNamesMapping()[level.upper()]

    def info(self, event: str, **fields: Any) -> None:
        """Write one line of what is normal."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write one line of what an operator may want to look at."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write one line of what an operator must look at."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if logging.getLevelNamesMapping()[level.upper()] >= self._level:
            line = {"at": round(time.time(), 3), "level": level, "event": event, **fields}
            print(json.dumps(line, default=str), file=self._stream, flush=True)


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """What is told of the work orders of one kind (`sidecar.orders`)."""

    lag_items: Gauge
    lag_seconds: Gauge
    parked: Gauge
    failures: Counter


class Telemetry:
    """Everything that is counted. The names are the public interface; each says its unit."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or Log()
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"standpipe_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"standpipe_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"standpipe_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.calls = counter("calls_total", "Finished calls.", "method", "status", "reason")
        self.call_seconds = histogram("call_seconds", "Time of a call in the servicer.", _SECONDS, "method")
        self.authentications = counter("authentications_total", "Calls whose credential was looked at.", "outcome")
        self.authority_calls = counter(
            "authority_calls_total", "Calls of what vouches for callers' tokens: keys read, tokens reviewed.", "outcome"
        )
        self.mounted_taken_up = counter("mounted_taken_up_total", "Changed files that were taken up.", "setting")
        self.mounted_refused = counter(
            "mounted_refused_total", "Changed files that were wrong; the old stay in force.", "setting"
        )
        self.phase_seconds = histogram("hydrate_phase_seconds", "Time of a phase of a hydrate.", _SECONDS, "phase")
        self.hydrates_in_flight = gauge("hydrates_in_flight", "Hydrates at work.")
        self.bundle_tokens = histogram("bundle_tokens", "Tokens of a source in a bundle.", _TOKENS, "source")
        self.token_tax = histogram("token_tax_tokens", "Tokens of a whole bundle.", _TOKENS)
        self.tokens_saved = counter("tokens_saved_total", "Transcript tokens that bundles did not carry.")
        self.stable_tokens = counter("stable_tokens_total", "Bundle tokens that stand before recall.")
        self.recalls = counter("recalls_total", "Hydrates that searched memory.", "outcome")
        self.recalled_items = counter("recalled_items_total", "Items that recall put into bundles.")
        self.subject_facts = histogram("subject_facts", "Facts of a subject when they are searched.", _FACTS, "status")
        self.recall_folded = counter(
            "recall_folded_total", "Recalled items that were folded into one that says the same."
        )
        self.degraded = counter("degraded_total", "Hydrates with a missing source.", "source", "cause")
        self.commits = counter("commits_total", "Turns that were appended.")
        self.commit_conflicts = counter("commit_conflicts_total", "Commits that lost their version.")
        self.commit_replays = counter("commit_replays_total", "Commits that had been committed before.")
        self.facts = counter("facts_total", "Claims that were recorded, by what became of them.", "outcome")
        self.documents = counter("documents_total", "Versions of documents that were ingested.")
        self.replays = counter("replays_total", "Bundles that were rendered again.", "outcome")
        self.hot_hits = counter("hot_hits_total", "Views found in the hot store.")
        self.hot_misses = counter("hot_misses_total", "Views not found in the hot store.")
        self.hot_failures = counter("hot_failures_total", "Calls of the hot store that failed; others answered.")
        self.hot_adoptions = counter("hot_adoptions_total", "Hot servers that this process saw trusted anew.")
        self.hot_revocations = counter("hot_revocations_total", "Hot servers that lost their trust to a commit here.")
        self.commit_lease_waits = counter("commit_lease_waits_total", "Commits that waited for leases to end.")
        self.projections = OrderFigures(
            gauge("projection_lag_items", "Items that wait for their vector.", "model"),
            gauge("projection_lag_seconds", "Age of the oldest item without its vector.", "model"),
            gauge("projection_parked", "Work orders that were parked after too many failures.", "model"),
            counter("projection_failures_total", "Projection steps and work orders that failed.", "model"),
        )
        self.embedding_ranks = gauge("embedding_ranks", "1 for the model that recall ranks by, else 0.", "model")
        self.model_switches = counter("model_switches_total", "Moves of recall to another model that were made here.")
        kind = ("model", "kind")
        self.embed_waiting_texts = gauge("embed_waiting_texts", "Texts that wait for the embedder.", *kind)
        self.embed_waiting_tokens = gauge("embed_waiting_tokens", "Their tokens.", *kind)
        self.embedded_texts = counter("embedded_texts_total", "Texts that were embedded.", *kind)
        self.embedded_tokens = counter("embedded_tokens_total", "Their tokens.", *kind)
        self.embed_fill = histogram("embed_fill_share", "Share of tokens that no padding is, of a run.", _SHARE, *kind)
        self.embed_run_seconds = histogram("embed_run_seconds", "Time of a run of the embedder.", _SECONDS, *kind)
        self.embed_dropped_texts = counter(
            "embed_dropped_texts_total",
            "Texts that were not run: their caller had left, was late or had failed.",
            *kind,
        )
        self.embed_refused_texts = counter(
            "embed_refused_texts_total", "Texts that were refused: too much waited for the embedder.", *kind
        )
        self.projected_items = counter("projected_items_total", "Items that were given their vector.")
        self.extraction = OrderFigures(
            gauge("extraction_lag_items", "Items that the extraction has not seen."),
            gauge("extraction_lag_seconds", "Age of the oldest item that the extraction has not seen."),
            gauge("extraction_parked", "Extraction orders that were parked after too many failures."),
            counter("extraction_failures_total", "Extraction steps and orders that failed."),
        )
        self.extracted_turns = counter("extracted_turns_total", "Turns that were shown to the endpoint.")
        self.extraction_claims = counter("extraction_claims_total", "Claims that were recorded.", "outcome")
        self.extraction_refused = counter("extraction_refused_total", "Proposals that were refused.", "cause")
        self.trivial_items = counter("items_trivial_total", "Items that say nothing, and were given no vector.")
        self.unembeddable_items = counter("unembeddable_items_total", "Items that the model could not embed.")
        self.record_sessions = gauge("record_sessions", "Sessions that have a log, about.")
        self.record_events = gauge("record_events", "Events in the record store, about.")
        self.record_items = gauge("record_items", "Recall items in the record store, about.")
        self.record_log_bytes = gauge("record_log_bytes", "Bytes of the log in the record store, about.")
        self.swept_sessions = counter("swept_sessions_total", "Sessions whose log was removed: its time had passed.")
        self.sweep_failures = counter("sweep_failures_total", "Sessions whose log could not be removed, or forgotten.")
        self.sweep_lag_seconds = gauge("sweep_lag_seconds", "For how long a log has outstayed its time, at most.")
        self.expired_records = counter(
            "expired_records_total", "Records of state that were removed: their time had passed."
        )
        self.erasures = counter("erasures_total", "Erasures that this process finished.")
        self.erasure_failures = counter("erasure_failures_total", "Attempts to finish an erasure that failed.")
        self.embedder_calls = counter(
            "embedder_calls_total", "Calls of a shared embedder that ended.", "address", "outcome"
        )
        self.embedder_models = gauge(
            "embedder_models", "Models that a shared embedder lists, by what computes them.", "address", "provider"
        )
        self.embedder_breaker_open = gauge(
            "embedder_breaker_open", "1 while a shared embedder is left alone, since it failed.", "address"
        )
        self.embedder_hedges = counter("embedder_hedges_total", "Queries that were sent to a second replica too.")
        self.embedder_hedges_won = counter("embedder_hedges_won_total", "Those that the second replica answered first.")
        self.embedder_fallbacks = counter("embedder_fallbacks_total", "Calls that the local model answered instead.")
        self.block_cache_bytes = gauge("block_cache_bytes", "Memory of cached recall blocks.")
        self.heartbeat_seconds = gauge("event_loop_lag_seconds", "How late the event loop's last heartbeat was.")
        self.info = gauge("build_info", "Constant 1; what runs, in labels.", "version", "record", "hot", "provider")

    def projection(self, model: str) -> OrderFigures:
        """Return what is told of the projection of one embedding model."""
        every = self.projections
        return OrderFigures(
            every.lag_items.labels(model),
            every.lag_seconds.labels(model),
            every.parked.labels(model),
            every.failures.labels(model),
        )
