"""Bulk ingestion: documents of files, directories and JSON Lines, sent to a server, however many they are.

It is a client. A document is its content: sent again it changes nothing, so whatever breaks off is run again. A
journal, where one is kept, says what was acknowledged, and that is not even sent. Files are read as they are sent: at
no time does the process hold more than twice what is in flight.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Self

from sidecar import canonical, limits, validate
from sidecar.errors import ConfigInvalid, InvalidField
from standpipe import errors
from standpipe.v1.fact_pb2 import Document
from standpipe.v1.memory_pb2 import DocumentResult

PATTERNS: Final = ("*.txt", "*.md", "*.rst", "*.jsonl")
"""Files of a directory that are documents, or hold some, unless others are named."""

LISTED_MAX: Final = 20
"""Refused documents that are listed one by one; the others are counted."""

_FIELDS: Final = ("document_id", "title", "text", "uri", "subject")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._:@/+-]+")
_HEAD: Final = "standpipe ingest 1"

_ALL: Final = frozenset({"STORE_FULL", "STORE_READ_ONLY", "TENANT_DENIED", "UNAUTHENTICATED"})
"""Reasons of which no other document would fare better."""

_PAUSE_S: Final = 0.1
_PAUSE_LONGEST_S: Final = 5.0

Send = Callable[[str, Sequence[Document]], Sequence[DocumentResult]]
"""Sends documents of a subject. Raises what the client raises."""


@dataclass(frozen=True, slots=True)
class Found:
    """A document, or what stands where one was expected."""

    place: str
    """Where, for people: a path, with a line if it has several."""
    subject: str
    document: Document
    read_bytes: int
    """Of the file, since the document before."""
    problem: str = ""
    """Why it is none: the reason, the field, and what is wrong."""


# --- reading ----------------------------------------------------------------------------------------------------------


def files(paths: Iterable[Path], patterns: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Yield files, each with the path that its document is named by: of a directory what matches, sorted, recursively.

    Hidden files, and links to directories, are passed over.
    """
    for path in paths:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        for directory, names, found in os.walk(path):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for name in sorted(found):
                if not name.startswith(".") and any(fnmatch(name, pattern) for pattern in patterns):
                    whole = Path(directory, name)
                    yield whole, whole.relative_to(path)


def read(
    paths: Iterable[Path], *, subject: str, title: str = "", patterns: Sequence[str] = PATTERNS
) -> Iterator[Found]:
    """Yield the documents of files and directories, checked; `subject` is whose they are, unless a line says another.

    Of two with one id, of one subject, the second is refused: which of them came last would be chance.
    """
    seen: set[bytes] = set()
    for path, name in files(paths, patterns):
        lines = path.suffix == ".jsonl" or str(path) == "-"
        for found in _lines(path, subject) if lines else _text(path, name, subject, title):
            if not found.problem:
                key = _key(found.subject, found.document.document_id)
                problem = _check(found)
                if not problem and key in seen:
                    problem = "INVALID_FIELD in document_id: names a document a second time"
                seen.add(key)
                if problem:
                    found = Found(found.place, found.subject, found.document, found.read_bytes, problem)  # noqa: PLW2901
            yield found


def document_id(name: Path) -> str:
    """Return the id of a file's document: its path, with what an id cannot hold replaced, and then still its own."""
    path = name.as_posix()
    plain = _FOREIGN.sub("_", path)
    if plain == path and len(path) <= limits.id_chars_max:
        return path
    mark = "-" + canonical.sha256((os.fsencode(path),)).hex()[:8]
    return plain[-(limits.id_chars_max - len(mark)) :] + mark


def _text(path: Path, name: Path, subject: str, title: str) -> Iterator[Found]:
    document = Document(document_id=document_id(name), title=title or name.stem)
    problem, content = "", b""
    try:
        with path.open("rb") as opened:
            content = opened.read(limits.document_bytes + 1)  # one more: then it is refused
        document.text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
        if len(content) > limits.document_bytes:
            problem = f"LIMIT_EXCEEDED in text: it has more than {limits.document_bytes} bytes"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    yield Found(str(path), subject, document, len(content), problem)


def _lines(path: Path, subject: str) -> Iterator[Found]:
    """Yield the documents of JSON Lines; "-" is standard input."""
    try:
        with contextlib.ExitStack() as stack:
            opened = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
            number = 0
            while line := opened.readline(limits.import_line_bytes + 1):
                number += 1
                size = len(line)
                if size > limits.import_line_bytes:
                    while part := opened.readline(limits.import_line_bytes):
                        size += len(part)
                        if part.endswith(b"\n"):
                            break
                if line.strip():
                    yield _line(f"{path}:{number}", line, size, subject)
    except OSError as error:
        yield Found(str(path), subject, Document(), 0, f"it cannot be read: {error.strerror}")


def _line(place: str, line: bytes, size: int, subject: str) -> Found:
    document, problem = Document(), ""
    try:
        if size > limits.import_line_bytes:
            raise _Wrong(f"LIMIT_EXCEEDED: it has more than {limits.import_line_bytes} bytes")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _Wrong("it is not JSON") from None
        if not isinstance(row, dict):
            raise _Wrong("it is no JSON object")
        for name, value in row.items():
            if name not in _FIELDS:
                raise _Wrong(f"INVALID_FIELD in {name}: there is no such field; there are {', '.join(_FIELDS)}")
            if not isinstance(value, str):
                raise _Wrong(f"INVALID_FIELD in {name}: must be a string")
            if name == "subject":
                subject = value
                continue
            try:
                setattr(document, name, value)
            except UnicodeEncodeError:  # half a character
                raise _Wrong(f"INVALID_FIELD in {name}: must be Unicode") from None
    except _Wrong as wrong:
        problem = str(wrong)
    return Found(place, subject, document, size, problem)


class _Wrong(Exception):
    """A line is no document."""


def _check(found: Found) -> str:
    """Return what a server would refuse a document for; empty for nothing."""
    try:
        validate.identifier(found.subject, "subject", optional=True)
        validate.documents([found.document], "documents")
    except InvalidField as error:
        where = (error.field or "").removeprefix("documents[0].")
        return f"{error.reason}{f' in {where}' if where else ''}: {error.message}"
    return ""


def _key(subject: str, name: str) -> bytes:
    return canonical.sha256((subject, name))[:16]


def _content(document: Document) -> bytes:
    return canonical.sha256(("document", document.title, document.uri, document.text))


# --- the journal ------------------------------------------------------------------------------------------------------


class Journal:
    """A file of what a server has acknowledged: ids and hashes, a line each, the last of an id being what counts."""

    def __init__(self, path: Path, *, target: str, tenant: str) -> None:
        """Read it, or begin it. Raises ConfigInvalid if it is another's, or another process writes it."""
        self._acknowledged: dict[bytes, bytes] = {}
        head = {"journal": _HEAD, "target": target, "tenant": tenant}
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise ConfigInvalid(f"{path} cannot be written: {error.strerror}", field="journal") from None
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigInvalid(f"another process writes {path}", field="journal") from None
            self._file.seek(0)
            whole = self._read(path, head)
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(whole)  # half a line, of a process that was killed
        if not whole:
            self._write([head])

    def _read(self, path: Path, head: dict[str, str]) -> int:
        """Take up its lines; return where the last whole one ends."""
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                if number == 1:
                    if row != head:
                        raise ConfigInvalid(f"{path} is of another server or tenant, or no journal", field="journal")
                else:
                    self._acknowledged[_key(row["subject"], row["document_id"])] = bytes.fromhex(row["sha256"])
            except (ValueError, KeyError, TypeError):
                raise ConfigInvalid(f"{path}:{number} is no line of a journal", field="journal") from None
            whole += len(line)
        return whole

    def knows(self, found: Found) -> bool:
        """Return whether this content was the last that was acknowledged under its id."""
        return self._acknowledged.get(_key(found.subject, found.document.document_id)) == _content(found.document)

    def note(self, batch: Sequence[Found], results: Sequence[DocumentResult]) -> None:
        """Write down that documents were acknowledged."""
        self._write(
            {
                "subject": found.subject,
                "document_id": found.document.document_id,
                "version": result.version,
                "sha256": _content(found.document).hex(),
            }
            for found, result in zip(batch, results, strict=True)
        )

    def _write(self, rows: Iterable[dict[str, object] | dict[str, str]]) -> None:
        self._file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- sending ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What became of what was read."""

    documents: int = 0
    ingested: int = 0
    there: int = 0
    """Whose content the server had."""
    skipped: int = 0
    """That the journal knew."""
    read_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By reason."""
    listed: list[str] = field(default_factory=list)
    """The first of those that were refused, each in a line."""

    @classmethod
    def of(cls, source: Iterable[Found]) -> Self:
        """Count what is there, and send nothing."""
        tally = cls()
        for found in source:
            tally.documents += 1
            tally.read_bytes += found.read_bytes
            if found.problem:
                tally.refuse(found, found.problem)
        return tally

    def refuse(self, found: Found, problem: str) -> None:
        """Count a document that is refused."""
        self.refused[problem.partition(":")[0].partition(" in ")[0]] += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append(f"{found.place}: {problem}")


class _Stopped(Exception):
    """The run is over: what waits is not sent."""


class Ingestion:
    """One run: some calls in flight, each of as many documents of one subject as it may have.

    A server that is overloaded gets the pause that it asks for, from all calls. One that cannot be reached is asked
    again for `limits.ingest_patience_s`; what is raised then ends the run.
    """

    def __init__(
        self, send: Send, *, calls_max: int, hang_up: Callable[[], None], journal: Journal | None = None
    ) -> None:
        """`hang_up` ends the calls in flight, of a run that breaks off."""
        self.tally = Tally()
        self._send = send
        self._hang_up = hang_up
        self._calls_max = calls_max
        self._journal = journal
        self._stop = threading.Event()
        # What the threads share; each write is one assignment.
        self._began_at = time.monotonic()
        self._answered_at: float | None = None
        self._resume_at = 0.0

    def run(
        self,
        source: Iterable[Found],
        *,
        report: Callable[[Tally], None],
        told: Callable[[DocumentResult], None] = lambda _: None,
    ) -> None:
        """Send all; `report` is told how far it is every now and then, `told` what the server says of each document.

        Raises what ends a run: no other document would fare better. Whatever it raises, what was acknowledged is
        counted and in the journal.
        """
        at_work: dict[Future[list[DocumentResult | errors.StandpipeError]], Sequence[Found]] = {}

        def settle(room: int) -> None:
            while len(at_work) > room:
                done, _ = wait(at_work, timeout=0.5, return_when=FIRST_COMPLETED)
                for one in done:
                    self._settle(at_work.pop(one), one.result(), told)
                report(self.tally)

        pool = ThreadPoolExecutor(self._calls_max, "ingest")
        try:
            for batch in self._batches(source):
                at_work[pool.submit(self._call, batch)] = batch
                settle(2 * self._calls_max - 1)
            settle(0)
        except BaseException:
            self._stop.set()
            self._hang_up()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            for one, batch in at_work.items():
                if not one.cancelled() and one.exception() is None:
                    self._settle(batch, one.result(), told)

    def _batches(self, source: Iterable[Found]) -> Iterator[Sequence[Found]]:
        """Yield what is to be sent, in calls: neighbours of one subject."""
        batch: list[Found] = []
        size = 0
        for found in source:
            self.tally.documents += 1
            if found.problem or (self._journal and self._journal.knows(found)):
                self.tally.read_bytes += found.read_bytes
                if found.problem:
                    self.tally.refuse(found, found.problem)
                else:
                    self.tally.skipped += 1
                continue
            more = len(found.document.text.encode())
            if batch and (
                found.subject != batch[0].subject
                or len(batch) == limits.documents_per_request_max
                or size + more > limits.documents_bytes
            ):
                yield batch
                batch, size = [], 0
            batch.append(found)
            size += more
        if batch:
            yield batch

    def _settle(
        self,
        batch: Sequence[Found],
        answers: Sequence[DocumentResult | errors.StandpipeError],
        told: Callable[[DocumentResult], None],
    ) -> None:
        noted = []
        for found, answer in zip(batch, answers, strict=True):
            self.tally.read_bytes += found.read_bytes
            if isinstance(answer, errors.StandpipeError):
                where = f" in {answer.field}" if answer.field else ""
                what = answer.field_message or answer.message
                self.tally.refuse(found, f"{answer.reason or answer.code}{where}: {what}")
                continue
            self.tally.ingested += answer.created
            self.tally.there += not answer.created
            noted.append((found, answer))
            told(answer)
        if self._journal and noted:
            self._journal.note([found for found, _ in noted], [answer for _, answer in noted])

    def _call(self, batch: Sequence[Found]) -> list[DocumentResult | errors.StandpipeError]:
        """Send documents of one subject until they are taken or refused; runs in a thread."""
        failures = 0
        while True:
            if self._stop.wait(max(0.0, self._resume_at - time.monotonic())):
                raise _Stopped
            try:
                results = self._send(batch[0].subject, [found.document for found in batch])
            except (errors.Overloaded, errors.Unavailable, errors.DeadlineExceeded) as error:
                if self._answered_at is None and not isinstance(error, errors.Overloaded):
                    raise  # nobody was ever there
                if time.monotonic() - (self._answered_at or self._began_at) > limits.ingest_patience_s:
                    raise
                asked_s = (error.retry_after_ms or 0) / 1000
                pause_s = max(asked_s, min(_PAUSE_LONGEST_S, _PAUSE_S * 2**failures))
                pause_s *= 1 + random.random()  # noqa: S311 - jitter, not a secret
                self._resume_at = max(self._resume_at, time.monotonic() + pause_s)
                failures += 1
            except errors.StandpipeError as error:
                if error.reason in _ALL or isinstance(error, errors.Cancelled):
                    raise
                if len(batch) == 1:
                    return [error]
                return [answer for found in batch for answer in self._call([found])]
            else:
                self._answered_at = time.monotonic()
                return list(results)
