from standpipe.v1 import fact_pb2 as _fact_pb2
from standpipe.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_POLICY: _ClassVar[Source]
    SOURCE_PROFILE: _ClassVar[Source]
    SOURCE_SUMMARY: _ClassVar[Source]
    SOURCE_HISTORY: _ClassVar[Source]
    SOURCE_RECALL: _ClassVar[Source]
    SOURCE_FACTS: _ClassVar[Source]
    SOURCE_DOCUMENTS: _ClassVar[Source]

class SegmentKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENT_KIND_UNSPECIFIED: _ClassVar[SegmentKind]
    SEGMENT_KIND_TEXT: _ClassVar[SegmentKind]
    SEGMENT_KIND_TOOL_CALL: _ClassVar[SegmentKind]
    SEGMENT_KIND_TOOL_RESULT: _ClassVar[SegmentKind]
    SEGMENT_KIND_FRAME: _ClassVar[SegmentKind]

class OmissionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OMISSION_REASON_UNSPECIFIED: _ClassVar[OmissionReason]
    OMISSION_REASON_OVER_BUDGET: _ClassVar[OmissionReason]
    OMISSION_REASON_DOES_NOT_FIT: _ClassVar[OmissionReason]
    OMISSION_REASON_DUPLICATE: _ClassVar[OmissionReason]
    OMISSION_REASON_BELOW_FLOOR: _ClassVar[OmissionReason]
    OMISSION_REASON_EXPIRED: _ClassVar[OmissionReason]
    OMISSION_REASON_SUPERSEDED: _ClassVar[OmissionReason]
    OMISSION_REASON_QUARANTINED: _ClassVar[OmissionReason]
    OMISSION_REASON_MASKED: _ClassVar[OmissionReason]
    OMISSION_REASON_TIMED_OUT: _ClassVar[OmissionReason]
    OMISSION_REASON_EVICTED: _ClassVar[OmissionReason]
    OMISSION_REASON_AWAITING_RESULT: _ClassVar[OmissionReason]
    OMISSION_REASON_RETRACTED: _ClassVar[OmissionReason]
    OMISSION_REASON_NOT_VALID: _ClassVar[OmissionReason]
SOURCE_UNSPECIFIED: Source
SOURCE_POLICY: Source
SOURCE_PROFILE: Source
SOURCE_SUMMARY: Source
SOURCE_HISTORY: Source
SOURCE_RECALL: Source
SOURCE_FACTS: Source
SOURCE_DOCUMENTS: Source
SEGMENT_KIND_UNSPECIFIED: SegmentKind
SEGMENT_KIND_TEXT: SegmentKind
SEGMENT_KIND_TOOL_CALL: SegmentKind
SEGMENT_KIND_TOOL_RESULT: SegmentKind
SEGMENT_KIND_FRAME: SegmentKind
OMISSION_REASON_UNSPECIFIED: OmissionReason
OMISSION_REASON_OVER_BUDGET: OmissionReason
OMISSION_REASON_DOES_NOT_FIT: OmissionReason
OMISSION_REASON_DUPLICATE: OmissionReason
OMISSION_REASON_BELOW_FLOOR: OmissionReason
OMISSION_REASON_EXPIRED: OmissionReason
OMISSION_REASON_SUPERSEDED: OmissionReason
OMISSION_REASON_QUARANTINED: OmissionReason
OMISSION_REASON_MASKED: OmissionReason
OMISSION_REASON_TIMED_OUT: OmissionReason
OMISSION_REASON_EVICTED: OmissionReason
OMISSION_REASON_AWAITING_RESULT: OmissionReason
OMISSION_REASON_RETRACTED: OmissionReason
OMISSION_REASON_NOT_VALID: OmissionReason

class Segment(_message.Message):
    __slots__ = ("kind", "role", "name", "header", "body", "tokens", "score_micros", "citations", "tool_call_id", "is_error", "shortened", "trust", "masked")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORE_MICROS_FIELD_NUMBER: _ClassVar[int]
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    IS_ERROR_FIELD_NUMBER: _ClassVar[int]
    SHORTENED_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    kind: SegmentKind
    role: _turn_pb2.Role
    name: str
    header: str
    body: str
    tokens: int
    score_micros: int
    citations: _containers.RepeatedCompositeFieldContainer[_turn_pb2.EventRef]
    tool_call_id: str
    is_error: bool
    shortened: bool
    trust: _fact_pb2.Trust
    masked: bool
    def __init__(self, kind: _Optional[_Union[SegmentKind, str]] = ..., role: _Optional[_Union[_turn_pb2.Role, str]] = ..., name: _Optional[str] = ..., header: _Optional[str] = ..., body: _Optional[str] = ..., tokens: _Optional[int] = ..., score_micros: _Optional[int] = ..., citations: _Optional[_Iterable[_Union[_turn_pb2.EventRef, _Mapping]]] = ..., tool_call_id: _Optional[str] = ..., is_error: bool = ..., shortened: bool = ..., trust: _Optional[_Union[_fact_pb2.Trust, str]] = ..., masked: bool = ...) -> None: ...

class Section(_message.Message):
    __slots__ = ("source", "segments", "tokens", "cap_tokens", "epoch", "cache_breakpoint")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CAP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CACHE_BREAKPOINT_FIELD_NUMBER: _ClassVar[int]
    source: Source
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    tokens: int
    cap_tokens: int
    epoch: int
    cache_breakpoint: bool
    def __init__(self, source: _Optional[_Union[Source, str]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., tokens: _Optional[int] = ..., cap_tokens: _Optional[int] = ..., epoch: _Optional[int] = ..., cache_breakpoint: bool = ...) -> None: ...

class Omission(_message.Message):
    __slots__ = ("source", "reason", "candidate", "tokens", "score_micros")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORE_MICROS_FIELD_NUMBER: _ClassVar[int]
    source: Source
    reason: OmissionReason
    candidate: _turn_pb2.EventRef
    tokens: int
    score_micros: int
    def __init__(self, source: _Optional[_Union[Source, str]] = ..., reason: _Optional[_Union[OmissionReason, str]] = ..., candidate: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., tokens: _Optional[int] = ..., score_micros: _Optional[int] = ...) -> None: ...

class OmissionCount(_message.Message):
    __slots__ = ("source", "reason", "candidates")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    source: Source
    reason: OmissionReason
    candidates: int
    def __init__(self, source: _Optional[_Union[Source, str]] = ..., reason: _Optional[_Union[OmissionReason, str]] = ..., candidates: _Optional[int] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("sections", "tokens", "budget_tokens", "tokenizer", "fingerprint", "policy", "session_version", "omissions", "omission_counts")
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SESSION_VERSION_FIELD_NUMBER: _ClassVar[int]
    OMISSIONS_FIELD_NUMBER: _ClassVar[int]
    OMISSION_COUNTS_FIELD_NUMBER: _ClassVar[int]
    sections: _containers.RepeatedCompositeFieldContainer[Section]
    tokens: int
    budget_tokens: int
    tokenizer: str
    fingerprint: bytes
    policy: str
    session_version: int
    omissions: _containers.RepeatedCompositeFieldContainer[Omission]
    omission_counts: _containers.RepeatedCompositeFieldContainer[OmissionCount]
    def __init__(self, sections: _Optional[_Iterable[_Union[Section, _Mapping]]] = ..., tokens: _Optional[int] = ..., budget_tokens: _Optional[int] = ..., tokenizer: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., policy: _Optional[str] = ..., session_version: _Optional[int] = ..., omissions: _Optional[_Iterable[_Union[Omission, _Mapping]]] = ..., omission_counts: _Optional[_Iterable[_Union[OmissionCount, _Mapping]]] = ...) -> None: ...
