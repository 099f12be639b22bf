"""Write what kubeconform checks manifests against: JSON schemas out of the modules of Kubernetes and of two operators.

A field that an API does not have is an error, and so is a null: a template that renders one has lost a value.
Into OUT/v1.33.x/, OUT/v1.36.x/ and OUT/crds/ go files that are named `KIND_GROUP_VERSION.json`, in small letters; the
operators' own definitions go beside theirs, for an API server to read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
OLDEST = "v1.33.13"
"""The oldest Kubernetes that the chart installs on; the newest is the one whose API server .ci/k8s/go.mod names."""
OPERATORS = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kinds}.yaml"
        for kinds in ("podmonitors", "servicemonitors", "prometheusrules")
    ],
    "github.com/kedacore/keda/v2@v2.21.0": [
        f"config/crd/bases/keda.sh_{kinds}.yaml" for kinds in ("scaledobjects", "triggerauthentications")
    ],
}
QUANTITY = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
"""What a string of an amount of a resource looks like, as in `resource.ParseQuantity`."""
METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def main(out: Path) -> None:
    """Write all of them into a directory."""
    newest = go("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").strip()
    for version in (OLDEST, newest):
        definitions = closed_definitions(module(f"k8s.io/kubernetes@{version}"))
        for name, definition in definitions.items():
            for known in definition.pop("x-kubernetes-group-version-kind", ()):
                write(out / version, known["kind"], known["group"], known["version"], name, definitions)
    (out / "crds").mkdir(parents=True, exist_ok=True)
    for source, files in OPERATORS.items():
        directory = module(source)
        for file in files:
            text = (directory / file).read_text()
            (out / "crds" / Path(file).name).write_text(text)
            for name, kind, group, version, schema in custom(yaml.safe_load(text)):
                write(out / "crds", kind, group, version, name, definitions | {name: schema})


def go(*arguments: str) -> str:
    """Return what a command of Go prints."""
    return subprocess.run(["go", *arguments], cwd=HERE, check=True, stdout=subprocess.PIPE, text=True).stdout


def module(at: str) -> Path:
    """Return where the files of a module are, once they are here; Go has checked their sum."""
    return Path(json.loads(go("mod", "download", "-json", at))["Dir"])


def closed_definitions(kubernetes: Path) -> dict[str, Any]:
    """Return the definitions of a release's API, each closed to what it does not name."""
    swagger = json.loads((kubernetes / "api/openapi-spec/swagger.json").read_text())
    return {name: closed(definition) for name, definition in swagger["definitions"].items()} | {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
        "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"], "pattern": QUANTITY},
    }


def closed(schema: Any) -> Any:
    """Return a schema that takes no field which it does not name, with the types that OpenAPI writes in its own way."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: closed(each) for name, each in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
        if key not in {"description", "format", "default"}
    }
    if made.get("x-kubernetes-int-or-string"):
        made = {"type": ["string", "integer"]} | {key: made[key] for key in ("pattern",) if key in made}
    elif "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def custom(crd: dict[str, Any]) -> Iterator[tuple[str, str, str, str, Any]]:
    """Yield the name, kind, group, version and schema of each version of a custom resource."""
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
    for version in crd["spec"]["versions"]:
        schema = closed(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"$ref": f"#/definitions/{METADATA}"}
        yield f"{group}.{version['name']}.{kind}", kind, group, version["name"], schema


def write(directory: Path, kind: str, group: str, version: str, name: str, definitions: dict[str, Any]) -> None:
    """Write the schema of one kind, with everything that it refers to."""
    top = definitions[name]
    named = {"apiVersion": f"{group}/{version}" if group else version, "kind": kind}
    properties = top.get("properties", {}) | {key: {"enum": [value]} for key, value in named.items()}
    used: dict[str, Any] = {}
    waiting = [name, *references(top)]
    while waiting:
        if (each := waiting.pop()) not in used:
            used[each] = definitions[each]
            waiting += references(definitions[each])
    schema = top | {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": properties,
        "required": sorted({*top.get("required", ()), *named}),
        "definitions": used,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{kind}_{group or version}_{version}.json".lower()).write_text(json.dumps(schema))


def references(schema: Any) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to."""
    if isinstance(schema, list):
        for each in schema:
            yield from references(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix("#/definitions/")
            else:
                yield from references(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
