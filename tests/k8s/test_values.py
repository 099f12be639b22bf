"""The chart's values: what makes no sense is refused with a sentence that names the value, in Helm 3 and 4."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.chart import describe
from sidecar.callers import parse
from sidecar.config import Config, load
from sidecar.errors import ConfigInvalid
from tests.k8s import tools

HELMS = [pytest.param(name, marks=pytest.mark.needs(name), id=name) for name in ("helm3", "helm4")]

STORES: dict[str, Any] = {"record": {"existingSecret": "pg"}, "encryption": {"existingSecret": "keys"}}
SHARED: dict[str, Any] = {"enabled": True, "auth": {"allowAnonymous": True}}
SQLITE: dict[str, Any] = {
    "settings": {"record": "sqlite:/data/standpipe.db"},
    "encryption": {"existingSecret": "keys"},
    "shared": SHARED | {"replicas": 1},
}


def shared(**values: Any) -> dict[str, Any]:
    """Return values of a shared component that is right but for these."""
    return STORES | {"shared": SHARED | values}


def embedder(*, extra: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """Return values of an embedder and one that asks it, right but for these."""
    return shared() | {"embedder": {"enabled": True} | values} | (extra or {})


def render(helm: str, values: dict[str, Any], tmp_path: Path, *, fails: bool = False) -> str:
    """Return what `helm template` says."""
    given = tmp_path / "values.yaml"
    given.write_text(yaml.safe_dump(values))
    return tools.run(
        tools.need(helm),
        *("template", "release", tools.CHART, "--namespace", "standpipe", "--kube-version", "1.36.0"),
        *("--values", given),
        fails=fails,
    )


COMPONENTS = ("shared", "embedder", "worker")

GOOD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "shared for anybody": shared(),
    "SQLite and one pod": SQLITE,
    "the same in plain text": SQLITE | {"encryption": {"plaintext": True}},
    "scaled by KEDA": shared(keda={"enabled": True, "serverAddress": "http://prometheus:9090"}),
    "tokens that the API server reviews": shared(
        auth={"mode": "review"}, tenants=[{"tenant": "acme", "callers": ["system:serviceaccount:acme:*"]}]
    ),
    "tokens that the cluster's keys verify": shared(
        auth={"mode": "jwks"}, tenants=[{"tenant": "{namespace}", "callers": ["system:serviceaccount:*:chat"]}]
    ),
    "tokens that keys in a file verify": shared(
        auth={"mode": "jwks", "jwks": "/keys/jwks.json", "issuer": "https://issuer.example"},
        tenants=[{"tenant": "a", "callers": ["*"], "methods": ["ContextService/*", "*/EraseSubject"]}],
    ),
    "tokens of a file, in TLS": shared(
        auth={"mode": "tokens", "existingSecret": "t"}, tls={"existingSecret": "tls", "clientCertificates": True}
    ),
    "certificates alone": shared(auth={}, tls={"existingSecret": "tls", "clientCertificates": True}),
    "certificates of tenants": shared(
        auth={},
        tls={"existingSecret": "tls", "clientCertificates": True},
        tenants=[{"tenant": "a", "callers": ["spiffe://example/*", "dns:chat"]}],
    ),
    "an embedder on a GPU": embedder(gpu={"enabled": True}),
    "a small sidecar": {
        "injection": {
            "enabled": True,
            "memory": "256Mi",
            "namespaces": [{"name": "a", "settings": {"block_cache_bytes": 1 << 20, "embedder_address": ["e:7460"]}}],
        }
    },
    "an embedder alone": {"embedder": {"enabled": True, "tls": {"existingSecret": "tls", "clientCertificates": True}}},
    "a worker that extracts": STORES
    | {"worker": {"enabled": True, "extraction": {"enabled": True, "url": "https://llm.example/v1", "model": "m"}}},
    "a parent chart's": {"global": {"anything": [1]}, "enabled": True},
}
"""Each of these renders: no rule refuses too much."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # --- by the templates: values that do not fit together
    "no record store": (
        {"shared": SHARED, "encryption": {"plaintext": True}},
        "record.existingSecret: must name a Secret with the record store's URI, for shared",
    ),
    "no record store for workers": (
        {"worker": {"enabled": True}, "encryption": {"plaintext": True}},
        "record.existingSecret: must name a Secret with the record store's URI, for worker",
    ),
    "no keys": (
        {"shared": SHARED, "record": {"existingSecret": "pg"}},
        "encryption.existingSecret: must name a Secret with the keys, or encryption.plaintext be true",
    ),
    "plaintext and keys": (
        STORES | {"encryption": {"existingSecret": "keys", "plaintext": True}},
        "encryption.plaintext: must be false where there are keys",
    ),
    "keys twice": (
        STORES | {"settings": {"encryption_keys_command": "keys"}},
        "settings.encryption_keys_command: must be left out where encryption.existingSecret is named",
    ),
    "two record stores": (
        STORES | {"settings": {"record": "sqlite:/data/x.db"}},
        "settings.record: must be left out where record.existingSecret is named",
    ),
    "SQLite and two pods": (SQLITE | {"shared": SHARED}, "shared.replicas: must be 1, and nothing must scale it"),
    "SQLite that scales": (
        SQLITE | {"shared": SHARED | {"replicas": 1, "autoscaling": {"enabled": True}}},
        "shared.replicas: must be 1, and nothing must scale it",
    ),
    "SQLite and a worker": (
        SQLITE | {"worker": {"enabled": True}},
        "worker.enabled: must be false where settings.record is a SQLite file",
    ),
    "SQLite and a migration": (
        SQLITE | {"migration": {"enabled": True, "existingSecret": "owner"}},
        "migration.enabled: must be false where settings.record is a SQLite file",
    ),
    "two hot stores": (
        shared() | {"hot": {"address": "redis://redis", "existingSecret": "redis"}},
        "hot.address: must be empty where hot.existingSecret is named",
    ),
    "caches that do not fit": (
        shared(settings={"block_cache_bytes": 1 << 30}),
        "shared.resources.limits.memory: must be at least 1304Mi, 1088Mi of it for",
    ),
    "a sidecar whose caches do not fit": (
        {"injection": {"enabled": True, "namespaces": [{"name": "a"}, {"name": "b", "memory": "512Mi"}]}},
        "injection.namespaces[1].memory: must be at least 536Mi, 320Mi of it for",
    ),
    "sidecars whose caches do not fit": (
        {
            "injection": {"enabled": True, "memory": "320Mi", "namespaces": [{"name": "a"}]},
            "embedder": {"enabled": True},
        },
        "injection.memory: must be at least 450Mi, 320Mi of it for",
    ),
    "the chart's own setting": (
        shared() | {"settings": {"listen": ["0.0.0.0:1"]}},
        "settings.listen: is set by the chart: use bindAddress",
    ),
    "the chart's own setting in a component": (
        shared(settings={"auth_jwks": "/keys"}),
        "shared.settings.auth_jwks: is set by the chart: use shared.auth.jwks",
    ),
    "a record store of one component": (
        STORES | {"worker": {"enabled": True, "settings": {"record": "sqlite:/x"}}},
        "worker.settings.record: must be left out",
    ),
    "the chart's own label": (
        {"commonLabels": {"app.kubernetes.io/name": "x"}},
        "commonLabels: app.kubernetes.io/name is set by the chart",
    ),
    "the chart's own label of pods": (
        shared(pod={"labels": {"app.kubernetes.io/component": "x"}}),
        "shared.pod.labels: app.kubernetes.io/component is set by the chart",
    ),
    "KEDA and HPA": (
        shared(autoscaling={"enabled": True}, keda={"enabled": True, "serverAddress": "http://p"}),
        "shared.keda.enabled: must be false where shared.autoscaling.enabled is true",
    ),
    "KEDA and HPA of the embedder": (
        embedder(autoscaling={"enabled": True}, keda={"enabled": True, "serverAddress": "http://p"}),
        "embedder.keda.enabled: must be false where embedder.autoscaling.enabled is true",
    ),
    "replicas and autoscaling": (
        shared(replicas=5, autoscaling={"enabled": True}),
        "shared.replicas: must be left at 2 where autoscaling decides",
    ),
    "fewer at most than at least": (
        shared(autoscaling={"enabled": True, "minReplicas": 9, "maxReplicas": 3}),
        "shared.autoscaling.minReplicas: must not be more than maxReplicas, 3",
    ),
    "autoscaling by nothing": (
        embedder(autoscaling={"enabled": True, "cpuPercent": 0}),
        "embedder.autoscaling: must go by cpuPercent or by waitingTokens; both are 0",
    ),
    "KEDA without Prometheus": (
        shared(keda={"enabled": True}),
        "shared.keda.serverAddress: must say where Prometheus is",
    ),
    "both of a budget": (
        shared(podDisruptionBudget={"minAvailable": 1, "maxUnavailable": 1}),
        "shared.podDisruptionBudget: must have minAvailable or maxUnavailable, not both",
    ),
    "a budget that blocks": (
        shared(podDisruptionBudget={"minAvailable": 2}),
        "shared.podDisruptionBudget.minAvailable: must be less than the 2 pods",
    ),
    "open to all": (
        shared(auth={}),
        "shared.auth.mode: must say how callers prove who they are, or shared.tls.clientCertificates be true",
    ),
    "open and not": (
        shared(auth={"mode": "tokens", "existingSecret": "t", "allowAnonymous": True}),
        "shared.auth.allowAnonymous: must be false where callers prove who they are",
    ),
    "tokens without a file": (
        shared(auth={"mode": "tokens"}),
        "shared.auth.existingSecret: must name a Secret with the file of tokens",
    ),
    "a file of tokens for nothing": (
        shared(auth={"allowAnonymous": True, "existingSecret": "t"}),
        "shared.auth.existingSecret: must be empty where auth.mode is not tokens",
    ),
    "callers without tenants": (
        shared(auth={"mode": "jwks"}),
        "shared.tenants: must say which callers act for which tenants, with auth.mode jwks",
    ),
    "tenants without callers": (
        shared(tenants=[{"tenant": "a", "callers": ["x"]}]),
        "shared.tenants: must be empty where callers have no names",
    ),
    "tenants by tokens that name nobody": (
        shared(
            auth={"mode": "tokens", "existingSecret": "t"},
            tls={"existingSecret": "tls", "clientCertificates": True},
            tenants=[{"tenant": "a", "callers": ["x"]}],
        ),
        "shared.tenants: must be empty where callers have no names",
    ),
    "a namespace of certificates": (
        shared(auth={"mode": "jwks"}, tenants=[{"tenant": "{namespace}", "callers": ["dns:chat"]}]),
        "shared.tenants: {namespace} must have callers that begin with system:serviceaccount:",
    ),
    "a review by nobody": (
        shared(auth={"mode": "review", "clusterCredentials": False}, tenants=[{"tenant": "a", "callers": ["x"]}]),
        "shared.auth.clusterCredentials: must be true with auth.mode review",
    ),
    "a tenant of two words": (
        shared(auth={"mode": "jwks"}, tenants=[{"tenant": "a b", "callers": ["x"]}]),
        "at '/shared/tenants/0/tenant'",
    ),
    "tenants twice": (
        shared(auth={"mode": "jwks"}, tenants=[{"tenant": "a", "callers": ["x"]}], tenantsConfigMap="t"),
        "shared.tenantsConfigMap: must be empty where shared.tenants is not",
    ),
    "client certificates without TLS": (
        shared(tls={"clientCertificates": True}, auth={}),
        "shared.tls.clientCertificates: must be false without shared.tls.existingSecret",
    ),
    "a headless LoadBalancer": (
        shared(service={"type": "LoadBalancer"}),
        "shared.service.headless: must be false with type LoadBalancer",
    ),
    "a NetworkPolicy for nobody": (
        shared(networkPolicy={"enabled": True}),
        "shared.networkPolicy.from: must name at least one peer",
    ),
    "an embedder that nobody asks": (
        embedder(extra={"embedderClient": {"addresses": ["other:7460"]}}),
        "embedderClient.addresses: must be empty where embedder.enabled is true",
    ),
    "an embedder without a model": (
        embedder(extra={"settings": {"embedder": "none"}}),
        "settings.embedder: must name a model where embedder.enabled is true",
    ),
    "int8 on a GPU": (
        embedder(gpu={"enabled": True}, settings={"precision": "int8"}),
        "embedder.settings.precision: must be fp16 or fp32",
    ),
    "an embedder in TLS, asked without": (
        embedder(tls={"existingSecret": "tls"}),
        "embedderClient.existingSecret: must name a Secret with ca.crt",
    ),
    "an embedder without TLS, asked in it": (
        embedder(extra={"embedderClient": {"existingSecret": "ca"}}),
        "embedder.tls.existingSecret: must name the embedder's certificate",
    ),
    "an embedder that asks for certificates": (
        embedder(
            tls={"existingSecret": "tls", "clientCertificates": True},
            extra={"embedderClient": {"existingSecret": "ca"}},
        ),
        "embedderClient.certificate: must be true where embedder.tls.clientCertificates asks for one",
    ),
    "a certificate out of nothing": (
        shared() | {"embedderClient": {"certificate": True}},
        "embedderClient.certificate: must be false without embedderClient.existingSecret",
    ),
    "a CA for nobody": (
        shared() | {"embedderClient": {"existingSecret": "ca"}},
        "embedderClient.existingSecret: must be empty where no embedder is asked",
    ),
    "one image pinned and not the other": (
        embedder(gpu={"enabled": True}, extra={"image": {"digest": "sha256:" + 64 * "0"}}),
        "gpuImage.digest: must be given where image.digest is",
    ),
    "a claim without a GPU": (
        embedder(gpu={"claim": {"enabled": True}}),
        "embedder.gpu.claim.enabled: must be false where embedder.gpu.enabled is",
    ),
    "a claim's template without a claim": (
        embedder(gpu={"enabled": True, "claim": {"existingTemplate": "t"}}),
        "embedder.gpu.claim.existingTemplate: must be empty where embedder.gpu.claim.enabled is false",
    ),
    "extraction of nowhere": (
        STORES | {"worker": {"enabled": True, "extraction": {"enabled": True, "model": "m"}}},
        "worker.extraction.url: must name the endpoint",
    ),
    "extraction by nothing": (
        STORES | {"worker": {"enabled": True, "extraction": {"enabled": True, "url": "https://llm.example/v1"}}},
        "worker.extraction.model: must name the model",
    ),
    "extraction without a worker": (
        {"worker": {"extraction": {"enabled": True, "url": "https://llm.example/v1", "model": "m"}}},
        "worker.extraction.enabled: must be false where worker.enabled is",
    ),
    "a migration of nothing": (
        {"migration": {"enabled": True}},
        "migration.existingSecret: must name a Secret with the URI of the schema's owner",
    ),
    "a variable that the chart sets": (
        shared(pod={"extraEnv": [{"name": "STANDPIPE_RECORD", "value": "sqlite:/tmp/x"}]}),
        "shared.pod.extraEnv: STANDPIPE_RECORD is there twice, or is set by the chart",
    ),
    "a variable twice": (
        shared() | {"pods": {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "shared.pod.extraEnv: A is there twice",
    ),
    "a setting that a sidecar has no choice of": (
        {"injection": {"enabled": True, "settings": {"http": "127.0.0.1:1"}}},
        "injection.settings.http: is set by the chart: use bindAddress",
    ),
    "a setting of one namespace's sidecars": (
        {"injection": {"enabled": True, "namespaces": [{"name": "chat", "settings": {"plaintext": True}}]}},
        "injection.namespaces: chat: settings.plaintext: is set by the chart: use encryption.plaintext",
    ),
    "a namespace twice": (
        {"injection": {"enabled": True, "namespaces": [{"name": "chat"}, {"name": "chat"}]}},
        "injection.namespaces: chat is there twice",
    ),
    # --- by the schema: one value alone
    "a namespace without a name": (
        {"injection": {"namespaces": [{"secret": "x"}]}},
        "at '/injection/namespaces/0': missing property 'name'",
    ),
    "a namespace's unknown setting": (
        {"injection": {"namespaces": [{"name": "x", "settings": {"tenants": "acme"}}]}},
        "at '/injection/namespaces/0/settings': additional properties 'tenants' not allowed",
    ),
    "an unknown value": (shared(replica=3), "at '/shared': additional properties 'replica' not allowed"),
    "an unknown section": ({"sharde": {}}, "additional properties 'sharde' not allowed"),
    "an unknown setting": ({"settings": {"drain": 5}}, "at '/settings': additional properties 'drain' not allowed"),
    "a setting of another type": (
        {"settings": {"drain_ms": "5s"}},
        "at '/settings/drain_ms': got string, want integer",
    ),
    "a setting out of range": ({"settings": {"drain_ms": 700_000}}, "at '/settings/drain_ms': maximum: got 700,000"),
    "a password among the settings": (
        {"settings": {"record": "postgresql://sidecar:secret@pg/standpipe"}},
        "at '/settings/record'",
    ),
    "a password in an address": ({"hot": {"address": "redis://:secret@redis"}}, "at '/hot/address'"),
    "half a digest": ({"image": {"digest": "sha256:123"}}, "at '/image/digest'"),
    "a repository with a digest": ({"image": {"repository": "standpipe@sha256:123"}}, "at '/image/repository'"),
    "another mode": (
        shared(auth={"mode": "basic"}),
        "at '/shared/auth/mode': value must be one of 'none', 'tokens', 'jwks', 'review'",
    ),
    "replicas in words": (shared(replicas="two"), "at '/shared/replicas': got string, want integer"),
    "a budget in words": (
        shared(podDisruptionBudget={"minAvailable": "half"}),
        "/shared/podDisruptionBudget/minAvailable",
    ),
    "no request": (
        shared(resources={"requests": {"cpu": None}}),
        "at '/shared/resources/requests': missing property 'cpu'",
    ),
    "a limit of nothing": (
        shared(resources={"limits": {"memory": "much"}}),
        "at '/shared/resources/limits/memory'",
    ),
    "a tenant without callers": (
        shared(auth={"mode": "jwks"}, tenants=[{"tenant": "acme"}]),
        "at '/shared/tenants/0': missing property 'callers'",
    ),
    "a role with SQL in it": (
        {"migration": {"grantTo": ['x"; DROP']}},
        "at '/migration/grantTo/0'",
    ),
    "a pod's unknown name": (
        shared(pod={"tolerate": []}),
        "at '/shared/pod': additional properties 'tolerate' not allowed",
    ),
}
"""Values, and what is said of them."""


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_values_that_make_sense_render(helm: str, values: dict[str, Any], tmp_path: Path) -> None:
    """What a platform engineer would write is taken; and each component's process takes its settings."""
    found = [one for one in yaml.safe_load_all(render(helm, values, tmp_path)) if one]
    enabled = {name for name in COMPONENTS if values.get(name, {}).get("enabled")}
    named = {f"release-standpipe-{name}": name for name in enabled}
    assert {one["metadata"]["name"] for one in found if one["kind"] == "Deployment"} == set(named)
    for one in found:
        if one["kind"] == "ConfigMap" and "tenants.yaml" in one["data"]:
            assert parse(one["data"]["tenants.yaml"].encode(), "tenants.yaml").entries
        if one["kind"] == "ConfigMap" and "config.yaml" in one["data"]:
            path = tmp_path / "config.yaml"
            path.write_text(one["data"]["config.yaml"])
            settings = load(path=str(path), environment={})
            assert settings.http == "0.0.0.0:7461", f"kubelets and Prometheus reach {one['metadata']['name']}"


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("sets", [("cloudnativepg",), ("cloudnativepg", "production")], ids="+".join)
def test_the_examples_values_render(helm: str, sets: tuple[str, ...]) -> None:
    """The values of the examples fit together, as their comments tell to install them."""
    files = [part for one in sets for part in ("--values", tools.ROOT / "k8s" / "examples" / one / "values.yaml")]
    said = tools.run(tools.need(helm), "template", "standpipe", tools.CHART, "--kube-version", "1.36.0", *files)
    kinds = [one["kind"] for one in yaml.safe_load_all(said) if one]
    assert kinds.count("Job") == 1
    assert kinds.count("Deployment") == len(sets)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_values_that_make_no_sense_are_refused(helm: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The message names the value, and what it must be."""
    assert message in render(helm, values, tmp_path, fails=True)


def test_each_message_of_the_templates_is_tried() -> None:
    """No rule of the chart is without a bad value above that meets it."""
    lines = (tools.CHART / "templates" / "_checks.tpl").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith(("{{-", "{{/*", "    "))]
    tried = [message.partition(": ")[2] for _, message in REFUSED.values()]
    said = [line for line in rules if ": " in line]
    assert len(said) > 30
    for line in said:
        words = line.partition(": ")[2].split("{{")[0].rstrip()
        assert any(one.startswith(words) or words.startswith(one) for one in tried), line


@pytest.mark.needs("helm4")
def test_pods_restart_for_settings_and_not_for_tenants(tmp_path: Path) -> None:
    """Settings are read at start, and the tenants' file whenever it changes."""

    def checksum(**values: Any) -> str:
        tenants = [{"tenant": "acme", "callers": ["dns:acme"]}]
        given = shared(**{"auth": {"mode": "jwks"}, "tenants": tenants} | values)
        found = [one for one in yaml.safe_load_all(render("helm4", given, tmp_path)) if one]
        (one,) = (one for one in found if one["kind"] == "Deployment")
        return str(one["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    before = checksum()
    assert checksum(tenants=[{"tenant": "other", "callers": ["dns:other"]}]) == before
    assert checksum(settings={"log_level": "warning"}) != before


# --- what is made from the comments ----------------------------------------------------------------------------


def test_the_schema_and_the_table_are_what_the_comments_give() -> None:
    """Nobody has to remember to run `make chart-docs`."""
    for path, text in describe.made().items():
        assert path.read_text() == text, f"run make chart-docs: {path.name}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("replicas: 1\n", "replicas has no comment"),
        ("# Peers.\nfrom: []\n", "from must say which items it has"),
        ("# Labels.\nlabels: {}\n", "labels must say what it is"),
        ("# A section.\na:\n  b: 1\n", "a.b has no comment"),
        ("- 1\n", "the file must be a mapping"),
    ],
)
def test_a_value_must_say_what_it_is(text: str, what: str) -> None:
    """A value cannot be added without a meaning and a type."""
    with pytest.raises(describe.Unclear, match=what):
        describe.schema(describe.read(text))


def test_nothing_of_the_chart_is_open() -> None:
    """Every object of the schema refuses what it does not know, but for what Kubernetes itself defines."""
    schema = json.loads((tools.CHART / "values.schema.json").read_text())
    open_at: list[str] = []

    def look(node: Any, at: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node and node.get("additionalProperties") is not False:
                open_at.append(at)
            for name, one in node.items():
                look(one, f"{at}/{name}")

    look(schema, "")
    assert open_at == []


def test_the_settings_are_those_of_the_configuration() -> None:
    """Each setting has the type and the limits that the process itself has."""
    properties = describe.settings()["properties"]
    defaults = Config()
    for name, schema in properties.items():
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound not in schema:
                continue
            with contextlib.suppress(ConfigInvalid):
                Config(**{name: schema[bound] + step})
                pytest.fail(f"{name} has no {bound} of {schema[bound]}")
            Config(**{name: schema[bound]})
        kinds = {bool: "boolean", int: "integer", str: "string", tuple: "array"}
        assert schema["type"] == kinds[type(getattr(defaults, name))]
    assert [name for name, one in properties.items() if one["type"] == "integer" and "minimum" not in one] == []
