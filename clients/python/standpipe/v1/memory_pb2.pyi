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

class BeliefStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BELIEF_STATUS_UNSPECIFIED: _ClassVar[BeliefStatus]
    BELIEF_STATUS_HELD: _ClassVar[BeliefStatus]
    BELIEF_STATUS_SUPERSEDED: _ClassVar[BeliefStatus]
    BELIEF_STATUS_RETRACTED: _ClassVar[BeliefStatus]
    BELIEF_STATUS_REJECTED: _ClassVar[BeliefStatus]
    BELIEF_STATUS_EXPIRED: _ClassVar[BeliefStatus]
    BELIEF_STATUS_NOT_VALID: _ClassVar[BeliefStatus]
    BELIEF_STATUS_QUARANTINED: _ClassVar[BeliefStatus]
    BELIEF_STATUS_PRUNED: _ClassVar[BeliefStatus]

class ExportFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPORT_FORMAT_UNSPECIFIED: _ClassVar[ExportFormat]
    EXPORT_FORMAT_JSON_LINES: _ClassVar[ExportFormat]
    EXPORT_FORMAT_MARKDOWN: _ClassVar[ExportFormat]
BELIEF_STATUS_UNSPECIFIED: BeliefStatus
BELIEF_STATUS_HELD: BeliefStatus
BELIEF_STATUS_SUPERSEDED: BeliefStatus
BELIEF_STATUS_RETRACTED: BeliefStatus
BELIEF_STATUS_REJECTED: BeliefStatus
BELIEF_STATUS_EXPIRED: BeliefStatus
BELIEF_STATUS_NOT_VALID: BeliefStatus
BELIEF_STATUS_QUARANTINED: BeliefStatus
BELIEF_STATUS_PRUNED: BeliefStatus
EXPORT_FORMAT_UNSPECIFIED: ExportFormat
EXPORT_FORMAT_JSON_LINES: ExportFormat
EXPORT_FORMAT_MARKDOWN: ExportFormat

class RecordFactsRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "request_id", "facts")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    request_id: str
    facts: _containers.RepeatedCompositeFieldContainer[_fact_pb2.Fact]
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., request_id: _Optional[str] = ..., facts: _Optional[_Iterable[_Union[_fact_pb2.Fact, _Mapping]]] = ...) -> None: ...

class RecordFactsResponse(_message.Message):
    __slots__ = ("results", "replayed")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_fact_pb2.FactResult]
    replayed: bool
    def __init__(self, results: _Optional[_Iterable[_Union[_fact_pb2.FactResult, _Mapping]]] = ..., replayed: bool = ...) -> None: ...

class CorrectFactRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "request_id", "correction")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    request_id: str
    correction: _fact_pb2.FactCorrection
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., request_id: _Optional[str] = ..., correction: _Optional[_Union[_fact_pb2.FactCorrection, _Mapping]] = ...) -> None: ...

class CorrectFactResponse(_message.Message):
    __slots__ = ("replacement", "replayed")
    REPLACEMENT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    replacement: _fact_pb2.FactResult
    replayed: bool
    def __init__(self, replacement: _Optional[_Union[_fact_pb2.FactResult, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class PinFactRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "request_id", "pin")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    request_id: str
    pin: _fact_pb2.Pin
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., request_id: _Optional[str] = ..., pin: _Optional[_Union[_fact_pb2.Pin, _Mapping]] = ...) -> None: ...

class PinFactResponse(_message.Message):
    __slots__ = ("replayed",)
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    replayed: bool
    def __init__(self, replayed: bool = ...) -> None: ...

class PutProfileRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "request_id", "attributes")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    request_id: str
    attributes: _containers.RepeatedCompositeFieldContainer[_fact_pb2.ProfileAttribute]
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., request_id: _Optional[str] = ..., attributes: _Optional[_Iterable[_Union[_fact_pb2.ProfileAttribute, _Mapping]]] = ...) -> None: ...

class PutProfileResponse(_message.Message):
    __slots__ = ("attributes", "replayed")
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    attributes: _containers.RepeatedCompositeFieldContainer[_fact_pb2.ProfileAttribute]
    replayed: bool
    def __init__(self, attributes: _Optional[_Iterable[_Union[_fact_pb2.ProfileAttribute, _Mapping]]] = ..., replayed: bool = ...) -> None: ...

class IngestDocumentsRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "documents")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    documents: _containers.RepeatedCompositeFieldContainer[_fact_pb2.Document]
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[_fact_pb2.Document, _Mapping]]] = ...) -> None: ...

class DocumentResult(_message.Message):
    __slots__ = ("document_id", "version", "created", "chunks")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    version: int
    created: bool
    chunks: int
    def __init__(self, document_id: _Optional[str] = ..., version: _Optional[int] = ..., created: bool = ..., chunks: _Optional[int] = ...) -> None: ...

class IngestDocumentsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[DocumentResult]
    def __init__(self, results: _Optional[_Iterable[_Union[DocumentResult, _Mapping]]] = ...) -> None: ...

class SearchMemoryRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "route", "query", "sources", "count_max")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    route: str
    query: str
    sources: _containers.RepeatedScalarFieldContainer[_bundle_pb2.Source]
    count_max: int
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., route: _Optional[str] = ..., query: _Optional[str] = ..., sources: _Optional[_Iterable[_Union[_bundle_pb2.Source, str]]] = ..., count_max: _Optional[int] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("source", "segment", "said_at")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SAID_AT_FIELD_NUMBER: _ClassVar[int]
    source: _bundle_pb2.Source
    segment: _bundle_pb2.Segment
    said_at: _timestamp_pb2.Timestamp
    def __init__(self, source: _Optional[_Union[_bundle_pb2.Source, str]] = ..., segment: _Optional[_Union[_bundle_pb2.Segment, _Mapping]] = ..., said_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SearchMemoryResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SearchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SearchResult, _Mapping]]] = ...) -> None: ...

class Belief(_message.Message):
    __slots__ = ("fact_ref", "fact", "status", "trust", "reviewed", "pinned", "recorded_at", "ended_at", "superseded_by", "held_back", "confirmations")
    FACT_REF_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_BY_FIELD_NUMBER: _ClassVar[int]
    HELD_BACK_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATIONS_FIELD_NUMBER: _ClassVar[int]
    fact_ref: _turn_pb2.EventRef
    fact: _fact_pb2.Fact
    status: BeliefStatus
    trust: _fact_pb2.Trust
    reviewed: bool
    pinned: bool
    recorded_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    superseded_by: _turn_pb2.EventRef
    held_back: _containers.RepeatedScalarFieldContainer[_fact_pb2.HoldReason]
    confirmations: int
    def __init__(self, fact_ref: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., fact: _Optional[_Union[_fact_pb2.Fact, _Mapping]] = ..., status: _Optional[_Union[BeliefStatus, str]] = ..., trust: _Optional[_Union[_fact_pb2.Trust, str]] = ..., reviewed: bool = ..., pinned: bool = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., superseded_by: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., held_back: _Optional[_Iterable[_Union[_fact_pb2.HoldReason, str]]] = ..., confirmations: _Optional[int] = ...) -> None: ...

class ListBeliefsRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "route", "known_at", "valid_at", "all_statuses", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_AT_FIELD_NUMBER: _ClassVar[int]
    VALID_AT_FIELD_NUMBER: _ClassVar[int]
    ALL_STATUSES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    route: str
    known_at: _timestamp_pb2.Timestamp
    valid_at: _timestamp_pb2.Timestamp
    all_statuses: bool
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., route: _Optional[str] = ..., known_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., valid_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., all_statuses: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBeliefsResponse(_message.Message):
    __slots__ = ("beliefs", "profile", "next_page_token")
    BELIEFS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    beliefs: _containers.RepeatedCompositeFieldContainer[Belief]
    profile: _containers.RepeatedCompositeFieldContainer[_fact_pb2.ProfileAttribute]
    next_page_token: str
    def __init__(self, beliefs: _Optional[_Iterable[_Union[Belief, _Mapping]]] = ..., profile: _Optional[_Iterable[_Union[_fact_pb2.ProfileAttribute, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListQuarantineRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "page_size", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    page_size: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class QuarantinedClaim(_message.Message):
    __slots__ = ("subject_id", "belief")
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    BELIEF_FIELD_NUMBER: _ClassVar[int]
    subject_id: str
    belief: Belief
    def __init__(self, subject_id: _Optional[str] = ..., belief: _Optional[_Union[Belief, _Mapping]] = ...) -> None: ...

class ListQuarantineResponse(_message.Message):
    __slots__ = ("claims", "next_page_token")
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    claims: _containers.RepeatedCompositeFieldContainer[QuarantinedClaim]
    next_page_token: str
    def __init__(self, claims: _Optional[_Iterable[_Union[QuarantinedClaim, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReviewQuarantineRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "request_id", "review")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    request_id: str
    review: _fact_pb2.Review
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., request_id: _Optional[str] = ..., review: _Optional[_Union[_fact_pb2.Review, _Mapping]] = ...) -> None: ...

class ReviewQuarantineResponse(_message.Message):
    __slots__ = ("replayed",)
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    replayed: bool
    def __init__(self, replayed: bool = ...) -> None: ...

class EraseSubjectRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "session_id", "document_id")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    session_id: str
    document_id: str
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., session_id: _Optional[str] = ..., document_id: _Optional[str] = ...) -> None: ...

class ErasureReceipt(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "session_id", "document_id", "asked_at", "done_at", "logs", "events", "items", "events_redacted", "keys", "signature", "state_records")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ASKED_AT_FIELD_NUMBER: _ClassVar[int]
    DONE_AT_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_REDACTED_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    STATE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    session_id: str
    document_id: str
    asked_at: _timestamp_pb2.Timestamp
    done_at: _timestamp_pb2.Timestamp
    logs: int
    events: int
    items: int
    events_redacted: int
    keys: int
    signature: bytes
    state_records: int
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., session_id: _Optional[str] = ..., document_id: _Optional[str] = ..., asked_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., done_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., logs: _Optional[int] = ..., events: _Optional[int] = ..., items: _Optional[int] = ..., events_redacted: _Optional[int] = ..., keys: _Optional[int] = ..., signature: _Optional[bytes] = ..., state_records: _Optional[int] = ...) -> None: ...

class EraseSubjectResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: ErasureReceipt
    def __init__(self, receipt: _Optional[_Union[ErasureReceipt, _Mapping]] = ...) -> None: ...

class ExportSubjectRequest(_message.Message):
    __slots__ = ("tenant_id", "subject_id", "format", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject_id: str
    format: ExportFormat
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., format: _Optional[_Union[ExportFormat, str]] = ..., page_token: _Optional[str] = ...) -> None: ...

class ExportSubjectResponse(_message.Message):
    __slots__ = ("content", "next_page_token")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    next_page_token: str
    def __init__(self, content: _Optional[bytes] = ..., next_page_token: _Optional[str] = ...) -> None: ...
