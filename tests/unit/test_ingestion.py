"""Bulk ingestion: what is read, what is sent, what is written down, whatever the server says."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sidecar import ingestion, limits
from sidecar.errors import ConfigInvalid
from sidecar.ingestion import Found, Ingestion, Journal, Tally, read
from standpipe import document, errors
from standpipe.v1.fact_pb2 import Document
from standpipe.v1.memory_pb2 import DocumentResult


def found_in(*paths: Path, **options: object) -> dict[str, str]:
    """Return what is read: by id, the problem or the text."""
    return {
        one.document.document_id or one.place: one.problem or one.document.text
        for one in read(paths, subject="ana", **options)  # type: ignore[arg-type]
    }


def test_a_directory_is_read_whole_and_in_order(tmp_path: Path) -> None:
    """Files that match, by the paths in it, sorted; hidden files and others are passed over."""
    for name in ("b.md", "a/z.txt", "a/deep/y.md", ".git/config.txt", "a/.hidden.md", "picture.png", "a b/ü.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"The text of {name}.")
    texts = found_in(tmp_path)
    odd = next(name for name in texts if name.startswith("a_b"))
    assert list(texts) == ["b.md", "a/z.txt", "a/deep/y.md", odd]
    assert texts["a/deep/y.md"] == "The text of a/deep/y.md."
    assert found_in(tmp_path, patterns=["*.png"]) == {"picture.png": "The text of picture.png."}
    assert found_in(tmp_path / "b.md") == {"b.md": "The text of b.md."}


def test_ids_of_paths_are_valid_and_differ() -> None:
    """A path that an id cannot hold is named by what it can hold of it, and by a hash of all."""
    ids = [ingestion.document_id(Path(name)) for name in ("a b.md", "a\tb.md", "a_b.md", "x" * 300, "y" + "x" * 299)]
    assert ids[2] == "a_b.md"
    assert len(set(ids)) == 5
    assert all(len(one) <= limits.id_chars_max for one in ids)
    assert not any(found.problem for found in [Found("", "", document(one, "text"), 0) for one in ids])
    assert not any(ingestion._check(Found("", "", document(one, "text"), 0)) for one in ids)


def test_a_line_that_is_no_document_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    """Each with its line and its field; no line ends the file."""
    lines = [
        '{"document_id": "a", "text": "one", "title": "A", "uri": "x:a", "subject": "ben"}',
        "",
        "{",
        "[]",
        '{"document_id": "b", "txt": "two"}',
        '{"document_id": "c", "text": 3}',
        '{"document_id": "a", "text": "another subject\'s"}',
        '{"document_id": "a", "text": "again", "subject": "ben"}',
        '{"document_id": "not an id", "text": "x"}',
        '{"document_id": "d", "text": "\\ud800"}',
        json.dumps({"document_id": "e", "text": "x" * limits.import_line_bytes}),
        json.dumps({"document_id": "f", "text": "x" * (limits.document_bytes + 1)}),
        '{"document_id": "g", "text": " "}',
        '{"document_id": "h", "text": "last"}',
    ]
    path = tmp_path / "big.jsonl"
    path.write_text("\n".join(lines))
    found = list(read([path], subject="ana"))
    problems = {int(one.place.rpartition(":")[2]): one.problem for one in found if one.problem}
    assert [(one.subject, one.document.text) for one in found if not one.problem] == [
        ("ben", "one"),
        ("ana", "another subject's"),
        ("ana", "last"),
    ]
    assert problems == {
        3: "it is not JSON",
        4: "it is no JSON object",
        5: "INVALID_FIELD in txt: there is no such field; there are document_id, title, text, uri, subject",
        6: "INVALID_FIELD in text: must be a string",
        8: "INVALID_FIELD in document_id: names a document a second time",
        9: problems[9],
        10: "INVALID_FIELD in text: must be Unicode",
        11: f"LIMIT_EXCEEDED: it has more than {limits.import_line_bytes} bytes",
        12: problems[12],
        13: "INVALID_FIELD in text: must not be blank",
    }
    assert problems[9].startswith("INVALID_FIELD in document_id: must be 1 to")
    assert problems[12].startswith("LIMIT_EXCEEDED in text")
    assert sum(one.read_bytes for one in found) == len(path.read_bytes()) - 1, "all but the blank line"
    tally = Tally.of(found)
    assert (tally.documents, tally.refused.total(), tally.refused["INVALID_FIELD"]) == (13, 10, 6)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """What is not UTF-8, too large, a broken link: each is a problem of its own, none ends the run."""
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "large.txt").write_text("é" * limits.document_bytes)
    (tmp_path / "marked.txt").write_bytes("\ufeffText.".encode())
    found = found_in(tmp_path)
    assert found["bytes.txt"] == "it is not UTF-8"
    assert found["gone.txt"].startswith("it cannot be read: ")
    assert found["large.txt"].startswith("LIMIT_EXCEEDED in text")
    assert found["marked.txt"] == "Text."


class Server:
    """Takes documents as a server does, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.failures: list[errors.StandpipeError] = []
        self.bad = ""
        self.lock = threading.Lock()
        self.versions: dict[tuple[str, str], list[str]] = {}

    def send(self, subject: str, documents: Sequence[Document]) -> list[DocumentResult]:
        """Take documents, or fail."""
        with self.lock:
            self.calls.append((subject, [one.document_id for one in documents]))
            if self.failures:
                raise self.failures.pop(0)
            if any(one.document_id == self.bad for one in documents):
                raise errors.InvalidArgument("no", code="INVALID_ARGUMENT", reason="INVALID_FIELD")
            return [self._take(subject, one) for one in documents]

    def _take(self, subject: str, one: Document) -> DocumentResult:
        texts = self.versions.setdefault((subject, one.document_id), [])
        created = texts[-1:] != [one.text]
        if created:
            texts.append(one.text)
        return DocumentResult(document_id=one.document_id, version=len(texts), created=created, chunks=1)


def some(count: int, *, subject: str = "ana", text: str = "text") -> list[Found]:
    """Return documents."""
    return [Found(f"f:{at}", subject, document(f"d-{at}", f"{text} {at}"), 10) for at in range(count)]


def run(server: Server, source: Sequence[Found], journal: Journal | None = None, calls_max: int = 3) -> Tally:
    """Send all."""
    ingested = Ingestion(server.send, calls_max=calls_max, hang_up=lambda: None, journal=journal)
    ingested.run(source, report=lambda _: None)
    return ingested.tally


def test_calls_are_as_large_as_they_may_be() -> None:
    """Of one subject each, of documents_per_request_max documents and documents_bytes at most."""
    server = Server()
    large = [Found("", "ben", document(f"l-{at}", "x" * limits.document_bytes), 1) for at in range(5)]
    tally = run(server, [*some(40), *large], calls_max=1)
    assert [(subject, len(ids)) for subject, ids in server.calls] == [
        ("ana", limits.documents_per_request_max),
        ("ana", limits.documents_per_request_max),
        ("ana", 40 - 2 * limits.documents_per_request_max),
        ("ben", limits.documents_bytes // limits.document_bytes),
        ("ben", 1),
    ]
    assert (tally.documents, tally.ingested, tally.there, tally.read_bytes) == (45, 45, 0, 405)


def test_one_that_is_refused_takes_no_other_with_it() -> None:
    """A call with a bad document is sent again one by one, and only that one is refused."""
    server = Server()
    server.bad = "d-5"
    tally = run(server, some(10))
    assert (tally.ingested, dict(tally.refused)) == (9, {"INVALID_FIELD": 1})
    assert tally.listed == ["f:5: INVALID_FIELD: no"]


def overloaded(retry_after_ms: int) -> errors.StandpipeError:
    """Return what a full server says."""
    error = errors.Overloaded("full", code="RESOURCE_EXHAUSTED", reason="OVERLOADED")
    error.retry_after_ms = retry_after_ms
    return error


def away() -> errors.StandpipeError:
    """Return what is said of a server that is not there."""
    return errors.Unavailable("gone", code="UNAVAILABLE")


def test_the_pause_that_a_server_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: by all calls; then the same documents are sent again, and none is lost or refused."""
    server = Server()
    server.failures = [overloaded(700), overloaded(900)]
    ingested = Ingestion(server.send, calls_max=1, hang_up=lambda: None)
    pauses: list[float] = []
    monkeypatch.setattr(ingested._stop, "wait", lambda pause_s: pauses.append(pause_s) and False)
    ingested.run(some(20), report=lambda _: None)
    assert (ingested.tally.ingested, ingested.tally.refused.total()) == (20, 0)
    assert 0.7 - 0.05 <= pauses[1] <= 1.4
    assert 0.9 - 0.05 <= pauses[2] <= 1.8
    assert [len(ids) for _, ids in server.calls] == [16, 16, 16, 4]


def test_a_server_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that had answered, for ingest_patience_s; one that never did is not, and the run ends with its error."""
    monkeypatch.setattr(ingestion, "_PAUSE_S", 0.001)
    server = Server()
    server.failures = [away()]
    with pytest.raises(errors.Unavailable):
        run(server, some(40), calls_max=1)
    assert len(server.calls) == 1
    ingested = Ingestion(server.send, calls_max=1, hang_up=lambda: None)
    ingested._answered_at = ingested._began_at
    server.failures = [away(), away(), away()]
    ingested.run(some(40), report=lambda _: None)
    assert ingested.tally.ingested == 40
    late = Ingestion(server.send, calls_max=1, hang_up=lambda: None)
    late._answered_at = late._began_at - limits.ingest_patience_s
    server.failures = [away()]
    with pytest.raises(errors.Unavailable):
        late.run(some(40), report=lambda _: None)


def test_what_all_would_fail_with_ends_the_run(tmp_path: Path) -> None:
    """A full store takes no other document either: the run ends, calls in flight are hung up, what was done is kept."""
    server, hung = Server(), threading.Event()
    server.failures = [errors.ResourceExhausted("full", code="RESOURCE_EXHAUSTED", reason="STORE_FULL")]
    with Journal(tmp_path / "j", target="t", tenant="") as journal:
        ingested = Ingestion(server.send, calls_max=1, hang_up=hung.set, journal=journal)
        with pytest.raises(errors.ResourceExhausted):
            ingested.run(some(100), report=lambda _: None)
    assert hung.is_set()
    assert len((tmp_path / "j").read_text().splitlines()) == 1 + ingested.tally.ingested


def test_a_journal_skips_what_was_acknowledged(tmp_path: Path) -> None:
    """The same content is not sent again, changed content is, content that is changed back too."""
    server, path = Server(), tmp_path / "journal"

    def again(text: str) -> Tally:
        server.calls.clear()
        with Journal(path, target="t", tenant="acme") as journal:
            return run(server, some(20, text=text), journal)

    assert (again("one").ingested, len(server.calls)) == (20, 2)
    assert (again("one").skipped, len(server.calls)) == (20, 0)
    assert again("two").ingested == 20
    assert again("one").ingested == 20
    assert again("one").skipped == 20
    assert "one" not in path.read_text(), "it holds hashes, and no content"


def test_half_a_line_of_a_journal_is_forgotten(tmp_path: Path) -> None:
    """A process that was killed as it wrote leaves half a line: that document is sent again, and the rest is known."""
    path = tmp_path / "journal"
    with Journal(path, target="t", tenant="") as journal:
        run(Server(), some(3), journal)
    os.truncate(path, path.stat().st_size - 5)
    server = Server()
    with Journal(path, target="t", tenant="") as journal:
        tally = run(server, some(3), journal)
    assert (tally.skipped, tally.there + tally.ingested) == (2, 1)
    with Journal(path, target="t", tenant="") as journal:
        assert run(server, some(3), journal).skipped == 3


def other_server(path: Path) -> None:
    """Open it for another server."""
    Journal(path, target="other", tenant="")


def other_tenant(path: Path) -> None:
    """Open it for another tenant."""
    Journal(path, target="t", tenant="other")


def no_journal(path: Path) -> None:
    """Open what is none."""
    path.write_text("My diary.\n")
    Journal(path, target="t", tenant="")


def nowhere(path: Path) -> None:
    """Open one in a directory that is not there."""
    Journal(path / "no" / "journal", target="t", tenant="")


@pytest.mark.parametrize("open_it", [other_server, other_tenant, no_journal, nowhere])
def test_a_journal_of_something_else_is_refused(tmp_path: Path, open_it: Callable[[Path], None]) -> None:
    """It would say of documents that they are where they are not."""
    path = tmp_path / "journal"
    Journal(path, target="t", tenant="").close()
    with pytest.raises(ConfigInvalid) as refusal:
        open_it(path)
    assert refusal.value.field == "journal"


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    """Of two runs at a time the second is refused."""
    path = tmp_path / "journal"
    with Journal(path, target="t", tenant=""), pytest.raises(ConfigInvalid, match="another process"):
        Journal(path, target="t", tenant="")
