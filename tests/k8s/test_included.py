"""The sidecar that a chart includes: both Helms, and Standpipe itself, take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import Config, load
from tests.k8s import tools
from tests.k8s.test_manifests import documents, named
from tests.k8s.test_server_side import CHARTS, build

CHART = tools.ROOT / "k8s" / "examples" / "helm-dependency"
STORES = {"record": "postgresql://postgres/standpipe", "hot": "redis://redis"}


def included(directory: Path, values: dict[str, Any]) -> Config:
    """Return the configuration that an included sidecar finds: its file and its environment, the image's too."""
    (directory / "given.yaml").write_text(yaml.safe_dump({"standpipe": values}))
    here = build(CHART, directory)
    text = tools.run(tools.need("helm4"), "template", "chat", here, "--values", directory / "given.yaml")
    settings, workload = documents(text)
    (directory / "config.yaml").write_text(settings["data"]["config.yaml"])
    [container] = workload["spec"]["template"]["spec"]["initContainers"]
    environment = {"STANDPIPE_MODELS_DIR": "/models"}
    for variable in container["env"]:
        stored = STORES.get(variable["name"].removeprefix("STANDPIPE_").lower(), "")
        environment[variable["name"]] = variable.get("value", stored)
    assert environment.pop("STANDPIPE_CONFIG") == "/etc/standpipe/config.yaml"
    return load(path=str(directory / "config.yaml"), environment=environment)


@pytest.mark.needs("helm4")
@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, {"tenant": "acme", "http": "0.0.0.0:7461", "record_migrate": False, "device": "cpu", **STORES}),
        ({"bindAddress": "::"}, {"http": "[::]:7461"}),
        ({"hot": {"existingSecret": "", "address": "memory"}}, {"hot": "memory"}),
        (
            {"encryption": {"existingSecret": "", "plaintext": True}},
            {"plaintext": True, "encryption_keys_file": ""},
        ),
        ({"encryption": {"existingSecret": ""}}, {"encryption_keys_file": "/etc/standpipe/keys/standpipe.keys"}),
        (
            {"encryption": {"existingSecret": ""}, "settings": {"encryption_keys_command": "vault keys"}},
            {"encryption_keys_file": "", "encryption_keys_command": "vault keys"},
        ),
        ({"injection": {"gpu": {"claims": [{"name": "gpu"}]}}}, {"device": "gpu", "embed_precision": "fp16"}),
        ({"injection": {"gpu": {"resourceName": "nvidia.com/gpu.shared"}}}, {"device": "gpu"}),
        (
            {"embedderClient": {"addresses": ["embedder.here:7460"], "existingSecret": "embedder-ca"}},
            {"embedder_address": ("embedder.here:7460",), "embedder_ca_file": "/etc/standpipe/tls/ca.crt"},
        ),
        ({"settings": {"view_cache_bytes": 1 << 28}}, {"view_cache_bytes": 1 << 28}),
        ({"injection": {"settings": {"record_migrate": True}}}, {"record_migrate": True}),
    ],
    ids=str,
)
def test_standpipe_takes_what_the_values_say(values: dict[str, Any], wanted: dict[str, Any], tmp_path: Path) -> None:
    """The file and the environment of an included sidecar are a configuration, and the one that was meant."""
    config = included(tmp_path, values)
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert config.listen == ("unix:/run/standpipe/standpipe.sock", "127.0.0.1:7460")


@pytest.mark.needs("helm4")
def test_the_embedders_authority_is_mounted_from_its_secret(tmp_path: Path) -> None:
    """A chart in whose namespace that Secret is has it, where the settings say that it is."""
    client = {"addresses": ["embedder.here:7460"], "existingSecret": "embedder-ca"}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump({"standpipe": {"embedderClient": client}}))
    here = build(CHART, tmp_path)
    text = tools.run(tools.need("helm4"), "template", "chat", here, "--values", tmp_path / "given.yaml")
    [volume] = [each for each in documents(text)[1]["spec"]["template"]["spec"]["volumes"] if "projected" in each]
    secrets = [source["secret"] for source in volume["projected"]["sources"] if "secret" in source]
    assert {"name": "embedder-ca", "items": [{"key": "ca.crt", "path": "tls/ca.crt"}]} in secrets


@pytest.mark.needs("helm3", "helm4")
@pytest.mark.parametrize("chart", CHARTS, ids=named)
def test_both_helms_render_the_examples(chart: Path, tmp_path: Path) -> None:
    """A chart that depends on this one is the same by either, and the dependency is found without a network."""
    here = build(chart, tmp_path)
    three, four = (documents(tools.run(tools.need(helm), "template", "chat", here)) for helm in ("helm3", "helm4"))
    assert three == four
    assert "standpipe" in str(three)
