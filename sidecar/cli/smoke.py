"""``standpipe smoke``: try a running server with a subject of its own, which is erased again."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator

import click

from sidecar.cli.failure import line
from sidecar.cli.target import calling, json_flag
from standpipe import Bundle, Commit, assistant, sync, user
from standpipe.errors import Conflict, StandpipeError

_QUESTION, _ANSWER = "Is the smoke test here?", "It is, and leaves nothing behind."
_ENTRIES = [user(_QUESTION), assistant(_ANSWER)]

_ERASE_MS = 60_000
"""The server begins an erasure anew where another process may have held the subject."""


class _Wrong(Exception):
    """An answer that breaks a promise; the message says how."""


@click.command(epilog="Exit codes: 0 all of it holds, 1 a step failed, 2 usage.")
@json_flag
@calling
def smoke(client: sync.Client, /, *, as_json: bool) -> None:
    """Try a running server: what it is, a commit, a hydrate, its replay, a conflict, a repetition, an erasure.

    It writes under a random subject that nobody else has, and erases it at the end, also after a step that failed. The
    caller needs ContextService and MemoryService/EraseSubject. With --json each step is a line.
    """
    began = time.perf_counter()

    def tell(step: str, found: str, *, well: bool) -> None:
        nonlocal began
        now = time.perf_counter()
        ms, began = round((now - began) * 1000, 1), now
        if as_json:
            click.echo(json.dumps({"step": step, "ok": well, "found": found, "ms": ms}, ensure_ascii=False))
        else:
            click.echo(f"{'ok' if well else 'failed':<7} {step:<8} {found} ({ms} ms)")

    trial = _Trial(client)
    for step, take in trial.steps():
        try:
            tell(step, take(), well=True)
        except (StandpipeError, _Wrong) as error:
            tell(step, line(error) if isinstance(error, StandpipeError) else str(error), well=False)
            try:
                trial.clean()
            except StandpipeError:
                click.echo(f"what was written, if anything: standpipe subject erase {trial.subject}", err=True)
            if isinstance(error, StandpipeError):
                raise
            raise click.ClickException(f"{step}: {error}") from None


class _Trial:
    """The steps, and what they left."""

    def __init__(self, client: sync.Client) -> None:
        name = f"smoke-{secrets.token_hex(8)}"
        self.subject = name
        self._client = client
        self._session = client.session(name, subject=name)
        self._wrote = False
        self._commit: Commit
        self._bundle: Bundle

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield the steps, in order."""
        for take in (self._info, self._first, self._hydrate, self._replay, self._conflict, self._again, self._erase):
            yield take.__name__.strip("_"), take

    def clean(self) -> None:
        """Erase what was written, if there is anything."""
        if self._wrote:
            self._client.memory(self.subject).erase(deadline_ms=_ERASE_MS)

    def _info(self) -> str:
        found = self._client.server_info()
        return f"{found.version} on {found.record_engine} and {found.hot_engine}"

    def _first(self) -> str:
        self._wrote = True  # it may have happened though no answer came
        self._commit = self._session.commit(_ENTRIES, expected_version=0)
        _hold(self._commit.version == 1 and not self._commit.replayed, "a first commit is not version 1")
        return "version 1"

    def _hydrate(self) -> str:
        bundle = self._bundle = self._session.hydrate("What did the smoke test leave?")
        _hold(bundle.version == 1, "the hydrate after the commit does not see it")
        _hold(_ANSWER in bundle.text or bool(bundle.omission_counts), "the bundle neither shows the turn nor omits it")
        missing = ", ".join(sorted({one.cause for one in bundle.degraded}))
        return f"{bundle.tokens} tokens, policy {bundle.policy}" + (f"; degraded: {missing}" if missing else "")

    def _replay(self) -> str:
        again = self._client.replay(self._bundle.receipt).bundle
        _hold(again.message == self._bundle.message, "the receipt gives another bundle")
        return f"equal, from a receipt of {len(self._bundle.receipt)} bytes"

    def _conflict(self) -> str:
        try:
            self._session.commit([user("And this?")], expected_version=0)
        except Conflict as error:
            _hold(
                (error.current_version, error.winner_request_id) == (1, self._commit.request_id),
                "the conflict does not name the commit that came first",
            )
            return "a second commit at version 0 is refused"
        raise _Wrong("a second commit at version 0 was taken")

    def _again(self) -> str:
        again = self._session.commit(_ENTRIES, expected_version=0, request_id=self._commit.request_id)
        _hold(again.replayed, "the same request id counted twice")
        _hold(again.event_hash == self._commit.event_hash, "the same request id gave another answer")
        return "the same request id gives the first answer"

    def _erase(self) -> str:
        receipt = self._client.memory(self.subject).erase(deadline_ms=_ERASE_MS)
        self._wrote = False
        _hold(receipt.subject_id == self.subject and bool(receipt.signature), "the receipt is not one of this erasure")
        _hold(receipt.logs >= 1 and receipt.events >= 1, "the receipt does not count what was written")
        return f"with a signed receipt: logs {receipt.logs}, events {receipt.events}, items {receipt.items}"


def _hold(promise: bool, otherwise: str) -> None:
    if not promise:
        raise _Wrong(otherwise)
