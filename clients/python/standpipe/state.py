"""Records that an application keeps beside the conversation: checkpoints of a workflow, an agent's store, settings.

::

    notes = client.state("notes", subject="anna")
    revision = await notes.put("trip/packing", b"passport, charger")
    await notes.put("trip/packing", b"passport", expected_revision=revision)  # Conflict, if another came first
    async for record in notes.list("trip/"):
        print(record.key, record.value)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from google.protobuf.message import Message

from standpipe.channel import Answered
from standpipe.v1.state_pb2 import (
    DeleteStateRequest,
    DeleteStateResponse,
    GetStateRequest,
    GetStateResponse,
    ListStateRequest,
    ListStateResponse,
    PutStateRequest,
    PutStateResponse,
    StateRecord,
    StateWrite,
)

if TYPE_CHECKING:
    from standpipe.client import Client

__all__ = ["Record", "State", "Write"]

KEYS_MAX: Final = 256
"""Keys of one call: the server's `state_writes_max`."""


@dataclass(frozen=True)
class Write:
    """One change of one record, for `State.write`."""

    key: str
    """1 to 1024 bytes of UTF-8 on one line, without control characters. It is not encrypted."""
    value: bytes | None
    """At most 1 MiB; None deletes the record, if there is one."""
    expected_revision: int | None = None
    """The revision that the record must have, 0 for none; None writes over whatever there is."""
    ttl_s: int | None = None
    """For how long it is kept; None: until it is deleted."""


@dataclass(frozen=True)
class Record:
    """A record as it stands."""

    key: str
    """Its key."""
    value: bytes
    """Its value; empty in a list of keys alone."""
    revision: int
    """The revision of its last write, which no other write of the subject has."""
    updated_at: datetime
    """When that was, in UTC."""
    expires_at: datetime | None
    """Until when it is kept; None: until it is deleted."""


class State:
    """Records of one collection, of a subject or of the whole tenant. Reach it as `client.state`.

    After Unavailable or DeadlineExceeded a write may have happened; one without `expected_revision` can just be
    repeated. One with it that was repeated, by the channel's retries too, may raise Conflict for its own first attempt:
    where that matters, put something into the value that tells.
    """

    def __init__(self, client: Client, collection: str, subject: str = "") -> None:
        self.collection = collection
        self.subject = subject
        self._client = client

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected_revision: int | None = None,
        ttl_s: int | None = None,
        deadline_ms: int | None = None,
    ) -> int:
        """Write a record; return its revision. Raises Conflict, if it has another revision than is expected."""
        write = Write(key, value, expected_revision=expected_revision, ttl_s=ttl_s)
        return await self.write(write, deadline_ms=deadline_ms)

    async def write(self, *writes: Write, deadline_ms: int | None = None) -> int:
        """Change records, all or none; return the revision of all of it.

        1 to 256 writes of keys that differ, with 4 MiB in all. Raises Conflict (`error.metadata`: key_index, the place
        of the write; current_version, the record's revision), InvalidArgument (LIMIT_EXCEEDED), FailedPrecondition
        (ERASED).
        """
        request = PutStateRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            collection=self.collection,
            writes=[
                StateWrite(key=one.key, value=one.value, expected_revision=one.expected_revision, ttl_s=one.ttl_s)
                for one in writes
            ],
        )
        return (await self._call("PutState", request, PutStateResponse, deadline_ms)).revision

    async def get(self, key: str, *, deadline_ms: int | None = None) -> Record | None:
        """Return a record, or None without one."""
        return (await self.get_all([key], deadline_ms=deadline_ms)).get(key)

    async def get_all(self, keys: Iterable[str], *, deadline_ms: int | None = None) -> dict[str, Record]:
        """Return the records that there are, by key, in the order of `keys`: any number of them, in as many calls as
        they take. `deadline_ms` is for each.
        """
        found: dict[str, Record] = {}
        wanted = list(dict.fromkeys(keys))
        while wanted:
            some, wanted = wanted[:KEYS_MAX], wanted[KEYS_MAX:]
            request = GetStateRequest(
                tenant_id=self._client._tenant, subject_id=self.subject, collection=self.collection, keys=some
            )
            got = await self._call("GetState", request, GetStateResponse, deadline_ms)
            found.update((one.key, _record(one)) for one in got.records)
            wanted = [*got.unread_keys, *wanted]
        return found

    async def list(
        self,
        prefix: str = "",
        *,
        descending: bool = False,
        keys_only: bool = False,
        page_size: int = 0,
        deadline_ms: int | None = None,
    ) -> AsyncIterator[Record]:
        """Iterate over the records whose keys begin with `prefix`, by the bytes of their keys.

        `keys_only` leaves values out. `page_size` is 0 (the server's 100) to 1000; `deadline_ms` is for each page.
        """
        request = ListStateRequest(
            tenant_id=self._client._tenant,
            subject_id=self.subject,
            collection=self.collection,
            key_prefix=prefix,
            descending=descending,
            keys_only=keys_only,
            page_size=page_size,
        )
        while True:
            page = await self._call("ListState", request, ListStateResponse, deadline_ms)
            for one in page.records:
                yield _record(one)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete(self, key: str, *, expected_revision: int | None = None, deadline_ms: int | None = None) -> None:
        """Delete a record, if there is one. Raises Conflict, if it has another revision than is expected."""
        await self.write(Write(key, None, expected_revision=expected_revision), deadline_ms=deadline_ms)

    async def delete_all(self, prefix: str = "", *, deadline_ms: int | None = None) -> int:
        """Delete the records whose keys begin with `prefix`, in as many calls as it takes; return how many there were.

        An empty one deletes the whole collection. It is not atomic; `deadline_ms` is for each call.
        """
        request = DeleteStateRequest(
            tenant_id=self._client._tenant, subject_id=self.subject, collection=self.collection, key_prefix=prefix
        )
        deleted = 0
        while True:
            got = await self._call("DeleteState", request, DeleteStateResponse, deadline_ms)
            deleted += got.deleted
            if not got.more:
                return deleted

    async def _call(self, method: str, request: Message, answer: type[Answered], deadline_ms: int | None) -> Answered:
        return await self._client._call(f"StateService/{method}", request, answer, deadline_ms)


def _record(one: StateRecord) -> Record:
    expires_at = one.expires_at.ToDatetime(UTC) if one.HasField("expires_at") else None
    return Record(one.key, one.value, one.revision, one.updated_at.ToDatetime(UTC), expires_at)
