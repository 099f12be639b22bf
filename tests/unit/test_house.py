"""The house rules check themselves: names, layers of drivers, citations of promises, comments of the API."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from sidecar import errors
from sidecar.config import Config
from sidecar.errors import StandpipeError
from standpipe.v1 import error_pb2

ROOT = Path(__file__).parents[2]
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
SIDECAR = [path for path in sorted((ROOT / "sidecar").rglob("*.py")) if not path.name.endswith(GENERATED)]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))
COVERED = (*range(1, 8), 9, 10, 12, 13)
"""The promises that this release makes; the others come with what they are about."""


def name(path: Path) -> str:
    """Return a path as it is written from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Return the top names that a file imports, at its top or within."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


# --- files and drivers -----------------------------------------------------------------------------------------


def test_files_are_named_after_nouns() -> None:
    """No file is a drawer for what has no place of its own."""
    drawers = re.compile(r"(manager|utils?|helpers?|common|base|misc|models|types)\.py")
    assert [name(path) for path in SIDECAR if drawers.search(path.name)] == []


@pytest.mark.parametrize(
    ("driver", "homes"),
    [
        ("sqlite3", {"sidecar/stores/sqlite.py"}),
        ("psycopg", {"sidecar/stores/postgres.py"}),
        ("tiktoken", {"sidecar/tokens.py"}),
        ("onnxruntime", {"sidecar/embed.py"}),
        ("tokenizers", {"sidecar/embed.py"}),
        ("onnx", {"sidecar/bert.py"}),
        ("Stemmer", {"sidecar/recall.py"}),
        ("redis", {"sidecar/stores/redis.py"}),
        ("cryptography", {"sidecar/vault.py"}),
        ("jwt", {"sidecar/jwks.py"}),
        ("prometheus_client", {"sidecar/telemetry.py", "sidecar/health.py"}),
    ],
)
def test_each_driver_is_imported_in_one_place(driver: str, homes: set[str]) -> None:
    """A driver can be replaced in one file: no other imports it, and none has moved unseen."""
    assert {name(path) for path in SIDECAR if driver in imports(path)} == homes


def test_only_the_edges_know_grpc() -> None:
    """The servicers, the sockets and who calls a server speak gRPC; nothing between does."""
    found = {name(path) for path in SIDECAR if imports(path) & {"grpc", "grpc_health", "grpc_reflection"}}
    allowed = ("sidecar/servicers/", "sidecar/sockets.py", "sidecar/remote.py", "sidecar/cli/")
    assert [path for path in found if not path.startswith(allowed)] == []
    assert "sidecar/sockets.py" in found


def test_nothing_reaches_the_network_at_run_time() -> None:
    """Only the command that fetches a model knows a client of the web; serving never does."""
    clients = {"requests", "httpx", "aiohttp", "ftplib", "smtplib"}
    found = {
        name(path)
        for path in SIDECAR
        if imports(path) & clients or re.search(r"\burllib(\.| import )request\b", path.read_text())
    }
    assert re.findall(r"aiohttp\S*", (ROOT / "sidecar" / "json_api.py").read_text()) == ["aiohttp"]  # for `web` alone
    found.discard("sidecar/json_api.py")
    assert found <= {"sidecar/fetch.py", "sidecar/evaluation/measured.py", "sidecar/evaluation/conversations.py"}


def test_one_module_calls_an_endpoint_and_no_server_knows_it() -> None:
    """The extraction's endpoint is called in one file, which the worker alone has: nothing that serves can reach it."""
    calling = {name(path) for path in SIDECAR if re.search(r"\bhttp\.client\b", path.read_text())}
    assert calling - {"sidecar/authority.py"} == {"sidecar/chat.py"}
    knowing = {
        name(path) for path in SIDECAR if re.search(r"^from sidecar\.chat import", path.read_text(), re.MULTILINE)
    }
    assert knowing == {"sidecar/extraction.py", "sidecar/worker.py"}


def test_one_module_asks_who_callers_are_and_only_where_it_is_configured() -> None:
    """The one address that a server may call is called in one file, and made in one place, from two settings alone."""
    making = {name(path): path.read_text() for path in SIDECAR if re.search(r"\bAuthority\(", path.read_text())}
    assert making.keys() == {"sidecar/callers.py"}
    (made,) = re.findall(r"\n( *)authority = Authority\((\w+),", making["sidecar/callers.py"])
    assert made[1] == "place"
    assert "place = config.auth_jwks or config.auth_review\n" in making["sidecar/callers.py"]
    assert Config().auth_jwks == Config().auth_review == ""


def test_every_module_says_what_it_is() -> None:
    """Each file of the sidecar begins with a docstring, and ends its first sentence."""
    for path in SIDECAR:
        tree = ast.parse(path.read_text())
        if tree.body:
            said = ast.get_docstring(tree) or ""
            assert re.search(r"[.:]", said), name(path)


# --- tests -----------------------------------------------------------------------------------------------------


@cache
def every_test() -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return every test function of the repository."""
    return [
        (path, node)
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_every_test_says_what_it_shows() -> None:
    """Each test has a docstring that begins with a whole sentence, so that a failure says what is broken."""
    for path, test in every_test():
        said = ast.get_docstring(test)
        assert said, f"{name(path)}::{test.name}"
        assert re.search(r"[.:]$", said.split("\n\n")[0].rstrip()), f"{name(path)}::{test.name}"


@pytest.mark.parametrize("promise", COVERED)
def test_every_promise_is_cited_by_a_test(promise: int) -> None:
    """Each promise of this release is named in the docstring of a test that proves it."""
    cited = [test.name for _, test in every_test() if re.search(rf"\bP{promise}\b", ast.get_docstring(test) or "")]
    assert cited, f"nothing proves P{promise}"


def test_no_test_cites_a_promise_that_is_none() -> None:
    """Promises run from P1 to P13."""
    cited = {
        int(number) for _, test in every_test() for number in re.findall(r"\bP(\d+)\b", ast.get_docstring(test) or "")
    }
    assert cited <= set(range(1, 14))


@pytest.mark.parametrize("promise", COVERED)
def test_every_promise_is_in_the_architecture(promise: int) -> None:
    """ARCHITECTURE.md lists each promise, so that a reader finds where it is kept."""
    assert re.search(rf"\bP{promise}\b", (ROOT / "ARCHITECTURE.md").read_text())


# --- the API ---------------------------------------------------------------------------------------------------

_DECLARATION = re.compile(
    r"^\s*(?:(?:message|enum|service|rpc|oneof)\s+(\w+)|(?:optional\s+|repeated\s+)?(?:map<[^>]+>|[\w.]+)\s+(\w+)\s*=\s*-?\d+"
    r"|([A-Z][A-Z0-9_]+)\s*=\s*-?\d+)"
)


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_everything_in_the_api_has_a_comment(proto: Path) -> None:
    """The protos are the manual: above each message, field, enum, value, service and call stands a sentence."""
    lines = proto.read_text().splitlines()
    declared = 0
    for at, line in enumerate(lines):
        found = _DECLARATION.match(line)
        if not found or line.strip().startswith(("//", "option ", "syntax")):
            continue
        declared += 1
        above = lines[at - 1].strip()
        assert above.startswith("//"), f"{proto.name}:{at + 1}: {line.strip()} has no comment"
        comment = []
        for earlier in reversed(lines[:at]):
            if not earlier.strip().startswith("//"):
                break
            comment.insert(0, earlier.strip().removeprefix("//").strip())
        assert re.search(r"[.:]$", " ".join(comment)), f"{proto.name}:{at + 1}: the comment is no sentence"
    assert declared == _declared(proto)


def _declared(proto: Path) -> int:
    """Count what the compiled descriptor declares, so that the text check above misses nothing."""
    module = importlib.import_module(
        name(proto).removeprefix("protos/").removesuffix(".proto").replace("/", ".") + "_pb2"
    )
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    count = 0
    messages = list(file.message_type)
    enums = list(file.enum_type)
    while messages:
        one = messages.pop()
        real = [oneof for oneof in one.oneof_decl if not oneof.name.startswith("_")]
        count += 1 + len(one.field) + len(real)
        messages += [nested for nested in one.nested_type if not nested.options.map_entry]
        enums += list(one.enum_type)
    count += sum(1 + len(enum.value) for enum in enums)
    return count + sum(1 + len(service.method) for service in file.service)


def classes() -> dict[str, type[StandpipeError]]:
    """Return the error classes by their reasons; a class without its own never leaves the server."""
    found: dict[str, type[StandpipeError]] = {}
    for value in vars(errors).values():
        if not (isinstance(value, type) and issubclass(value, StandpipeError)) or value is StandpipeError:
            continue
        if "reason" in vars(value):
            assert value.reason not in found, f"two classes have the reason {value.reason}"
            found[value.reason] = value
    return found


def comments() -> dict[str, str]:
    """Return the comment above each reason of the proto's enum."""
    text = (ROOT / "protos" / "standpipe" / "v1" / "error.proto").read_text()
    found = re.findall(r"((?:^  //[^\n]*\n)+)  ERROR_REASON_(\w+) =", text, re.MULTILINE)
    return {reason: " ".join(line.strip(" /") for line in comment.splitlines()) for comment, reason in found}


def test_errors_and_reasons_match_one_to_one() -> None:
    """Each reason of the enum has one class, and each class its reason: the set is closed on both sides."""
    reasons = {value.removeprefix("ERROR_REASON_") for value in error_pb2.ErrorReason.keys()}  # noqa: SIM118 - no mapping
    reasons -= {"UNSPECIFIED"}
    assert set(classes()) == reasons


@pytest.mark.parametrize("reason", sorted(classes()))
def test_the_documented_status_is_the_sent_one(reason: str) -> None:
    """The comment in the proto begins with the status that the class has, and says RetryInfo where there is one."""
    comment, error = comments()[reason], classes()[reason]
    assert re.match(r"[A-Z_]+", comment)[0] == error.status  # type: ignore[index]
    assert ("RetryInfo" in comment) == (error.retry_after_ms is not None)
    assert error.__doc__


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The drawing at the top of errors.py names every class."""
    assert [error.__name__ for error in classes().values() if error.__name__ not in (errors.__doc__ or "")] == []


def test_only_unavailable_is_retried_by_clients() -> None:
    """P12: what a client retries by itself is UNAVAILABLE alone, and each such error says after how long."""
    for error in classes().values():
        if error.status == "UNAVAILABLE":
            assert error.retry_after_ms
        elif error.retry_after_ms:
            assert error.status == "RESOURCE_EXHAUSTED"
