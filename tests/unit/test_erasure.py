"""What was derived from a log, and how it is cut out: pure, by examples and by property."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from sidecar import erasure
from sidecar.beliefs import Ref
from sidecar.log.v1 import log_pb2
from sidecar.receipt import Signer
from sidecar.stores.record import Erasure, EventKind, ItemKind, StoredEvent, StoredItem
from standpipe.v1 import fact_pb2, memory_pb2, turn_pb2

Cited = tuple[str, int, int | None]


def refs(cited: Iterable[Cited]) -> list[turn_pb2.EventRef]:
    """Return references; an entry of None is the whole event."""
    return [turn_pb2.EventRef(session_id=log, version=version, entry=entry) for log, version, entry in cited]


def claim(log: str, version: int, entry: int, *cited: Cited) -> StoredItem:
    """Return the item of a claim."""
    change = fact_pb2.MemoryChange(fact=fact_pb2.Fact(attribute="town", value="Oslo", sources=refs(cited)))
    return changed(log, version, entry, change)


def changed(log: str, version: int, entry: int, change: fact_pb2.MemoryChange) -> StoredItem:
    """Return the item of a change."""
    return StoredItem(
        position=1,
        session=log,
        version=version,
        entry=entry,
        chunk=0,
        role=2,
        speaker="",
        spoken_at_us=0,
        text="",
        terms=b"",
        tokens={},
        kind=ItemKind.CHANGE,
        detail=log_pb2.ItemDetail(change=change).SerializeToString(),
    )


def test_claims_that_rest_on_a_log_are_found_through_others() -> None:
    """What cites the log, what cites that, by entry or as a whole event; and nothing else."""
    changes = [
        claim("~m~ana", 1, 0, ("gone", 1, 0)),
        claim("~m~ana", 1, 1, ("kept", 1, 0)),
        claim("~m~ana", 2, 0, ("~m~ana", 1, 0), ("kept", 1, 0)),
        claim("~m~ana", 2, 1, ("~m~ana", 1, 1)),
        claim("kept", 3, 2, ("~m~ana", 2, None)),
        claim("gone", 2, 1, ("gone", 1, 0)),
        claim("kept", 4, 0, ("gone", 7, None)),
    ]
    found = erasure.resting_on("gone", changes)
    assert found == [Ref("kept", 4, 0), Ref("~m~ana", 1, 0), Ref("~m~ana", 2, 0), Ref("kept", 3, 2)]
    assert erasure.resting_on("gone", reversed(changes)) == found
    assert erasure.resting_on("nobody", changes) == []


def test_confirmations_and_replacements_rest_on_their_sources() -> None:
    """A confirmation goes, what it confirmed stays; a replacement goes with its correction; a pin rests on nothing."""
    (fact,) = refs([("~m~ana", 1, 0)])
    sources = refs([("gone", 1, 0)])
    confirmation = fact_pb2.Confirmation(fact=fact, sources=sources)
    replaced = fact_pb2.FactCorrection(
        fact=fact, replacement=fact_pb2.Fact(attribute="town", value="Bergen", sources=sources)
    )
    retracted = fact_pb2.FactCorrection(fact=turn_pb2.EventRef(session_id="gone", version=1, entry=0))
    changes = [
        claim("~m~ana", 1, 0, ("kept", 1, 0)),
        changed("~m~ana", 2, 0, fact_pb2.MemoryChange(confirmation=confirmation)),
        changed("~m~ana", 3, 0, fact_pb2.MemoryChange(correction=replaced)),
        changed("~m~ana", 4, 0, fact_pb2.MemoryChange(correction=retracted)),
        changed("~m~ana", 5, 0, fact_pb2.MemoryChange(pin=fact_pb2.Pin(fact=fact, pinned=True))),
    ]
    assert erasure.resting_on("gone", changes) == [Ref("~m~ana", 2, 0), Ref("~m~ana", 3, 0)]


@given(st.lists(st.lists(st.integers(-2, 20), min_size=1, max_size=3), max_size=20))
def test_what_stays_rests_on_nothing_that_went(cited: list[list[int]]) -> None:
    """Of random claims, each citing earlier ones or a log, exactly those without a way to the log stay."""
    changes, tainted = [], set()
    for number, some in enumerate(cited):
        sources: list[Cited] = []
        for one in some:
            if 0 <= one < number:
                sources.append(("~m~ana", one + 1, 0 if one % 2 else None))
            else:
                sources.append(("gone" if one == -1 else "kept", 1, 0))
        if any(log == "gone" or (log, version) in tainted for log, version, _ in sources):
            tainted.add(("~m~ana", number + 1))
        changes.append(claim("~m~ana", number + 1, 0, *sources))
    found = [one[:2] for one in erasure.resting_on("gone", changes)]
    assert set(found) == tainted
    # Cut from the end, each is found again as long as it is there.
    for count in range(len(found)):
        left = [one for one in changes if (one.session, one.version) not in found[count:]]
        assert [one[:2] for one in erasure.resting_on("gone", left)] == found[:count]


def stored(kind: EventKind, body: bytes) -> StoredEvent:
    """Return an event with a body."""
    return StoredEvent(
        session="s",
        version=1,
        kind=kind,
        request_id="r",
        committed_at_us=1,
        body=body,
        previous_hash=b"",
        event_hash=b"",
        weight_end_bytes=0,
        position_end=3,
    )


def test_what_is_cut_out_leaves_its_place() -> None:
    """The entries keep their numbers, what became of each claim stays, and of the text nothing."""
    changes = [
        log_pb2.StoredChange(change=fact_pb2.MemoryChange(fact=fact_pb2.Fact(value=value, sources=refs([("s", 1, 0)]))))
        for value in ("first", "second", "third")
    ]
    results = [fact_pb2.FactResult(outcome=fact_pb2.FACT_OUTCOME_HELD)] * 3
    turn = turn_pb2.Turn(entries=[turn_pb2.TurnEntry(message=turn_pb2.Message(text="hello"))])
    of_turn = stored(
        EventKind.TURN, log_pb2.StoredTurn(turn=turn, changes=changes, results=results).SerializeToString()
    )
    body = erasure.emptied(of_turn, {1, 3})
    cut = log_pb2.StoredTurn.FromString(body)
    assert [one.change.fact.value for one in cut.changes] == ["first", "", "third"]
    assert (cut.turn, [*cut.results]) == (turn, results)
    assert b"second" not in body
    assert list(erasure.changes_of(of_turn)) == [1, 2, 3]
    of_memory = stored(EventKind.MEMORY, log_pb2.StoredMemory(changes=changes).SerializeToString())
    emptied = log_pb2.StoredMemory.FromString(erasure.emptied(of_memory, ()))
    assert [one.ByteSize() for one in emptied.changes] == [0, 0, 0]


def row(**fields: object) -> Erasure:
    """Return an erasure that is done."""
    kept = {"tenant": "acme", "subject": "ana", "session": "", "asked_at_us": 5, "done_at_us": 9, "logs": 1}
    return Erasure(**(kept | {"events": 2, "items": 3, "events_redacted": 4, "keys": 1} | fields))  # type: ignore[arg-type]


def test_a_receipt_is_signed_over_all_that_it_says() -> None:
    """Every field changes the signature; a document's log is told as the document; other keys know it not."""
    signer = Signer(bytes(32))
    whole = erasure.receipt_of(row(), signer)
    assert signer.signed_erasure(whole)
    assert not Signer(b"x" * 32).signed_erasure(whole)
    changed = [row(subject="ben"), row(session="s"), row(session="~d~ana~doc"), row(logs=2), row(done_at_us=10)]
    signatures = {erasure.receipt_of(one, signer).signature for one in changed}
    assert len(signatures | {whole.signature}) == 6
    forged = memory_pb2.ErasureReceipt()
    forged.CopyFrom(whole)
    forged.items += 1
    assert not signer.signed_erasure(forged)
    of_all = erasure.receipt_of(row(subject="~", session="~d~~doc"), signer)
    assert (of_all.subject_id, of_all.session_id, of_all.document_id) == ("", "", "doc")
