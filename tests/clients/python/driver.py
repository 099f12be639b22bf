"""The Python client behind one JSON object a line: what tests/clients drives in every language, in this one.

Reads commands until its input ends, and answers each with {"ok": …} or {"error": …}, one after another.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format

import standpipe
from standpipe import errors
from standpipe.v1 import context_pb2, context_pb2_grpc, turn_pb2


class Driver:
    """A client, and the sessions that it has touched, with their last bundles."""

    def __init__(self) -> None:
        self.client: Any = None
        self.sessions: dict[str, standpipe.client.Session] = {}
        self.bundles: dict[str, standpipe.Bundle] = {}

    def session(self, name: str, subject: str = "") -> Any:
        """Return the session of that name; its first command says the subject."""
        return self.sessions.setdefault(name, self.client.session(name, subject=subject))

    async def connect(self, target: str, **options: Any) -> dict[str, Any]:
        """Connect, and forget everything of a client before."""
        await self.close()
        self.client = standpipe.connect(target, **options)
        return {}

    async def close(self) -> dict[str, Any]:
        """Close the client."""
        if self.client is not None:
            await self.client.close()
        self.client, self.sessions, self.bundles = None, {}, {}
        return {}

    async def info(self) -> dict[str, Any]:
        """Say what the server is."""
        found = await self.client.server_info()
        return {"version": found.version, "record_engine": found.record_engine}

    async def hydrate(
        self, session: str, subject: str = "", query: str = "", fully: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Hydrate, and keep the bundle for a commit."""
        wish = standpipe.Consistency(fully_consistent=True) if fully else None
        bundle = await self.session(session, subject).hydrate(query, consistency=wish, **options)
        self.bundles[session] = bundle
        return {
            "version": bundle.version,
            "tokens": bundle.tokens,
            "fingerprint": bundle.fingerprint,
            "receipt": base64.b64encode(bundle.receipt).decode(),
            "token": bundle.token,
            "openai": bundle.to_openai(),
            "anthropic": bundle.to_anthropic(),
            "degraded": [one.cause for one in bundle.degraded],
        }

    async def commit(
        self, session: str, entries: list[Any], subject: str = "", from_bundle: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Commit entries."""
        bundle = self.bundles[session] if from_bundle else None
        made = [json_format.ParseDict(one, turn_pb2.TurnEntry()) for one in entries]
        done = await self.session(session, subject).commit(made, bundle=bundle, **options)
        return {
            "version": done.version,
            "event_hash": done.event_hash,
            "token": done.token,
            "replayed": done.replayed,
            "request_id": done.request_id,
        }

    async def turn(self, session: str, query: str, answer: str, subject: str = "", **options: Any) -> dict[str, Any]:
        """Take a turn whose n-th answer is `answer` and n."""
        asked = 0

        async def reply(bundle: standpipe.Bundle) -> str:
            nonlocal asked
            asked += 1
            return f"{answer} {asked}"

        done = await self.session(session, subject).turn(query, reply, **options)
        return {"version": done.commit.version, "asked": asked}

    async def replay(self, receipt: str) -> dict[str, Any]:
        """Render a bundle again."""
        return {"fingerprint": (await self.client.replay(base64.b64decode(receipt))).bundle.fingerprint}

    async def events(self, session: str, after: int = 0) -> dict[str, Any]:
        """Read the log."""
        found = [json_format.MessageToDict(one) async for one in self.session(session).events(after)]
        return {"events": found}

    async def get(self, session: str) -> dict[str, Any]:
        """Say where a session is."""
        found = await self.session(session).get()
        return {"version": found.version, "token": self.session(session).token}

    async def end(self, session: str) -> dict[str, Any]:
        """End a session."""
        await self.session(session).end()
        return {}

    async def token(self, session: str) -> dict[str, Any]:
        """Say what a session has seen."""
        return {"token": self.session(session).token}

    async def race(
        self, session: str, subject: str, committers: int, expected_version: int, start_unix_ms: float, tag: str
    ) -> dict[str, Any]:
        """Commit from many sessions at one time, at one version."""

        async def one(number: int) -> dict[str, Any]:
            racer = self.client.session(session, subject=subject)
            said = [standpipe.user(f"{tag} {number}")]
            await asyncio.sleep(max(0.0, start_unix_ms / 1000 - time.time()))
            try:
                done = await racer.commit(said, expected_version=expected_version, request_id=f"{tag}-{number}")
            except errors.StandpipeError as error:
                return {"error": told(error)}
            return {"version": done.version}

        return {"outcomes": await asyncio.gather(*(one(number) for number in range(committers)))}

    async def bench(self, session: str, subject: str, calls: int, warmup: int) -> dict[str, Any]:
        """Hydrate by the client and by the bare stub in turn; say how long each took, in microseconds."""
        mine = self.client.session(session, subject=subject)
        request = context_pb2.HydrateContextRequest(session_id=session, subject_id=subject)
        # The client asks for what its session has seen; the stub must not be asked for less.
        request.consistency.at_least_as_fresh = (await mine.hydrate()).token
        took: dict[str, list[float]] = {"client_us": [], "stub_us": []}
        async with grpc.aio.insecure_channel(self.client._wire._target) as channel:
            stub = context_pb2_grpc.ContextServiceStub(channel)
            for number in range(warmup + calls):
                began = time.perf_counter_ns()
                await mine.hydrate()
                between = time.perf_counter_ns()
                await stub.HydrateContext(request, timeout=10)
                ended = time.perf_counter_ns()
                if number >= warmup:
                    took["client_us"].append((between - began) / 1000)
                    took["stub_us"].append((ended - between) / 1000)
        return took


def told(error: errors.StandpipeError) -> dict[str, Any]:
    """Return an error as all drivers tell it."""
    names = ("code", "reason", "metadata", "field", "field_message", "retry_after_ms", "request_id", "message")
    return {"kind": type(error).__name__, **{name: getattr(error, name) for name in names}}


async def main() -> None:
    """Answer until the input ends."""
    driver = Driver()
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"ok": await getattr(driver, command.pop("do"))(**command)}
        except errors.StandpipeError as error:
            answer = {"error": told(error)}
        except Exception as error:
            answer = {"error": {"kind": type(error).__name__, "message": str(error)}}
        print(json.dumps(answer), flush=True)
    await driver.close()


if __name__ == "__main__":
    asyncio.run(main())
