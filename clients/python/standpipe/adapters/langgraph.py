"""LangGraph's checkpointer and store on `client.state`: data of a subject, that is erased and exported with it.

::

    saver = StandpipeSaver(client, subject=lambda config: config["configurable"]["user_id"])
    store = StandpipeStore(client, subject=lambda namespace: namespace[1])
    graph = builder.compile(checkpointer=saver, store=store)

Both take an asynchronous client or one of `standpipe.sync`, and have LangGraph's blocking and asynchronous methods
either way: over a blocking client the asynchronous ones run in threads, and over an asynchronous client other threads
than its event loop's can call the blocking ones.

Keys are not encrypted; values are. A thread's id, a namespace and an item's key are part of keys.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import mul
from typing import Any, Final, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
    validate_op_namespace,
)

from standpipe import errors, sync
from standpipe.adapters.records import Bridge, Kept, Records, key, pack, parts, short, unpack
from standpipe.client import Client
from standpipe.state import Write

__all__ = ["StandpipeSaver", "StandpipeStore"]

SubjectOfConfig: TypeAlias = str | Callable[[RunnableConfig], str]
SubjectOfNamespace: TypeAlias = str | Callable[[tuple[str, ...]], str]

_Row: TypeAlias = tuple[int, str, tuple[str, bytes]]
"""One write of a task: its place, the channel, and the value."""

INLINE_CHARS_MAX: Final = 256
"""Of a text that stands in each checkpoint as it is: shorter than what a record of its own would cost."""

CHECKPOINTS_AT_ONCE: Final = 16
"""Checkpoints of a list that are read together."""

ATTEMPTS: Final = 10
"""Of a task's writes that others of the same task are written beside."""

KEY_BYTES_MAX: Final = 1000
"""Of a namespace and a key in the store: the server's `state_key_bytes`, less what pieces add."""

TTL_S_MAX: Final = 315_360_000
"""The longest time that an item is kept: the server's `state_ttl_s`."""


class StandpipeSaver(BaseCheckpointSaver[str]):
    """Keeps a graph's checkpoints: each `put` is one atomic write, and no two writers overwrite each other's.

    A channel's value is stored once for each of its versions, so a checkpoint repeats nothing that did not change.
    Values of any size are taken. `subject` says whose they are: a name, or a function of the config, which gets
    `{"configurable": {"thread_id": ...}}` where LangGraph gives no more; empty means the tenant's own.

    A subject has at most 100,000 records; a step of a graph takes about three. `prune` and `delete_thread` make room.
    """

    def __init__(
        self,
        client: Client | sync.Client,
        *,
        subject: SubjectOfConfig,
        collection: str = "langgraph.checkpoints",
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._bridge = Bridge(client)
        self._subject = subject
        self._collection = collection

    # --- what LangGraph calls ---

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint, or the newest one of its thread and namespace."""
        return self._bridge.run(self._get(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint, or the newest one of its thread and namespace."""
        return await self._bridge.arun(self._get(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Iterate over checkpoints, newest first."""
        return self._bridge.iterate(lambda: self._list(config, filter, before, limit))

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Iterate over checkpoints, newest first."""
        return self._bridge.aiterate(lambda: self._list(config, filter, before, limit))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, with the channels that changed."""
        return self._bridge.run(self._put(config, checkpoint, metadata, new_versions))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, with the channels that changed."""
        return await self._bridge.arun(self._put(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; what it had written before stays."""
        self._bridge.run(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; what it had written before stays."""
        await self._bridge.arun(self._put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete all of a thread."""
        self._bridge.run(self._delete_thread(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all of a thread."""
        await self._bridge.arun(self._delete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of some runs, with all that no other one needs. Not while a thread of theirs runs."""
        self._bridge.run(self._delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of some runs, with all that no other one needs. Not while a thread of theirs runs."""
        await self._bridge.arun(self._delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread."""
        self._bridge.run(self._copy_thread(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread."""
        await self._bridge.arun(self._copy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but the newest checkpoint of each namespace, or with "delete" all of the threads.

        What the newest one's delta channels are made from stays, too. Not while a thread runs.
        """
        self._bridge.run(self._prune(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but the newest checkpoint of each namespace, or with "delete" all of the threads.

        What the newest one's delta channels are made from stays, too. Not while a thread runs.
        """
        await self._bridge.arun(self._prune(thread_ids, strategy))

    def get_next_version(self, current: str | float | None, channel: None) -> str:
        """Return a channel's next version: no two writers ever make the same one."""
        del channel
        count = 0 if current is None else int(str(current).split(".")[0])
        return f"{count + 1:032}.{random.random():.16f}"

    # --- how it is done ---

    async def _get(self, config: RunnableConfig) -> CheckpointTuple | None:
        records, place = self._records(config), _place(config)
        if wanted := get_checkpoint_id(config):
            found = list((await records.read([key("c", *place, short(wanted))])).values())
        else:
            newest = records.list(key("c", *place), descending=True, page_size=1)
            found = [kept] if (kept := await anext(newest, None)) else []
        return next(iter(await self._tuples(records, found)), None)

    async def _list(
        self,
        config: RunnableConfig | None,
        matching: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> AsyncIterator[CheckpointTuple]:
        records = self._records(config)
        until = get_checkpoint_id(before) if before else None
        left = math.inf if limit is None else limit
        page: list[str] = []
        async for found in _and_end(self._newest(records, config)):
            if found is not None and (until is None or parts(found)[-1] < until):
                page.append(found)
            if left > 0 and page and (found is None or len(page) >= min(CHECKPOINTS_AT_ONCE, left)):
                kept = await records.read(page)
                page = []
                fits = [one for one in kept.values() if _matches(self._metadata(one), matching)]
                for one in await self._tuples(records, fits[: int(min(left, len(fits)))]):
                    left -= 1
                    yield one
            if left <= 0:
                return

    async def _newest(self, records: Records, config: RunnableConfig | None) -> AsyncIterator[str]:
        """Iterate over the keys of checkpoints, newest first."""
        asked = config["configurable"] if config else {}
        if config is not None and asked.get("checkpoint_ns") is not None:
            place = _place(config)
            if wanted := get_checkpoint_id(config):
                yield key("c", *place, short(wanted))
                return
            async for found in records.keys(key("c", *place), descending=True, page_size=100):
                yield found
            return
        below = key("c", short(asked["thread_id"])) if config else key("c")
        everywhere = [found async for found in records.keys(below)]
        for found in sorted(everywhere, key=lambda one: parts(one)[-1], reverse=True):
            if asked.get("checkpoint_id") in {None, "", parts(found)[-1]}:
                yield found

    async def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        asked = config["configurable"]
        place = _place(config)
        values = checkpoint["channel_values"]
        inline = {channel: value for channel, value in values.items() if _is_small(value)}
        writes = [
            Write(_blob(place, channel, version), pack({}, self.serde.dumps_typed(values[channel])))
            for channel, version in new_versions.items()
            if channel in values and channel not in inline
        ]
        about = {
            "thread": str(asked["thread_id"]),
            "ns": asked.get("checkpoint_ns", ""),
            "id": checkpoint["id"],
            "parent": asked.get("checkpoint_id") or "",
        }
        body = self.serde.dumps_typed({**checkpoint, "channel_values": inline})
        told = self.serde.dumps_typed(get_checkpoint_metadata(config, metadata))
        writes.append(Write(key("c", *place, short(checkpoint["id"])), pack(about, body, told)))
        await self._records(config).write(*writes)
        return _config(about, checkpoint["id"])

    async def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        records = self._records(config)
        below = key("w", *_place(config), short(get_checkpoint_id(config) or ""), short(task_id))

        def packed(some: Iterable[_Row]) -> bytes:
            rows = list(some)
            told = {"task": task_id, "path": task_path, "rows": [[at, channel] for at, channel, _ in rows]}
            return pack(told, *(data for _, _, data in rows))

        typed = {
            (at := WRITES_IDX_MAP.get(channel, place)): (at, channel, self.serde.dumps_typed(value))
            for place, (channel, value) in enumerate(writes)
        }
        marks = [Write(f"{below}{key(str(at))}", packed([row])) for at, row in typed.items() if at < 0]
        made = [row for at, row in typed.items() if at >= 0]
        name = f"{below}{key('all')}"
        before: Kept | None = None
        for _ in range(ATTEMPTS):
            held = _rows(before) if before else []
            known = {at for at, _, _ in held}
            more = [row for row in made if row[0] not in known]
            put = [Write(name, packed([*held, *more]), before.revision if before else 0)] if more else []
            try:
                await records.write(*marks, *put, before=[before] if before and put else ())
            except errors.Conflict:
                before = (await records.read([name])).get(name)
            else:
                return
        raise errors.Conflict("others wrote for the same task each time", reason="VERSION_CONFLICT")

    async def _delete_thread(self, thread_id: str) -> None:
        records = self._records(_thread(thread_id))
        for kind in ("c", "w", "b"):
            await records.remove_all(key(kind, short(str(thread_id))))

    async def _delete_for_runs(self, run_ids: Sequence[str]) -> None:
        runs = {str(run) for run in run_ids}
        if not runs:
            return
        records = self._records(None)
        gone: dict[str, set[str]] = {}
        async for kept in records.list(key("c")):
            if str(self._metadata(kept).get("run_id")) in runs:
                gone.setdefault(_above(kept.key), set()).add(kept.key)
        for below, keys in gone.items():
            await self._cut(records, below, lambda kept, keys=keys: kept.key not in keys)  # type: ignore[misc]

    async def _copy_thread(self, source: str, target: str) -> None:
        there, here = self._records(_thread(source)), self._records(_thread(target))
        for kind in ("b", "w", "c"):  # a checkpoint comes when all of it is there
            below = key(kind, short(str(source)))
            async for kept in there.list(below):
                value = kept.value
                if kind == "c":
                    about, typed = unpack(value)
                    value = pack({**about, "thread": str(target)}, *typed)
                await here.write(Write(f"{key(kind, short(str(target)))}{kept.key.removeprefix(below)}", value))

    async def _prune(self, thread_ids: Sequence[str], strategy: str) -> None:
        if strategy not in {"keep_latest", "delete"}:
            raise ValueError(f'strategy must be "keep_latest" or "delete", not {strategy!r}')
        for thread_id in thread_ids:
            if strategy == "delete":
                await self._delete_thread(thread_id)
                continue
            records = self._records(_thread(thread_id))
            places = {_above(found): found async for found in records.keys(key("c", short(str(thread_id))))}
            for below, newest in places.items():
                kept = await self._needed(records, below, newest)
                await self._cut(records, below, lambda one, kept=kept: one.key in kept)  # type: ignore[misc]

    async def _needed(self, records: Records, below: str, newest: str) -> set[str]:
        """Return the key of a checkpoint, and of those before it that its delta channels are made from.

        Such a channel has no value of its own in most checkpoints: it is the value of the last that has one, and all
        writes since.
        """
        needed = {newest}
        found = (await records.read([newest]))[newest]
        waiting = set(self._metadata(found).get("counters_since_delta_snapshot") or ())
        waiting -= set((await self._tuples(records, [found]))[0].checkpoint["channel_values"])
        while waiting and (parent := unpack(found.value)[0]["parent"]):
            above = f"{below}{key(short(parent))}"
            read = (await records.read([above])).get(above)
            if read is None:
                break
            found = read
            needed.add(above)
            waiting -= set((await self._tuples(records, [found]))[0].checkpoint["channel_values"])
        return needed

    async def _cut(self, records: Records, below: str, stays: Callable[[Kept], bool]) -> None:
        """Delete the checkpoints of a namespace that do not stay, their writes, and what no other one needs."""
        place = below.removeprefix("c!")
        blobs = [found async for found in records.keys(f"b!{place}")]  # before checkpoints: a newer one's are not in it
        gone, used = [], set()
        async for kept in records.list(below):
            if stays(kept):
                versions = self._checkpoint(kept)["channel_versions"]
                used |= {f"b!{place}{_channel(channel, version)}" for channel, version in versions.items()}
            else:
                gone.append(kept.key)
        await records.remove(gone, below)
        for found in gone:
            await records.remove_all(f"w!{found.removeprefix('c!')}")
        await records.remove([found for found in blobs if found not in used], f"b!{place}")

    async def _tuples(self, records: Records, kept: Sequence[Kept]) -> Sequence[CheckpointTuple]:
        """Return checkpoints with the values of their channels and what was written after them."""
        abouts = [unpack(one.value)[0] for one in kept]
        checkpoints = [self._checkpoint(one) for one in kept]
        wanted: list[dict[str, str]] = []
        for about, checkpoint in zip(abouts, checkpoints, strict=True):
            place, inline = (short(about["thread"]), short(about["ns"])), checkpoint["channel_values"]
            versions = checkpoint["channel_versions"].items()
            wanted.append({name: _blob(place, name, version) for name, version in versions if name not in inline})

        async def written(one: Kept) -> list[Kept]:
            return [found async for found in records.list(f"w!{one.key.removeprefix('c!')}", page_size=1000)]

        async def read() -> list[Kept]:
            return list((await records.read(name for blobs in wanted for name in blobs.values())).values())

        found, *writes = await self._bridge.together(read(), *map(written, kept))
        values = {one.key: unpack(one.value)[1][0] for one in found}
        return [
            CheckpointTuple(
                config=_config(about, about["id"]),
                checkpoint={
                    **checkpoint,
                    "channel_values": {
                        **{name: self.serde.loads_typed(values[at]) for name, at in blobs.items() if at in values},
                        **checkpoint["channel_values"],
                    },
                },
                metadata=self._metadata(one),
                parent_config=_config(about, about["parent"]) if about["parent"] else None,
                pending_writes=self._pending(pending),
            )
            for one, about, checkpoint, blobs, pending in zip(kept, abouts, checkpoints, wanted, writes, strict=True)
        ]

    def _pending(self, kept: Iterable[Kept]) -> Any:
        """Return writes in the order in which a run applies them: of the task's path, its id, and their place."""
        rows = []
        for one in kept:
            about, _ = unpack(one.value)
            rows += [(about["path"], about["task"], *row) for row in _rows(one)]
        rows.sort(key=lambda row: row[:3])
        return [(task, channel, self.serde.loads_typed(typed)) for _, task, _, channel, typed in rows]

    def _checkpoint(self, kept: Kept) -> Checkpoint:
        found: Checkpoint = self.serde.loads_typed(unpack(kept.value)[1][0])
        return found

    def _metadata(self, kept: Kept) -> CheckpointMetadata:
        found: CheckpointMetadata = self.serde.loads_typed(unpack(kept.value)[1][1])
        return found

    def _records(self, config: RunnableConfig | None) -> Records:
        if isinstance(self._subject, str):
            return self._bridge.records(self._collection, self._subject)
        try:
            return self._bridge.records(self._collection, self._subject(config or {"configurable": {}}))
        except KeyError as missing:
            raise ValueError(
                f"`subject` asks the config for {missing}, which it does not have here; what names no more than a "
                "thread, or nothing, needs a saver whose `subject` is a name"
            ) from missing


def _place(config: RunnableConfig) -> tuple[str, str]:
    """Return what the keys of a thread's namespace have in common."""
    asked = config["configurable"]
    return short(str(asked["thread_id"])), short(asked.get("checkpoint_ns") or "")


def _thread(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


def _config(about: Mapping[str, str], checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": about["thread"],
            "checkpoint_ns": about["ns"],
            "checkpoint_id": checkpoint_id,
        }
    }


def _above(of: str) -> str:
    """Return a key without its last part."""
    return f"{of.rsplit('!', 2)[0]}!"


def _blob(place: tuple[str, str], channel: str, version: str | float) -> str:
    return f"{key('b', *place)}{_channel(channel, version)}"


def _channel(channel: str, version: str | float) -> str:
    return key(short(channel), short(str(version)))


def _rows(kept: Kept) -> list[_Row]:
    about, typed = unpack(kept.value)
    return [(at, channel, one) for (at, channel), one in zip(about["rows"], typed, strict=True)]


def _is_small(value: Any) -> bool:
    """Tell what stands in each checkpoint as it is."""
    kind = type(value)
    return value is None or kind in {bool, int, float} or (kind is str and len(value) <= INLINE_CHARS_MAX)


def _matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    return all(metadata.get(name) == value for name, value in (wanted or {}).items())


async def _and_end(items: AsyncIterator[str]) -> AsyncIterator[str | None]:
    """Iterate over items, and None behind the last."""
    async for item in items:
        yield item
    yield None


# --- the store --------------------------------------------------------------------------------------------------


class StandpipeStore(BaseStore):
    """Keeps what a graph's nodes put, under namespaces, for all threads of a subject.

    `subject` says whose it is: a name, or a function of the namespace (of its known beginning, where a search or a list
    has no more), such as `lambda namespace: namespace[1]`; empty means the tenant's own. A search sees one subject.

    With `index`, items can be searched by meaning: vectors are kept beside the values that they are of, and compared
    here, one by one. Without an order of its own a search lists items by namespace and key. Items whose time has passed
    are never seen.
    """

    supports_ttl = True

    def __init__(
        self,
        client: Client | sync.Client,
        *,
        subject: SubjectOfNamespace,
        collection: str = "langgraph.store",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        self._bridge = Bridge(client)
        self._subject = subject
        self._collection = collection
        self.index_config = index
        self.ttl_config = ttl
        self._embeddings = ensure_embeddings(index["embed"]) if index else None
        self._fields = _paths((index or {}).get("fields") or ["$"])

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several things: what reads sees what was there before, and the last of two puts of an item counts."""
        return self._bridge.run(self._batch(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several things: what reads sees what was there before, and the last of two puts of an item counts."""
        return await self._bridge.arun(self._batch(list(ops)))

    async def _batch(self, ops: Sequence[Op]) -> list[Result]:
        results: dict[int, Result] = dict.fromkeys(range(len(ops)))
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        gets: dict[str, dict[int, GetOp]] = {}
        for at, op in enumerate(ops):
            validate_op_namespace(op)
            if isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
            elif isinstance(op, GetOp):
                gets.setdefault(self._of(op.namespace), {})[at] = op
            elif not isinstance(op, SearchOp | ListNamespacesOp):
                raise TypeError(f"unknown operation {type(op).__name__}")
        for subject, asked in gets.items():
            results |= await self._get(subject, asked)
        queries = await self._queries({op.query for op in ops if isinstance(op, SearchOp) and op.query})
        for at, op in enumerate(ops):
            if isinstance(op, SearchOp):
                results[at] = await self._search(op, queries.get(op.query or ""))
            elif isinstance(op, ListNamespacesOp):
                results[at] = await self._list(op)
        await self._put(puts.values())
        return [results[at] for at in range(len(ops))]

    async def _get(self, subject: str, asked: Mapping[int, GetOp]) -> dict[int, Result]:
        records = self._bridge.records(self._collection, subject)
        names = {at: _name(op.namespace, op.key) for at, op in asked.items()}
        found = await records.read(names.values())
        await _refresh(records, [found[names[at]] for at, op in asked.items() if op.refresh_ttl and names[at] in found])
        return {at: _item(found[name]) for at, name in names.items() if name in found}

    async def _put(self, puts: Iterable[PutOp]) -> None:
        mine: dict[str, list[tuple[str, PutOp]]] = {}
        for op in puts:
            mine.setdefault(self._of(op.namespace), []).append((_name(op.namespace, op.key), op))
        texts = {name: self._texts(op) for some in mine.values() for name, op in some}
        vectors = await self._vectors({text for paths in texts.values() for text in paths.values()})
        now = datetime.now(UTC).isoformat()
        for subject, some in mine.items():
            records = self._bridge.records(self._collection, subject)
            before = await records.read(name for name, _ in some)
            writes = []
            for name, op in some:
                if op.value is None:
                    writes.append(Write(name, None))
                    continue
                created = unpack(before[name].value)[0]["created"] if name in before else now
                paths = {path: vectors[text] for path, text in texts[name].items()}
                about = {"created": created, "updated": now, "ttl": op.ttl, "paths": list(paths)}
                body = json.dumps(dict(op.value), ensure_ascii=False).encode("utf-8", "surrogatepass")
                typed = [("json", body), *(("f4", struct.pack(f"<{len(one)}f", *one)) for one in paths.values())]
                writes.append(Write(name, pack(about, *typed), ttl_s=_seconds(op.ttl)))
            await records.write(*writes, before=before.values())

    async def _search(self, op: SearchOp, query: Sequence[float] | None) -> list[SearchItem]:
        records = self._bridge.records(self._collection, self._of(op.namespace_prefix))
        end = op.offset + op.limit
        found: list[Kept] = []
        if op.limit > 0:
            async for kept in records.list(key(*op.namespace_prefix)):
                if _fits(_value(kept), op.filter):
                    found.append(kept)
                if query is None and len(found) >= end:
                    break
        scored: list[tuple[float | None, Kept]] = [(None, kept) for kept in found]
        if query is not None:
            scored = [(_score(query, kept), kept) for kept in found]
            scored.sort(key=lambda one: -math.inf if one[0] is None else one[0], reverse=True)
        chosen = scored[op.offset : end]
        if op.refresh_ttl:
            await _refresh(records, [kept for _, kept in chosen])
        return [SearchItem(**_fields(kept), score=score) for score, kept in chosen]

    async def _list(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        known: list[str] = []
        for condition in op.match_conditions or ():
            labels = list(condition.path)
            plain = labels[: labels.index("*")] if "*" in labels else labels
            if condition.match_type == "prefix" and len(plain) > len(known):
                known = plain
        records = self._bridge.records(self._collection, self._of(tuple(known)))
        found = set()
        async for name in records.keys(key(*known)):
            namespace = tuple(parts(name)[:-2])
            if all(_meets(namespace, condition) for condition in op.match_conditions or ()):
                found.add(namespace[: op.max_depth] if op.max_depth is not None else namespace)
        return sorted(found)[op.offset : op.offset + op.limit]

    def _of(self, namespace: tuple[str, ...]) -> str:
        return self._subject if isinstance(self._subject, str) else self._subject(namespace)

    def _texts(self, op: PutOp) -> dict[str, str]:
        """Return what of an item is searched, by its path."""
        if self._embeddings is None or op.value is None or op.index is False:
            return {}
        fields = self._fields if op.index is None else _paths(op.index)
        found = {}
        for path, tokens in fields:
            for at, text in enumerate(get_text_at_path(op.value, tokens)):
                found[f"{path}.{at}"] = text
        return found

    async def _vectors(self, texts: Iterable[str]) -> dict[str, list[float]]:
        wanted = sorted(texts)
        if not wanted or self._embeddings is None:
            return {}
        if self._bridge.blocks:
            made = self._embeddings.embed_documents(wanted)
        else:
            made = await self._embeddings.aembed_documents(wanted)
        return dict(zip(wanted, made, strict=True))

    async def _queries(self, texts: Iterable[str]) -> dict[str, list[float]]:
        """Embed what is looked for, which some models do in another way than what is found."""
        if self._embeddings is None:
            return {}
        if self._bridge.blocks:
            return {text: self._embeddings.embed_query(text) for text in texts}
        return {text: await self._embeddings.aembed_query(text) for text in texts}


def _paths(fields: Iterable[str]) -> list[tuple[str, str | list[str]]]:
    """Return paths as LangGraph follows them; "$" is the whole item."""
    return [(path, path if path == "$" else tokenize_path(path)) for path in fields]


def _name(namespace: tuple[str, ...], item: str) -> str:
    """Return an item's key: an empty part sets it apart from the namespaces below, and lets it stand before them."""
    made = key(*namespace, "", item)
    if len(made.encode()) > KEY_BYTES_MAX:
        raise ValueError(f"a namespace and a key must not be longer than {KEY_BYTES_MAX} bytes together")
    return made


def _item(kept: Kept) -> Item:
    return Item(**_fields(kept))


def _fields(kept: Kept) -> dict[str, Any]:
    about, _ = unpack(kept.value)
    *namespace, _, item = parts(kept.key)
    return {
        "namespace": tuple(namespace),
        "key": item,
        "value": _value(kept),
        "created_at": datetime.fromisoformat(about["created"]),
        "updated_at": datetime.fromisoformat(about["updated"]),
    }


def _value(kept: Kept) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(unpack(kept.value)[1][0][1].decode("utf-8", "surrogatepass"))
    return found


async def _refresh(records: Records, found: Iterable[Kept]) -> None:
    """Keep items that were read for their time from now on; who writes meanwhile does so, too."""
    for kept in {one.key: one for one in found}.values():
        seconds = _seconds(unpack(kept.value)[0]["ttl"])
        if seconds is not None:
            try:
                await records.write(Write(kept.key, kept.value, kept.revision, seconds), before=[kept])
            except errors.Conflict:
                continue


def _seconds(ttl: float | None) -> int | None:
    """Return a time in minutes in whole seconds."""
    return None if ttl is None else min(max(1, math.ceil(ttl * 60)), TTL_S_MAX)


def _score(query: Sequence[float], kept: Kept) -> float | None:
    """Return the best cosine of a query and what is searched of an item, or None if nothing is."""
    best = None
    length = math.sqrt(sum(map(mul, query, query)))
    for _, packed in unpack(kept.value)[1][1:]:
        vector = struct.unpack(f"<{len(packed) // 4}f", packed)
        norm = math.sqrt(sum(map(mul, vector, vector))) * length
        cosine = sum(map(mul, query, vector)) / norm if norm else 0.0
        best = cosine if best is None or cosine > best else best
    return best


def _meets(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    if len(namespace) < len(path):
        return False
    if condition.match_type not in {"prefix", "suffix"}:
        raise ValueError(f"unknown match type {condition.match_type!r}")
    there = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in {"*", label} for label, wanted in zip(there, path, strict=True))


def _fits(value: Any, wanted: Mapping[str, Any] | None) -> bool:
    return all(_equals(value.get(name), asked) for name, asked in (wanted or {}).items())


def _equals(value: Any, asked: Any) -> bool:
    """Compare as LangGraph's stores do: operators, and objects and lists in depth."""
    if isinstance(asked, Mapping):
        if any(str(name).startswith("$") for name in asked):
            return all(_operate(value, name, other) for name, other in asked.items())
        return isinstance(value, Mapping) and all(_equals(value.get(name), other) for name, other in asked.items())
    if isinstance(asked, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(asked)
        return same and all(map(_equals, value, asked))
    return bool(value == asked)


def _operate(value: Any, name: str, asked: Any) -> bool:
    if name in {"$eq", "$ne"}:
        return bool(value == asked) is (name == "$eq")
    if name not in _ORDERED:
        raise ValueError(f"unknown operator {name!r}: $eq, $ne, $gt, $gte, $lt and $lte there are")
    try:
        return _ORDERED[name](float(value), float(asked))
    except (TypeError, ValueError):  # what is no number is neither more nor less
        return False


_ORDERED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "$gt": lambda value, asked: value > asked,
    "$gte": lambda value, asked: value >= asked,
    "$lt": lambda value, asked: value < asked,
    "$lte": lambda value, asked: value <= asked,
}
