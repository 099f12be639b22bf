"""Write the chart's Grafana dashboard, standpipe/files/dashboard.json: `make chart-docs` runs it.

A panel is a title, a unit of Grafana's, and its queries with their legends; rows of three fill the page from above.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "standpipe" / "files" / "dashboard.json"
WIDTH, HEIGHT, ACROSS = 24, 8, 3
OF = 'namespace=~"$namespace",pod=~"$pod"'
"""What every query is narrowed to; `%` stands for it below, and `@` for the time that a rate is taken over."""

Query = tuple[str, str]
Panel = tuple[str, str, list[Query]]


def quantile(share: float, metric: str, *by: str) -> str:
    """Return the query of a quantile of a histogram."""
    return f"histogram_quantile({share}, sum by ({', '.join((*by, 'le'))}) (rate({metric}_bucket{{%}}[@])))"


def per_second(metric: str, *by: str, where: str = "%") -> str:
    """Return the query of a counter's rate over all pods, by labels of its own."""
    over = f" by ({', '.join(by)})" if by else ""
    return f"sum{over} (rate({metric}{{{where}}}[@]))"


CALLS, HOT = "standpipe_calls_total", "standpipe_hot"
HITS, MISSES = per_second(f"{HOT}_hits_total"), per_second(f"{HOT}_misses_total")
ROWS: dict[str, list[Panel]] = {
    "Calls": [
        ("Calls", "reqps", [(per_second(CALLS, "method"), "{{method}}")]),
        ("Calls that fail", "reqps", [(per_second(CALLS, "reason", where='%,reason!=""'), "{{reason}}")]),
        ("Slowest call of a hundred", "s", [(quantile(0.99, "standpipe_call_seconds", "method"), "{{method}}")]),
        ("Hydrates at work", "short", [("sum by (pod) (standpipe_hydrates_in_flight{%})", "{{pod}}")]),
        (
            "Phases of the slowest hydrate of a hundred",
            "s",
            [(quantile(0.99, "standpipe_hydrate_phase_seconds", "phase"), "{{phase}}")],
        ),
        (
            "Event loop's lateness",
            "s",
            [("max by (pod) (max_over_time(standpipe_event_loop_lag_seconds{%}[@]))", "{{pod}}")],
        ),
    ],
    "Callers": [
        ("Credentials", "reqps", [(per_second("standpipe_authentications_total", "outcome"), "{{outcome}}")]),
        (
            "Questions to who vouches",
            "reqps",
            [(per_second("standpipe_authority_calls_total", "outcome"), "{{outcome}}")],
        ),
        (
            "Changed files",
            "short",
            [
                ("sum by (setting) (increase(standpipe_mounted_taken_up_total{%}[@]))", "{{setting}}, taken up"),
                ("sum by (setting) (increase(standpipe_mounted_refused_total{%}[@]))", "{{setting}}, refused"),
            ],
        ),
    ],
    "Bundles": [
        (
            "Tokens of a bundle",
            "short",
            [
                (quantile(0.5, "standpipe_token_tax_tokens"), "median"),
                (quantile(0.95, "standpipe_token_tax_tokens"), "95 of 100"),
            ],
        ),
        ("Tokens of a source, median", "short", [(quantile(0.5, "standpipe_bundle_tokens", "source"), "{{source}}")]),
        (
            "Tokens saved and stable",
            "short",
            [
                (per_second("standpipe_tokens_saved_total"), "not carried, a second"),
                (per_second("standpipe_stable_tokens_total"), "before recall, a second"),
            ],
        ),
        (
            "Missing from bundles",
            "reqps",
            [(per_second("standpipe_degraded_total", "source", "cause"), "{{source}}: {{cause}}")],
        ),
        ("Searches of memory", "reqps", [(per_second("standpipe_recalls_total", "outcome"), "{{outcome}}")]),
        (
            "Items in bundles",
            "short",
            [
                (per_second("standpipe_recalled_items_total"), "recalled, a second"),
                (per_second("standpipe_recall_folded_total"), "folded, a second"),
            ],
        ),
    ],
    "Commits and stores": [
        (
            "Commits",
            "reqps",
            [
                (per_second("standpipe_commits_total"), "appended"),
                (per_second("standpipe_commit_conflicts_total"), "lost their version"),
                (per_second("standpipe_commit_replays_total"), "had been committed"),
                (per_second("standpipe_commit_lease_waits_total"), "waited for leases"),
            ],
        ),
        (
            "Views found in the hot store",
            "percentunit",
            [(f"{HITS} / ({HITS} + {MISSES})", "found")],
        ),
        (
            "Trouble with the hot store",
            "short",
            [
                (per_second(f"{HOT}_failures_total"), "failures, a second"),
                (f"sum (increase({HOT}_revocations_total{{%}}[@]))", "lost trust"),
                (f"sum (increase({HOT}_adoptions_total{{%}}[@]))", "trusted anew"),
            ],
        ),
        (
            "What the record store holds",
            "short",
            [
                ("max (standpipe_record_sessions{%})", "sessions"),
                ("max (standpipe_record_events{%})", "events"),
                ("max (standpipe_record_items{%})", "items"),
            ],
        ),
        ("Log in the record store", "bytes", [("max (standpipe_record_log_bytes{%})", "log")]),
        ("Cached recall blocks", "bytes", [("sum by (pod) (standpipe_block_cache_bytes{%})", "{{pod}}")]),
    ],
    "Embedding": [
        (
            "Tokens that wait for an embedder",
            "short",
            [("sum by (model, kind) (standpipe_embed_waiting_tokens{%})", "{{model}} {{kind}}")],
        ),
        (
            "Tokens embedded, a second",
            "short",
            [(per_second("standpipe_embedded_tokens_total", "model", "kind"), "{{model}} {{kind}}")],
        ),
        (
            "Texts not embedded",
            "short",
            [
                (per_second("standpipe_embed_refused_texts_total", "kind"), "refused, a second: {{kind}}"),
                (per_second("standpipe_embed_dropped_texts_total", "kind"), "dropped, a second: {{kind}}"),
            ],
        ),
        (
            "Age of the oldest item without a vector",
            "s",
            [("max by (model) (standpipe_projection_lag_seconds{%})", "{{model}}")],
        ),
        (
            "Items without a vector",
            "short",
            [
                ("max by (model) (standpipe_projection_lag_items{%})", "{{model}}"),
                ("max by (model) (standpipe_projection_parked{%})", "{{model}}, given up"),
            ],
        ),
        (
            "Calls of shared embedders",
            "reqps",
            [
                (per_second("standpipe_embedder_calls_total", "address", "outcome"), "{{address}}: {{outcome}}"),
                (per_second("standpipe_embedder_fallbacks_total"), "answered by the local model"),
                (per_second("standpipe_embedder_hedges_total"), "sent to a second replica"),
            ],
        ),
        (
            "Shared embedders left alone",
            "short",
            [("sum by (address) (standpipe_embedder_breaker_open{%})", "{{address}}")],
        ),
        (
            "Longest run of a hundred",
            "s",
            [(quantile(0.99, "standpipe_embed_run_seconds", "model", "kind"), "{{model}} {{kind}}")],
        ),
        (
            "Share of a run that is no padding, median",
            "percentunit",
            [(quantile(0.5, "standpipe_embed_fill_share", "model", "kind"), "{{model}} {{kind}}")],
        ),
    ],
    "Facts, documents and removal": [
        ("Facts recorded", "short", [(per_second("standpipe_facts_total", "outcome"), "{{outcome}}, a second")]),
        (
            "Extraction",
            "s",
            [("max (standpipe_extraction_lag_seconds{%})", "age of the oldest item not seen")],
        ),
        (
            "Extraction's failures",
            "short",
            [
                (per_second("standpipe_extraction_failures_total"), "failed, a second"),
                (per_second("standpipe_extraction_refused_total", "cause"), "refused, a second: {{cause}}"),
                ("max (standpipe_extraction_parked{%})", "given up"),
            ],
        ),
        ("Logs past their time", "s", [("max (standpipe_sweep_lag_seconds{%})", "the oldest")]),
        (
            "Erasures",
            "short",
            [
                ("sum (increase(standpipe_erasures_total{%}[@]))", "finished"),
                ("sum (increase(standpipe_erasure_failures_total{%}[@]))", "attempts that failed"),
            ],
        ),
        (
            "Pods by release",
            "short",
            [("count by (version, provider) (standpipe_build_info{%})", "{{version}}, embeds by {{provider}}")],
        ),
    ],
}

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(title: str, unit: str, queries: list[Query], *, number: int, at: dict[str, int]) -> dict[str, Any]:
    """Return a panel of lines."""
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query.replace("%", OF).replace("@", "$__rate_interval"),
                "legendFormat": legend,
            }
            for place, (query, legend) in enumerate(queries)
        ],
    }


def variable(name: str, query: str) -> dict[str, Any]:
    """Return a choice of the page's head among the values of a label."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """Return the whole page."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, inside in ROWS.items():
        at = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row, "gridPos": at, "collapsed": False, "panels": []}
        )
        y += 1
        for place, (title, unit, queries) in enumerate(inside):
            width = WIDTH // ACROSS
            at = {"x": place % ACROSS * width, "y": y + place // ACROSS * HEIGHT, "w": width, "h": HEIGHT}
            panels.append(panel(title, unit, queries, number=len(panels) + 1, at=at))
        y += -(-len(inside) // ACROSS) * HEIGHT
    namespaces = "label_values(standpipe_build_info, namespace)"
    pods = 'label_values(standpipe_build_info{namespace=~"$namespace"}, pod)'
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "standpipe",
        "title": "Standpipe",
        "tags": ["standpipe"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source, variable("namespace", namespaces), variable("pod", pods)]},
        "panels": panels,
    }


def text() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
