"""Write protos/openapi.json: what is served as JSON over HTTP (`sidecar/json_api.py`), as OpenAPI 3.1, from the protos.

    python protos/openapi.py DESCRIPTORS RELEASE > protos/openapi.json

DESCRIPTORS is a FileDescriptorSet with its imports and source information. Comments become descriptions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

Json = dict[str, Any]

ABOUT = (
    "The API of Standpipe as JSON over HTTP/1.1, served where the setting `listen_json` says: the unary half of the"
    " Connect protocol, so that Connect's own clients work, and any HTTP client does. Messages are canonical protobuf"
    " JSON: fields may be left out where they have their default, whole numbers of 64 bits are text, bytes are base64,"
    " times are RFC 3339. An error has a code, a message and details. Messages have at most 8 MiB in either direction."
    " Requests with an Origin are refused: this is no API for browsers."
)

CODES: Mapping[int, tuple[str, ...]] = {
    400: ("invalid_argument", "failed_precondition", "out_of_range"),
    401: ("unauthenticated",),
    403: ("permission_denied",),
    404: ("not_found", "unimplemented"),
    409: ("already_exists", "aborted"),
    415: ("invalid_argument",),
    429: ("resource_exhausted",),
    499: ("canceled",),
    500: ("internal", "unknown", "data_loss"),
    501: ("unimplemented",),
    503: ("unavailable",),
    504: ("deadline_exceeded",),
}
"""Connect's codes, by the HTTP statuses that they come with."""

REASON, PREFIX = ".standpipe.v1.ErrorReason", "ERROR_REASON_"

_INT64: Json = {"type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]+$"}
SCALARS: Mapping[int, Json] = {
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptorProto.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptorProto.TYPE_INT64: _INT64,
    FieldDescriptorProto.TYPE_UINT64: {**_INT64, "format": "uint64", "pattern": "^[0-9]+$"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
WELL_KNOWN: Mapping[str, Json] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
}

Path_ = tuple[int, ...]


class Api:
    """All that files declare, with what is said of it."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.said: dict[str, str] = {}
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.services: dict[str, ServiceDescriptorProto] = {}
        for file in files.file:
            if file.package.startswith("standpipe."):
                self._take(file)

    def _take(self, file: FileDescriptorProto) -> None:
        said = {tuple(one.path): _text(one.leading_comments) for one in file.source_code_info.location}
        package = f".{file.package}"
        for at, message in enumerate(file.message_type):
            self._message(package, message, (4, at), said)
        for at, enum in enumerate(file.enum_type):
            self._enum(package, enum, (5, at), said)
        for at, service in enumerate(file.service):
            name = f"{package}.{service.name}"
            self.services[name] = service
            self.said[name] = said.get((6, at), "")
            for number, method in enumerate(service.method):
                self.said[f"{name}.{method.name}"] = said.get((6, at, 2, number), "")

    def _message(self, scope: str, message: DescriptorProto, at: Path_, said: Mapping[Path_, str]) -> None:
        name = f"{scope}.{message.name}"
        self.messages[name] = message
        self.said[name] = said.get(at, "")
        for number, field in enumerate(message.field):
            self.said[f"{name}.{field.name}"] = said.get((*at, 2, number), "")
        for number, nested in enumerate(message.nested_type):
            self._message(name, nested, (*at, 3, number), said)
        for number, enum in enumerate(message.enum_type):
            self._enum(name, enum, (*at, 4, number), said)

    def _enum(self, scope: str, enum: EnumDescriptorProto, at: Path_, said: Mapping[Path_, str]) -> None:
        name = f"{scope}.{enum.name}"
        self.enums[name] = enum
        values = [(value.name, said.get((*at, 2, number), "")) for number, value in enumerate(enum.value)]
        self.said[name] = "\n\n".join([said.get(at, ""), *(f"- {value}: {text}" for value, text in values)])

    # --- schemas ---

    def reachable(self) -> Iterator[str]:
        """Yield the names of all that methods take and give, and of the reasons of errors."""
        methods = [method for one in self.services.values() for method in one.method]
        waiting = [
            REASON,
            *(name for one in methods for name in (one.input_type, one.output_type)),
        ]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name in WELL_KNOWN:
                continue
            seen.add(name)
            message = self.messages.get(name)
            if message is None or not message.options.map_entry:
                yield name
            waiting += [field.type_name for field in message.field if field.type_name] if message else []

    def schema(self, name: str) -> Json:
        """Return the schema of a message or an enum."""
        if name in self.enums:
            values = [value.name for value in self.enums[name].value]
            said = self.said[name]
            if name == REASON:  # as ErrorInfo has them
                said, values = (said.replace(PREFIX, ""), [value.removeprefix(PREFIX) for value in values])
            return {"type": "string", "description": said, "enum": values}
        message = self.messages[name]
        found: Json = {"type": "object", "description": self.said[name]}
        one_of: dict[str, list[str]] = {}
        for field in message.field:
            if field.HasField("oneof_index") and not field.proto3_optional:
                one_of.setdefault(message.oneof_decl[field.oneof_index].name, []).append(field.json_name)
        notes = [f"At most one of {', '.join(names)} is there." for names in one_of.values()]
        found["description"] = "\n\n".join([found["description"], *notes])
        found["properties"] = {field.json_name: self._field(name, field) for field in message.field}
        return found

    def _field(self, message: str, field: FieldDescriptorProto) -> Json:
        said = {"description": self.said[f"{message}.{field.name}"]}
        if field.options.deprecated:
            said["deprecated"] = True  # type: ignore[assignment]
        entry = self.messages.get(field.type_name)
        if entry is not None and entry.options.map_entry:
            return {"type": "object", "additionalProperties": self._value(entry.field[1]), **said}
        value = self._value(field)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return {"type": "array", "items": value, **said}
        return {**value, **said}

    def _value(self, field: FieldDescriptorProto) -> Json:
        if field.type_name:
            return dict(WELL_KNOWN.get(field.type_name) or {"$ref": _ref(field.type_name)})
        return dict(SCALARS[field.type])

    # --- the document ---

    def document(self, release: str) -> Json:
        """Return the whole of it."""
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Standpipe",
                "version": release,
                "description": ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "http://127.0.0.1:7464", "description": "With listen_json: 127.0.0.1:7464"}],
            "security": [{}, {"bearer": []}],
            "tags": [{"name": one.name, "description": self.said[name]} for name, one in sorted(self.services.items())],
            "paths": {
                f"/{name[1:]}/{method.name}": {"post": self._operation(name, one, at)}
                for name, one in sorted(self.services.items())
                for at, method in enumerate(one.method)
            },
            "components": {
                "schemas": {name[1:]: self.schema(name) for name in sorted(self.reachable())} | _error(),
                "responses": {f"Error{status}": _refusal(codes) for status, codes in CODES.items()},
                "parameters": {
                    "Timeout": {
                        "name": "Connect-Timeout-Ms",
                        "in": "header",
                        "description": "The call's deadline in milliseconds; without it, the server's default.",
                        "schema": {"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
                    }
                },
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "Where the server asks for a token. It may ask for a client's certificate, too.",
                    }
                },
            },
        }

    def _operation(self, service: str, one: ServiceDescriptorProto, at: int) -> Json:
        method = one.method[at]
        answer = self.said[method.output_type] or f"A {method.output_type[1:]}."
        return {
            "operationId": f"{one.name}_{method.name}",
            "tags": [one.name],
            "description": self.said[f"{service}.{method.name}"],
            "parameters": [{"$ref": "#/components/parameters/Timeout"}],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": _ref(method.input_type)}}},
            },
            "responses": {
                "200": {
                    "description": answer,
                    "content": {"application/json": {"schema": {"$ref": _ref(method.output_type)}}},
                },
                **{str(status): {"$ref": f"#/components/responses/Error{status}"} for status in CODES},
            },
        }


def _error() -> Json:
    """Return the schemas of errors: Connect's, with the details that Standpipe's have."""
    text: Json = {"type": "string"}
    detail: Json = {
        "type": "object",
        "description": "What is to be said beside the message, for programs.",
        "required": ["type", "value"],
        "properties": {
            "type": {
                **text,
                "enum": ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"],
                "description": "The kind of detail, a protobuf message.",
            },
            "value": {**text, "contentEncoding": "base64", "description": "The message's bytes, without padding."},
            "debug": {
                "type": "object",
                "description": "The same message as JSON.",
                "properties": {
                    "reason": {"$ref": "#/components/schemas/standpipe.v1.ErrorReason"},
                    "domain": {"const": "standpipe.dev"},
                    "metadata": {
                        "type": "object",
                        "additionalProperties": text,
                        "description": "What goes with the reason, such as current_version.",
                    },
                    "fieldViolations": {
                        "type": "array",
                        "description": "Which field is wrong, and why.",
                        "items": {
                            "type": "object",
                            "properties": {"field": text, "description": text},
                        },
                    },
                    "retryDelay": {**WELL_KNOWN[".google.protobuf.Duration"], "description": "Call again after this."},
                },
            },
        },
    }
    codes = sorted({code for some in CODES.values() for code in some})
    error: Json = {
        "type": "object",
        "description": "Why a call failed. An ErrorInfo is the first of its details, wherever a method answered.",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "string", "enum": codes, "description": "gRPC's status, as Connect writes it."},
            "message": {"type": "string", "description": "What is wrong, for people; the field stands in front."},
            "details": {
                "type": "array",
                "description": "The same details that gRPC's errors have.",
                "items": {"$ref": "#/components/schemas/connect.ErrorDetail"},
            },
        },
    }
    return {"connect.Error": error, "connect.ErrorDetail": detail}


def _refusal(codes: tuple[str, ...]) -> Json:
    return {
        "description": f"The call failed: {', '.join(codes)}.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/connect.Error"}}},
    }


def _ref(name: str) -> str:
    return f"#/components/schemas/{name[1:]}"


def _text(comment: str) -> str:
    """Return a comment's paragraphs, each on one line."""
    parts = "\n".join(line.strip() for line in comment.splitlines()).split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts if part.strip())


if __name__ == "__main__":
    described, release = sys.argv[1:]
    api = Api(FileDescriptorSet.FromString(Path(described).read_bytes()))
    json.dump(api.document(release), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
