"""Alerts and dashboard speak of metrics that there are; each alert fires when it should, alone, and has its section."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from sidecar.telemetry import Telemetry
from standpipe.v1 import context_pb2, embedding_pb2, error_pb2, memory_pb2, policy_pb2, session_pb2
from tests.k8s import tools

ALERTS = yaml.safe_load((tools.CHART / "files" / "alerts.yaml").read_text())
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((tools.CHART / "files" / "dashboard.json").read_text())
RUNBOOK = tools.ROOT / "k8s" / "docs" / "runbook.md"
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    **{name: rule["expr"] for name, rule in RULES.items()},
    **{f"{panel['title']} {at['refId']}": at["expr"] for panel in PANELS for at in panel["targets"]},
}
EVERYWHERE = {"namespace", "pod", "job", "le"}
"""Labels that Prometheus gives a series, and a histogram's own."""


def every_series() -> dict[str, set[str]]:
    """Return the labels of every metric of the registry, by the names of its series."""
    found: dict[str, set[str]] = {}
    registry = Telemetry().registry
    for collector, names in registry._collector_to_names.items():
        found |= {name: set(collector._labelnames) for name in names}
    return found


SERIES = every_series()


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", QUERIES)
def test_queries_name_metrics_and_labels_that_there_are(which: str) -> None:
    """No alert and no panel waits for a series, or a label, that no release publishes."""
    query = QUERIES[which]
    metrics = set(re.findall(r"standpipe_\w+", query))
    assert metrics or "up{" in query
    assert metrics <= set(SERIES), which
    known = EVERYWHERE.union(*(SERIES[name] for name in metrics))
    for metric, matchers in re.findall(r"(standpipe_\w+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)\s*(?:=|!)", matchers):
            assert label in SERIES[metric] | EVERYWHERE, (which, metric, label)
    for labels in re.findall(r"(?:by|on)\s*\(([^)]*)\)", query):
        assert set(re.findall(r"\w+", labels)) <= known, which


def test_values_of_labels_are_ones_that_there_are() -> None:
    """A reason, a status, a method or a cause in a query is one that the server gives."""
    services = [
        service
        for module in (context_pb2, embedding_pb2, memory_pb2, policy_pb2, session_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    known = {
        "reason": {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()},  # noqa: SIM118
        "status": {code.name for code in grpc.StatusCode},
        "method": {method.name for service in services for method in service.methods},
        "outcome": set(re.findall(r'outcome\("(\w+)"\)', (tools.ROOT / "sidecar" / "callers.py").read_text())),
        "cause": set(re.findall(r'"([a-z_]+)"', (tools.ROOT / "sidecar" / "hydrate.py").read_text())),
    }
    seen = 0
    for which, query in QUERIES.items():
        for label, values in re.findall(r'(reason|status|method|outcome|cause)[!=]~?"([^"]*)"', query):
            for value in filter(None, values.split("|")):
                assert value in known[label], (which, value)
                seen += 1
    assert seen > 15


def test_an_unknown_metric_would_be_seen() -> None:
    """The names are those of the registry: of counters, gauges and parts of histograms."""
    assert {"standpipe_calls_total", "standpipe_call_seconds_bucket", "standpipe_sweep_lag_seconds"} <= set(SERIES)
    assert SERIES["standpipe_calls_total"] == {"method", "status", "reason"}
    assert "standpipe_calls" not in {name for name in SERIES if name.endswith("_total")}


# --- the dashboard -------------------------------------------------------------------------------------------------


def test_the_dashboard_is_what_its_script_writes() -> None:
    """Nobody changes the page by hand and loses it at the next change."""
    script = runpy.run_path(str(tools.ROOT / "k8s" / "chart" / "dashboard.py"))
    assert (tools.CHART / "files" / "dashboard.json").read_text() == script["text"]()


def test_the_dashboard_is_whole() -> None:
    """Panels have a unit, a source and a place of their own, and no two the same title or number."""
    units = {"short", "s", "bytes", "reqps", "percentunit"}
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS} <= units
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {"datasource", "namespace", "pod"}


@pytest.mark.needs("promtool")
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """Prometheus can read what the panels ask."""
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(at["expr"] for panel in PANELS for at in panel["targets"])
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in tools.run(tools.need("promtool"), "check", "rules", file)
    file.write_text(file.read_text().replace("sum by", "sum buy"))
    tools.run(tools.need("promtool"), "check", "rules", file, fails=True)


# --- alerts --------------------------------------------------------------------------------------------------------


def test_an_alert_says_what_an_operator_needs() -> None:
    """Each has a severity, a summary in a sentence, and a time for which it must hold."""
    for name, rule in RULES.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert rule["annotations"]["summary"].endswith("."), name
        assert re.fullmatch(r"[1-9]\d*[mh]", rule["for"]), name


def test_the_runbook_has_a_section_for_every_alert() -> None:
    """Alerts and sections match, in order, and each section answers the same questions."""
    text = RUNBOOK.read_text()
    sections = re.findall(r"^### (Standpipe\w+)$", text, re.MULTILINE)
    assert sections == list(RULES)
    for name in sections:
        section = text.split(f"### {name}\n")[1].split("\n##")[0]
        for question in ("**Means.**", "**Causes.**", "**Look at.**", "**Do.**", "**Wake someone.**"):
            assert question in section, (name, question)
        assert set(re.findall(r"standpipe_\w+", section)) <= set(SERIES), name


@pytest.mark.needs("promtool")
def test_rules_are_what_prometheus_reads() -> None:
    """Expressions and templates of the alerts are sound."""
    assert f"{len(RULES)} rules found" in tools.run(
        tools.need("promtool"), "check", "rules", tools.CHART / "files" / "alerts.yaml"
    )


def test_every_alert_has_its_cases() -> None:
    """No alert is written without a case in which it fires and one in which it nearly does."""
    assert list(CASES) == list(RULES)


def series(name: str, **labels: str) -> str:
    """Return a series of the pod of the cases."""
    inside = ",".join(f'{key}="{value}"' for key, value in {"namespace": "n", "pod": "p", **labels}.items())
    return f"{name}{{{inside}}}"


def calls(method: str = "HydrateContext", status: str = "OK", reason: str = "") -> str:
    """Return the series of calls that ended so."""
    return series("standpipe_calls_total", method=method, status=status, reason=reason)


def bucket(le: str) -> str:
    """Return a bucket of the time of hydrates."""
    return series("standpipe_call_seconds_bucket", method="HydrateContext", le=le)


UP = 'up{job="standpipe",namespace="n",pod="p"}'
UP2, UP3 = UP.replace('"p"', '"p2"'), UP.replace('"p"', '"p3"')
MODEL = {"model": "m"}
LONG = 24 * 60
"""Minutes that a case lasts."""

SOUND = {
    UP: f"1x{LONG}",
    series("standpipe_build_info", version="0.6.0", record="postgresql", hot="redis", provider="cpu"): f"1x{LONG}",
    series("standpipe_event_loop_lag_seconds"): f"0.01x{LONG}",
    calls(): f"0+60x{LONG}",
    calls("CommitTurn"): f"0+60x{LONG}",
    calls("CommitTurn", "ABORTED", "VERSION_CONFLICT"): f"0+3x{LONG}",
    series("standpipe_authentications_total", outcome="accepted"): f"0+120x{LONG}",
    series("standpipe_mounted_refused_total", setting="tls_cert_file"): f"1x{LONG}",
    bucket("0.25"): f"0+60x{LONG}",
    bucket("0.5"): f"0+60x{LONG}",
    bucket("1.0"): f"0+60x{LONG}",
    bucket("+Inf"): f"0+60x{LONG}",
    series("standpipe_commits_total"): f"0+60x{LONG}",
    series("standpipe_commit_conflicts_total"): f"0+3x{LONG}",
    series("standpipe_degraded_total", source="recall", cause="embedder_off"): f"0+60x{LONG}",
    series("standpipe_hot_failures_total"): f"0x{LONG}",
    series("standpipe_embedder_breaker_open", address="e"): f"0x{LONG}",
    series("standpipe_embed_refused_texts_total", **MODEL, kind="query"): f"7x{LONG}",
    series("standpipe_projection_lag_seconds", **MODEL): f"5x{LONG}",
    series("standpipe_projection_parked", **MODEL): f"0x{LONG}",
    series("standpipe_extraction_lag_seconds"): f"60x{LONG}",
    series("standpipe_extraction_parked"): f"0x{LONG}",
    series("standpipe_erasure_failures_total"): f"2x{LONG}",
    series("standpipe_sweep_lag_seconds"): f"30x{LONG}",
}
"""A pod with which all is well, over a day: a call a second, few conflicts, and failures of yesterday."""

Case = dict[str, str | None]


def refusals(status: str, reason: str, method: str = "HydrateContext", *, many: float, few: float) -> tuple[Case, Case]:
    """Return cases of so many and so few calls a minute that end so, beside 120 that end well."""
    which = calls(method, status, reason)
    return {which: f"0+{many}x{LONG}"}, {which: f"0+{few}x{LONG}"}


def looks(outcome: str, *, many: float, few: float) -> tuple[Case, Case]:
    """Return cases of so many and so few credentials a minute that fare so, beside 120 that are accepted."""
    which = series("standpipe_authentications_total", outcome=outcome)
    return {which: f"0+{many}x{LONG}"}, {which: f"0+{few}x{LONG}"}


def levels(name: str, high: float, near: float, **labels: str) -> tuple[Case, Case]:
    """Return cases of a gauge that stands too high, and nearly."""
    return {series(name, **labels): f"{high}x{LONG}"}, {series(name, **labels): f"{near}x{LONG}"}


CASES: dict[str, tuple[Case, Case]] = {
    "StandpipeAbsent": (dict.fromkeys(SOUND), {UP: f"1x5 _x10 1x{LONG}"}),
    "StandpipeTargetDown": ({UP: f"0x{LONG}", UP2: f"1x{LONG}"}, {UP: f"0x4 1x{LONG}"}),
    "StandpipeManyTargetsDown": (
        {UP: f"0x{LONG}", UP2: f"0x{LONG}", UP3: f"1x{LONG}"},
        {UP: f"0x4 1x{LONG}", UP2: f"0x4 1x{LONG}"},
    ),
    "StandpipeEventLoopLate": levels("standpipe_event_loop_lag_seconds", 0.4, 0.2),
    "StandpipeVersionsMixed": (
        {
            series(
                "standpipe_build_info", version="0.4.0", record="postgresql", hot="redis", provider="cpu"
            ): f"1x{LONG}"
        },
        {series("standpipe_build_info", version="0.4.0", record="postgresql", hot="redis", provider="cpu"): "1x300"},
    ),
    "StandpipeStoreUnavailable": refusals("UNAVAILABLE", "STORE_UNAVAILABLE", many=12, few=3),
    "StandpipeStoreRefusesWrites": (
        {calls("CommitTurn", "RESOURCE_EXHAUSTED", "STORE_FULL"): f"0+1x{LONG}"},
        {calls("CommitTurn", "RESOURCE_EXHAUSTED", "STORE_FULL"): f"5x{LONG}"},
    ),
    "StandpipeStoreCorrupt": (
        {calls(status="DATA_LOSS", reason="STORE_CORRUPT"): f"0x10 1x{LONG}"},
        {calls(status="DATA_LOSS", reason="STORE_CORRUPT"): f"1x{LONG}"},
    ),
    "StandpipeDefect": (
        {calls(status="INTERNAL", reason="INTERNAL"): f"0x10 1x{LONG}"},
        {calls(status="INTERNAL", reason="INTERNAL"): f"1x{LONG}"},
    ),
    "StandpipeOverloaded": refusals("RESOURCE_EXHAUSTED", "OVERLOADED", many=3, few=0.5),
    "StandpipeDeadlinesMissed": refusals("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", many=12, few=1),
    "StandpipeHydratesSlow": (
        {bucket("0.25"): f"0+50x{LONG}", bucket("0.5"): f"0+55x{LONG}"},
        {bucket("0.25"): f"0+50x{LONG}"},
    ),
    "StandpipeCommitConflicts": (
        {series("standpipe_commit_conflicts_total"): f"0+30x{LONG}"},
        {series("standpipe_commit_conflicts_total"): f"0+10x{LONG}"},
    ),
    "StandpipeAuthenticationFails": looks("refused", many=12, few=3),
    "StandpipeAuthenticatorUnavailable": looks("unavailable", many=3, few=0.5),
    "StandpipeTenantDenied": looks("denied", many=2, few=0.1),
    "StandpipeFileRefused": (
        {series("standpipe_mounted_refused_total", setting="tenants_file"): f"0x5 1x{LONG}"},
        {series("standpipe_mounted_refused_total", setting="tenants_file"): f"1x{LONG}"},
    ),
    "StandpipeDegraded": (
        {series("standpipe_degraded_total", source="recall", cause="store_timed_out"): f"0+6x{LONG}"},
        {series("standpipe_degraded_total", source="recall", cause="store_timed_out"): f"0+1x{LONG}"},
    ),
    "StandpipeHotFailures": (
        {series("standpipe_hot_failures_total"): f"0+20x{LONG}"},
        {series("standpipe_hot_failures_total"): f"0+5x{LONG}"},
    ),
    "StandpipeEmbedderLeftAlone": (
        {series("standpipe_embedder_breaker_open", address="e"): f"1x{LONG}"},
        {series("standpipe_embedder_breaker_open", address="e"): "1 0 " * 30},
    ),
    "StandpipeEmbedderRefuses": (
        {series("standpipe_embed_refused_texts_total", **MODEL, kind="query"): f"0+1x{LONG}"},
        {series("standpipe_embed_refused_texts_total", **MODEL, kind="query"): f"0x5 9x{LONG}"},
    ),
    "StandpipeProjectionLate": levels("standpipe_projection_lag_seconds", 400, 200, **MODEL),
    "StandpipeProjectionParked": levels("standpipe_projection_parked", 1, 0, **MODEL),
    "StandpipeExtractionLate": levels("standpipe_extraction_lag_seconds", 4000, 3000),
    "StandpipeExtractionParked": levels("standpipe_extraction_parked", 2, 0),
    "StandpipeErasureFails": (
        {series("standpipe_erasure_failures_total"): f"0+1x{LONG}"},
        {series("standpipe_erasure_failures_total"): f"0x10 1x{LONG}"},
    ),
    "StandpipeSweepLate": levels("standpipe_sweep_lag_seconds", 100_000, 80_000),
}
"""For each alert what must be otherwise than SOUND for it to fire, and what must not be enough. None: no series."""

TOGETHER = {
    "StandpipeManyTargetsDown": {"StandpipeTargetDown"},
}
"""Alerts that fire beside another, since both hold."""


def firing(directory: Path, change: Case, *, at_min: int) -> set[str]:
    """Return which alerts promtool says fire, so long after a change of what is sound."""
    values = {name: text for name, text in {**SOUND, **change}.items() if text is not None}
    test = {
        "rule_files": [str(tools.CHART / "files" / "alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": text} for name, text in values.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{at_min}m",
                        "exp_samples": [],
                    }
                ],
            }
        ],
    }
    file = directory / "case.yaml"
    file.write_text(yaml.safe_dump(test))
    done = tools.run(tools.need("promtool"), "test", "rules", file, fails=None)
    return set(re.findall(r'alertname="(\w+)"', done))


def minutes(rule: dict[str, Any]) -> int:
    """Return for how long a rule must hold."""
    return int(rule["for"][:-1]) * (60 if rule["for"].endswith("h") else 1)


@pytest.mark.needs("promtool")
def test_nothing_fires_when_all_is_well(tmp_path: Path) -> None:
    """A sound pod makes no alert in a day."""
    for at_min in (30, 120, LONG - 1):
        assert firing(tmp_path, {}, at_min=at_min) == set()


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_not_else(alert: str, tmp_path: Path) -> None:
    """It fires alone, when its cause has held for its time and not before; what is nearly as bad makes no alert."""
    harm, near = CASES[alert]
    holds = minutes(RULES[alert])
    assert alert not in firing(tmp_path, harm, at_min=holds - 1)
    assert firing(tmp_path, harm, at_min=holds + 14) == {alert} | TOGETHER.get(alert, set())
    for at_min in (holds + 1, holds + 14, holds + 60):
        assert alert not in firing(tmp_path, near, at_min=at_min)
