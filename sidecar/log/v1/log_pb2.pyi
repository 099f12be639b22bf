from standpipe.v1 import fact_pb2 as _fact_pb2
from standpipe.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoredTurn(_message.Message):
    __slots__ = ("turn", "tokenizers", "analyses", "received_at_us", "changes", "results")
    TURN_FIELD_NUMBER: _ClassVar[int]
    TOKENIZERS_FIELD_NUMBER: _ClassVar[int]
    ANALYSES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    turn: _turn_pb2.Turn
    tokenizers: _containers.RepeatedScalarFieldContainer[str]
    analyses: _containers.RepeatedCompositeFieldContainer[EntryAnalysis]
    received_at_us: int
    changes: _containers.RepeatedCompositeFieldContainer[StoredChange]
    results: _containers.RepeatedCompositeFieldContainer[_fact_pb2.FactResult]
    def __init__(self, turn: _Optional[_Union[_turn_pb2.Turn, _Mapping]] = ..., tokenizers: _Optional[_Iterable[str]] = ..., analyses: _Optional[_Iterable[_Union[EntryAnalysis, _Mapping]]] = ..., received_at_us: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[StoredChange, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[_fact_pb2.FactResult, _Mapping]]] = ...) -> None: ...

class StoredMemory(_message.Message):
    __slots__ = ("changes", "tokenizers", "received_at_us", "results")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    TOKENIZERS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[StoredChange]
    tokenizers: _containers.RepeatedScalarFieldContainer[str]
    received_at_us: int
    results: _containers.RepeatedCompositeFieldContainer[_fact_pb2.FactResult]
    def __init__(self, changes: _Optional[_Iterable[_Union[StoredChange, _Mapping]]] = ..., tokenizers: _Optional[_Iterable[str]] = ..., received_at_us: _Optional[int] = ..., results: _Optional[_Iterable[_Union[_fact_pb2.FactResult, _Mapping]]] = ...) -> None: ...

class StoredChange(_message.Message):
    __slots__ = ("change", "analysis")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    change: _fact_pb2.MemoryChange
    analysis: EntryAnalysis
    def __init__(self, change: _Optional[_Union[_fact_pb2.MemoryChange, _Mapping]] = ..., analysis: _Optional[_Union[EntryAnalysis, _Mapping]] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class EntryAnalysis(_message.Message):
    __slots__ = ("chunks", "extract", "salience", "counts", "pii", "trust", "trivial")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    EXTRACT_FIELD_NUMBER: _ClassVar[int]
    SALIENCE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    PII_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    TRIVIAL_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[Span]
    extract: Span
    salience: int
    counts: _containers.RepeatedCompositeFieldContainer[Counts]
    pii: _containers.RepeatedCompositeFieldContainer[PiiSpan]
    trust: _fact_pb2.Trust
    trivial: bool
    def __init__(self, chunks: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., extract: _Optional[_Union[Span, _Mapping]] = ..., salience: _Optional[int] = ..., counts: _Optional[_Iterable[_Union[Counts, _Mapping]]] = ..., pii: _Optional[_Iterable[_Union[PiiSpan, _Mapping]]] = ..., trust: _Optional[_Union[_fact_pb2.Trust, str]] = ..., trivial: bool = ...) -> None: ...

class PiiSpan(_message.Message):
    __slots__ = ("start", "end", "kind")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    kind: str
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., kind: _Optional[str] = ...) -> None: ...

class ItemDetail(_message.Message):
    __slots__ = ("trust", "pii", "change", "recorded_at_us", "title", "trivial")
    TRUST_FIELD_NUMBER: _ClassVar[int]
    PII_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_US_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TRIVIAL_FIELD_NUMBER: _ClassVar[int]
    trust: _fact_pb2.Trust
    pii: _containers.RepeatedCompositeFieldContainer[PiiSpan]
    change: _fact_pb2.MemoryChange
    recorded_at_us: int
    title: str
    trivial: bool
    def __init__(self, trust: _Optional[_Union[_fact_pb2.Trust, str]] = ..., pii: _Optional[_Iterable[_Union[PiiSpan, _Mapping]]] = ..., change: _Optional[_Union[_fact_pb2.MemoryChange, _Mapping]] = ..., recorded_at_us: _Optional[int] = ..., title: _Optional[str] = ..., trivial: bool = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("whole", "extract", "chunks")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    EXTRACT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    whole: int
    extract: int
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, whole: _Optional[int] = ..., extract: _Optional[int] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class Extract(_message.Message):
    __slots__ = ("version", "entry", "header", "body", "tokens", "rank", "role", "trust", "masked")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    version: int
    entry: int
    header: str
    body: str
    tokens: int
    rank: int
    role: _turn_pb2.Role
    trust: _fact_pb2.Trust
    masked: bool
    def __init__(self, version: _Optional[int] = ..., entry: _Optional[int] = ..., header: _Optional[str] = ..., body: _Optional[str] = ..., tokens: _Optional[int] = ..., rank: _Optional[int] = ..., role: _Optional[_Union[_turn_pb2.Role, str]] = ..., trust: _Optional[_Union[_fact_pb2.Trust, str]] = ..., masked: bool = ...) -> None: ...

class OpenCall(_message.Message):
    __slots__ = ("version", "entry", "call", "tokens", "masked")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    version: int
    entry: int
    call: _turn_pb2.ToolCall
    tokens: int
    masked: bool
    def __init__(self, version: _Optional[int] = ..., entry: _Optional[int] = ..., call: _Optional[_Union[_turn_pb2.ToolCall, _Mapping]] = ..., tokens: _Optional[int] = ..., masked: bool = ...) -> None: ...

class FoldState(_message.Message):
    __slots__ = ("units", "offsets", "pool", "open_calls")
    UNITS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    OPEN_CALLS_FIELD_NUMBER: _ClassVar[int]
    units: int
    offsets: _containers.RepeatedScalarFieldContainer[int]
    pool: _containers.RepeatedCompositeFieldContainer[Extract]
    open_calls: _containers.RepeatedCompositeFieldContainer[OpenCall]
    def __init__(self, units: _Optional[int] = ..., offsets: _Optional[_Iterable[int]] = ..., pool: _Optional[_Iterable[_Union[Extract, _Mapping]]] = ..., open_calls: _Optional[_Iterable[_Union[OpenCall, _Mapping]]] = ...) -> None: ...
