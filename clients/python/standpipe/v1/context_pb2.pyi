from google.protobuf import timestamp_pb2 as _timestamp_pb2
from standpipe.v1 import bundle_pb2 as _bundle_pb2
from standpipe.v1 import fact_pb2 as _fact_pb2
from standpipe.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommitMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMIT_MODE_UNSPECIFIED: _ClassVar[CommitMode]
    COMMIT_MODE_FAIL: _ClassVar[CommitMode]
    COMMIT_MODE_APPEND: _ClassVar[CommitMode]
COMMIT_MODE_UNSPECIFIED: CommitMode
COMMIT_MODE_FAIL: CommitMode
COMMIT_MODE_APPEND: CommitMode

class Consistency(_message.Message):
    __slots__ = ("minimize_latency", "at_least_as_fresh", "at_exact_snapshot", "fully_consistent")
    MINIMIZE_LATENCY_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_AS_FRESH_FIELD_NUMBER: _ClassVar[int]
    AT_EXACT_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FULLY_CONSISTENT_FIELD_NUMBER: _ClassVar[int]
    minimize_latency: bool
    at_least_as_fresh: str
    at_exact_snapshot: str
    fully_consistent: bool
    def __init__(self, minimize_latency: bool = ..., at_least_as_fresh: _Optional[str] = ..., at_exact_snapshot: _Optional[str] = ..., fully_consistent: bool = ...) -> None: ...

class SourceBudget(_message.Message):
    __slots__ = ("source", "cap_tokens")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CAP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    source: _bundle_pb2.Source
    cap_tokens: int
    def __init__(self, source: _Optional[_Union[_bundle_pb2.Source, str]] = ..., cap_tokens: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("total_tokens", "sources")
    TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    total_tokens: int
    sources: _containers.RepeatedCompositeFieldContainer[SourceBudget]
    def __init__(self, total_tokens: _Optional[int] = ..., sources: _Optional[_Iterable[_Union[SourceBudget, _Mapping]]] = ...) -> None: ...

class HydrateContextRequest(_message.Message):
    __slots__ = ("tenant_id", "session_id", "subject_id", "route", "query", "budget", "consistency", "include", "tokenizer", "model")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    session_id: str
    subject_id: str
    route: str
    query: str
    budget: Budget
    consistency: Consistency
    include: _containers.RepeatedScalarFieldContainer[_bundle_pb2.Source]
    tokenizer: str
    model: str
    def __init__(self, tenant_id: _Optional[str] = ..., session_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., route: _Optional[str] = ..., query: _Optional[str] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ..., include: _Optional[_Iterable[_Union[_bundle_pb2.Source, str]]] = ..., tokenizer: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("source", "cause")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    source: _bundle_pb2.Source
    cause: str
    def __init__(self, source: _Optional[_Union[_bundle_pb2.Source, str]] = ..., cause: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("total_us", "hot_us", "record_us", "embed_us", "rank_us", "render_us")
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    HOT_US_FIELD_NUMBER: _ClassVar[int]
    RECORD_US_FIELD_NUMBER: _ClassVar[int]
    EMBED_US_FIELD_NUMBER: _ClassVar[int]
    RANK_US_FIELD_NUMBER: _ClassVar[int]
    RENDER_US_FIELD_NUMBER: _ClassVar[int]
    total_us: int
    hot_us: int
    record_us: int
    embed_us: int
    rank_us: int
    render_us: int
    def __init__(self, total_us: _Optional[int] = ..., hot_us: _Optional[int] = ..., record_us: _Optional[int] = ..., embed_us: _Optional[int] = ..., rank_us: _Optional[int] = ..., render_us: _Optional[int] = ...) -> None: ...

class TokenTax(_message.Message):
    __slots__ = ("bundle_tokens", "transcript_tokens", "stable_tokens")
    BUNDLE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STABLE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    bundle_tokens: int
    transcript_tokens: int
    stable_tokens: int
    def __init__(self, bundle_tokens: _Optional[int] = ..., transcript_tokens: _Optional[int] = ..., stable_tokens: _Optional[int] = ...) -> None: ...

class RecallInfo(_message.Message):
    __slots__ = ("items", "items_without_vector", "items_relevant")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_WITHOUT_VECTOR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_RELEVANT_FIELD_NUMBER: _ClassVar[int]
    items: int
    items_without_vector: int
    items_relevant: int
    def __init__(self, items: _Optional[int] = ..., items_without_vector: _Optional[int] = ..., items_relevant: _Optional[int] = ...) -> None: ...

class HydrateContextResponse(_message.Message):
    __slots__ = ("bundle", "receipt", "consistency_token", "degraded", "timings", "token_tax", "recall")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TAX_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    bundle: _bundle_pb2.Bundle
    receipt: bytes
    consistency_token: str
    degraded: _containers.RepeatedCompositeFieldContainer[Degradation]
    timings: Timings
    token_tax: TokenTax
    recall: RecallInfo
    def __init__(self, bundle: _Optional[_Union[_bundle_pb2.Bundle, _Mapping]] = ..., receipt: _Optional[bytes] = ..., consistency_token: _Optional[str] = ..., degraded: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., token_tax: _Optional[_Union[TokenTax, _Mapping]] = ..., recall: _Optional[_Union[RecallInfo, _Mapping]] = ...) -> None: ...

class CommitTurnRequest(_message.Message):
    __slots__ = ("tenant_id", "session_id", "subject_id", "request_id", "expected_version", "turn", "mode", "facts")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    session_id: str
    subject_id: str
    request_id: str
    expected_version: int
    turn: _turn_pb2.Turn
    mode: CommitMode
    facts: _containers.RepeatedCompositeFieldContainer[_fact_pb2.Fact]
    def __init__(self, tenant_id: _Optional[str] = ..., session_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., turn: _Optional[_Union[_turn_pb2.Turn, _Mapping]] = ..., mode: _Optional[_Union[CommitMode, str]] = ..., facts: _Optional[_Iterable[_Union[_fact_pb2.Fact, _Mapping]]] = ...) -> None: ...

class CommitResult(_message.Message):
    __slots__ = ("version", "event_hash", "consistency_token", "committed_at")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_HASH_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    version: int
    event_hash: bytes
    consistency_token: str
    committed_at: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[int] = ..., event_hash: _Optional[bytes] = ..., consistency_token: _Optional[str] = ..., committed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CommitTurnResponse(_message.Message):
    __slots__ = ("result", "replayed", "facts")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    result: CommitResult
    replayed: bool
    facts: _containers.RepeatedCompositeFieldContainer[_fact_pb2.FactResult]
    def __init__(self, result: _Optional[_Union[CommitResult, _Mapping]] = ..., replayed: bool = ..., facts: _Optional[_Iterable[_Union[_fact_pb2.FactResult, _Mapping]]] = ...) -> None: ...

class ReplayContextRequest(_message.Message):
    __slots__ = ("tenant_id", "receipt", "all_omissions")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ALL_OMISSIONS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    receipt: bytes
    all_omissions: bool
    def __init__(self, tenant_id: _Optional[str] = ..., receipt: _Optional[bytes] = ..., all_omissions: bool = ...) -> None: ...

class ReplayContextResponse(_message.Message):
    __slots__ = ("bundle", "served_at", "session_id", "subject_id", "degraded")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SERVED_AT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    bundle: _bundle_pb2.Bundle
    served_at: _timestamp_pb2.Timestamp
    session_id: str
    subject_id: str
    degraded: _containers.RepeatedCompositeFieldContainer[Degradation]
    def __init__(self, bundle: _Optional[_Union[_bundle_pb2.Bundle, _Mapping]] = ..., served_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., session_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., degraded: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Limit(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...

class EmbeddingInfo(_message.Message):
    __slots__ = ("model_id", "dimensions", "provider", "precision", "tokens_max", "remote", "ranks", "lag_items", "cosine_floor_thousandths")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    LAG_ITEMS_FIELD_NUMBER: _ClassVar[int]
    COSINE_FLOOR_THOUSANDTHS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    dimensions: int
    provider: str
    precision: str
    tokens_max: int
    remote: bool
    ranks: bool
    lag_items: int
    cosine_floor_thousandths: int
    def __init__(self, model_id: _Optional[str] = ..., dimensions: _Optional[int] = ..., provider: _Optional[str] = ..., precision: _Optional[str] = ..., tokens_max: _Optional[int] = ..., remote: bool = ..., ranks: bool = ..., lag_items: _Optional[int] = ..., cosine_floor_thousandths: _Optional[int] = ...) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "record_engine", "hot_engine", "tokenizers", "embedding", "limits", "projection_lag_items", "embeddings")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RECORD_ENGINE_FIELD_NUMBER: _ClassVar[int]
    HOT_ENGINE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZERS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_LAG_ITEMS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    version: str
    record_engine: str
    hot_engine: str
    tokenizers: _containers.RepeatedScalarFieldContainer[str]
    embedding: EmbeddingInfo
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    projection_lag_items: int
    embeddings: _containers.RepeatedCompositeFieldContainer[EmbeddingInfo]
    def __init__(self, version: _Optional[str] = ..., record_engine: _Optional[str] = ..., hot_engine: _Optional[str] = ..., tokenizers: _Optional[_Iterable[str]] = ..., embedding: _Optional[_Union[EmbeddingInfo, _Mapping]] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., projection_lag_items: _Optional[int] = ..., embeddings: _Optional[_Iterable[_Union[EmbeddingInfo, _Mapping]]] = ...) -> None: ...
