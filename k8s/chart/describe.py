"""Makes values.schema.json and README.md of the chart from the comments of its values.yaml: `make chart-docs`.

The comment above a key is its meaning. A line ``# :: {…}`` in it is a piece of JSON Schema, for what the default does
not tell: ``{ref: NAME}`` stands for one of `DEFINITIONS`, and ``{define: NAME}`` makes a definition of what is below.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sidecar import limits
from sidecar.config import TENANT, Config

CHART = Path(__file__).parent / "standpipe"
_HEADING = re.compile(r"# --- (.+?) -+")
_GIVEN = "# :: "

_NAME = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i)?$"

DEFINITIONS: dict[str, dict[str, Any]] = {
    "anything": {},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "name": {"type": "string", "pattern": _NAME, "maxLength": 253},
    "key": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$", "maxLength": 253},
    "named": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1}},
    },
    "tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "pullPolicy": {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
    "countOrShare": {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$|^$"}]
    },
    "env": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "value": {"type": "string"},
            "valueFrom": {"type": "object"},
        },
    },
    "tenant": {
        "type": "object",
        "additionalProperties": False,
        "required": ["tenant", "callers"],
        "properties": {
            "tenant": {"type": "string", "pattern": rf"^({TENANT.pattern}|\{{namespace\}})$"},
            "callers": {
                "type": "array",
                "minItems": 1,
                "maxItems": limits.tenants_patterns_max,
                "items": {"type": "string", "pattern": "^[!-~]+$", "maxLength": limits.caller_chars_max},
            },
            "methods": {
                "type": "array",
                "minItems": 1,
                "maxItems": limits.tenants_patterns_max,
                "items": {"type": "string", "pattern": "^[A-Za-z*]+/[A-Za-z*]+$"},
            },
        },
    },
    "grant": {
        "anyOf": [
            {"$ref": "#/$defs/role"},
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["role", "tenants"],
                "properties": {
                    "role": {"$ref": "#/$defs/role"},
                    "tenants": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "pattern": f"^{TENANT.pattern}$"},
                    },
                },
            },
        ]
    },
    "role": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_$-]{0,62}$"},
    "quantity": {"anyOf": [{"type": "string", "pattern": _QUANTITY}, {"type": "number", "exclusiveMinimum": 0}]},
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "required": ["requests", "limits"],
        "properties": {
            part: {
                "type": "object",
                "required": required,
                "additionalProperties": {"$ref": "#/$defs/quantity"},
            }
            for part, required in (("requests", ["cpu", "memory"]), ("limits", ["memory"]))
        },
    },
}
"""What `ref` names: what Kubernetes itself checks is not checked here again."""


class Unclear(Exception):
    """A key whose comment lacks, or whose type cannot be told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """A key of the values, with what its comment says."""

    path: tuple[str, ...]
    default: Any
    meaning: str
    given: dict[str, Any]
    heading: str
    parts: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The key's path, as `--set` takes it."""
        return ".".join(self.path)


def read(text: str) -> tuple[Value, ...]:
    """Return the keys of a values.yaml. Raises Unclear for one that says nothing of itself."""
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise Unclear("the file must be a mapping")
    return _parts(root, (), text.splitlines())


def _parts(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> tuple[Value, ...]:
    values = []
    for key, value in node.value:
        path = (*above, key.value)
        meaning, given = _comment(lines, key.start_mark.line, path)
        heading = next((found[1] for line in lines[key.start_mark.line :: -1] if (found := _HEADING.match(line))), "")
        whole = "ref" in given or not isinstance(value, yaml.MappingNode) or not value.value
        parts = () if whole else _parts(value, path, lines)
        default = yaml.safe_load(yaml.serialize(value))
        values.append(Value(path, default, meaning, given, heading, parts))
    return tuple(values)


def _comment(lines: list[str], at: int, path: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Return what the lines right above a key say, and the schema that they give."""
    words: list[str] = []
    given: dict[str, Any] = {}
    while at and (line := lines[at - 1].strip()).startswith("#") and not _HEADING.match(line):
        at -= 1
        if line.startswith(_GIVEN):
            given = yaml.safe_load(line.removeprefix(_GIVEN))
        else:
            words.insert(0, line.lstrip("# "))
    if not words:
        raise Unclear(f"{'.'.join(path)} has no comment")
    return " ".join(words), given


# --- the schema --------------------------------------------------------------------------------------------------


def schema(values: tuple[Value, ...]) -> dict[str, Any]:
    """Return the JSON Schema of the values."""
    definitions = {name: dict(one) for name, one in DEFINITIONS.items()} | {"settings": settings()}
    for value in values:
        if "define" in value.given and value.parts:
            definitions[value.given["define"]] = _object(value.parts, described=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart standpipe",
        **_object(values),
        "$defs": dict(sorted(definitions.items())),
    }


def _object(values: tuple[Value, ...], *, described: bool = True) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _schema(value, described=described) for value in values},
    }


def _schema(value: Value, *, described: bool) -> dict[str, Any]:
    given: dict[str, Any] = _resolved(value.given)
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    said: dict[str, Any] = {"description": value.meaning} if described else {}
    if described and not value.parts:
        said["default"] = value.default
    if "define" in given:
        return said | {"$ref": f"#/$defs/{given['define']}"}
    if value.parts:
        return said | _object(value.parts, described=described)
    if "$ref" in given or "type" in given:
        return said | given
    if isinstance(value.default, list) and "items" not in given:
        raise Unclear(f"{value.name} must say which items it has")
    if type(value.default) not in kinds:
        raise Unclear(f"{value.name} must say what it is")
    return said | {"type": kinds[type(value.default)]} | given


def _resolved(given: Any) -> Any:
    """Return a given schema with `ref` as JSON Schema writes it."""
    if isinstance(given, dict):
        if "ref" in given:
            return {"$ref": f"#/$defs/{given['ref']}"}
        return {name: _resolved(one) for name, one in given.items()}
    return [_resolved(one) for one in given] if isinstance(given, list) else given


_UNITS = {"": 1, "MiB": 1 << 20}
_RANGE = re.compile(r"\b([0-9]+) to ([0-9]+)\b|\bfrom ([0-9]+) (MiB)\b")


def settings() -> dict[str, Any]:
    """Return the schema of the settings, which are those of the sidecar's configuration, by name and type."""
    hints = typing.get_type_hints(Config)
    properties = {}
    for one in dataclasses.fields(Config):
        doc, kind = one.metadata["doc"], hints[one.name]
        found: dict[str, Any] = {"description": doc}
        if typing.get_origin(kind) is typing.Literal:
            found |= {"type": "string", "enum": list(typing.get_args(kind))}
        elif typing.get_origin(kind) is tuple:
            found |= {"type": "array", "items": {"type": "string", "minLength": 1}}
        else:
            found["type"] = {bool: "boolean", int: "integer", str: "string"}[kind]
        if kind is int and (bounds := _RANGE.search(doc)):
            least, most, size, unit = bounds.groups()
            found["minimum"] = int(least or size) * _UNITS[unit or ""]
            found |= {"maximum": int(most)} if most else {}
        properties[one.name] = found
    # A URI with a password is no setting: it comes from a Secret.
    properties["record"]["pattern"] = "^sqlite:.+$"
    properties["log_level"]["enum"] = ["info", "warning", "error"]
    return {"type": "object", "additionalProperties": False, "properties": properties}


# --- the table ---------------------------------------------------------------------------------------------------

_HEAD = """\
# The chart's values

Made from the comments of [values.yaml](values.yaml) by `make chart-docs`; `helm` refuses what is not among them.
"""

_COLUMNS = "| value | default | meaning |\n| --- | --- | --- |\n"


def table(values: tuple[Value, ...]) -> str:
    """Return README.md: a table for each section of the file."""
    lines = [_HEAD]
    heading = ""
    for value in _leaves(values):
        if value.heading != heading:
            heading = value.heading
            lines.append(f"\n## {heading[0].upper()}{heading[1:]}\n\n{_COLUMNS}")
        lines.append(f"| `{value.name}` | {_cell(value)} | {value.meaning.replace('|', chr(92) + '|')} |\n")
    return "".join(lines)


def _leaves(values: tuple[Value, ...]) -> Iterator[Value]:
    for value in values:
        yield value
        yield from _leaves(value.parts)


def _cell(value: Value) -> str:
    if value.parts:
        return ""
    if value.default in ("", [], {}):
        return "empty"
    return f"`{json.dumps(value.default) if not isinstance(value.default, str) else value.default}`"


def made() -> dict[Path, str]:
    """Return what the files of the chart must hold."""
    values = read((CHART / "values.yaml").read_text())
    return {
        CHART / "values.schema.json": json.dumps(schema(values), indent=1, ensure_ascii=False) + "\n",
        CHART / "README.md": table(values),
    }


def main() -> None:
    """Write the files, or with --check say which are not what they must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is another")
    check = parser.parse_args().check
    for path, text in made().items():
        if not check:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{path.name} is not what values.yaml gives: run make chart-docs")


if __name__ == "__main__":
    main()
