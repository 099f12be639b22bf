from google.protobuf import timestamp_pb2 as _timestamp_pb2
from standpipe.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Trust(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRUST_UNSPECIFIED: _ClassVar[Trust]
    TRUST_EXTERNAL: _ClassVar[Trust]
    TRUST_INFERRED: _ClassVar[Trust]
    TRUST_USER: _ClassVar[Trust]
    TRUST_OPERATOR: _ClassVar[Trust]

class HoldReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOLD_REASON_UNSPECIFIED: _ClassVar[HoldReason]
    HOLD_REASON_ORIGIN: _ClassVar[HoldReason]
    HOLD_REASON_INSTRUCTION: _ClassVar[HoldReason]
    HOLD_REASON_AUTHORITY: _ClassVar[HoldReason]
    HOLD_REASON_CONTRADICTS_PINNED: _ClassVar[HoldReason]
    HOLD_REASON_SECRET: _ClassVar[HoldReason]
    HOLD_REASON_HIDDEN_TEXT: _ClassVar[HoldReason]
    HOLD_REASON_UNSUPPORTED: _ClassVar[HoldReason]

class FactOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FACT_OUTCOME_UNSPECIFIED: _ClassVar[FactOutcome]
    FACT_OUTCOME_HELD: _ClassVar[FactOutcome]
    FACT_OUTCOME_CONFIRMED: _ClassVar[FactOutcome]
    FACT_OUTCOME_QUARANTINED: _ClassVar[FactOutcome]
    FACT_OUTCOME_REJECTED: _ClassVar[FactOutcome]

class Correction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CORRECTION_UNSPECIFIED: _ClassVar[Correction]
    CORRECTION_SUPERSEDE: _ClassVar[Correction]
    CORRECTION_RETRACT: _ClassVar[Correction]
    CORRECTION_REJECT: _ClassVar[Correction]

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_ACCEPT: _ClassVar[Decision]
    DECISION_REJECT: _ClassVar[Decision]
TRUST_UNSPECIFIED: Trust
TRUST_EXTERNAL: Trust
TRUST_INFERRED: Trust
TRUST_USER: Trust
TRUST_OPERATOR: Trust
HOLD_REASON_UNSPECIFIED: HoldReason
HOLD_REASON_ORIGIN: HoldReason
HOLD_REASON_INSTRUCTION: HoldReason
HOLD_REASON_AUTHORITY: HoldReason
HOLD_REASON_CONTRADICTS_PINNED: HoldReason
HOLD_REASON_SECRET: HoldReason
HOLD_REASON_HIDDEN_TEXT: HoldReason
HOLD_REASON_UNSUPPORTED: HoldReason
FACT_OUTCOME_UNSPECIFIED: FactOutcome
FACT_OUTCOME_HELD: FactOutcome
FACT_OUTCOME_CONFIRMED: FactOutcome
FACT_OUTCOME_QUARANTINED: FactOutcome
FACT_OUTCOME_REJECTED: FactOutcome
CORRECTION_UNSPECIFIED: Correction
CORRECTION_SUPERSEDE: Correction
CORRECTION_RETRACT: Correction
CORRECTION_REJECT: Correction
DECISION_UNSPECIFIED: Decision
DECISION_ACCEPT: Decision
DECISION_REJECT: Decision

class Extractor(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("attribute", "value", "negated", "many", "kind", "valid_from", "valid_to", "sources", "extractor", "pinned")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NEGATED_FIELD_NUMBER: _ClassVar[int]
    MANY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALID_FROM_FIELD_NUMBER: _ClassVar[int]
    VALID_TO_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    EXTRACTOR_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    value: str
    negated: bool
    many: bool
    kind: str
    valid_from: _timestamp_pb2.Timestamp
    valid_to: _timestamp_pb2.Timestamp
    sources: _containers.RepeatedCompositeFieldContainer[_turn_pb2.EventRef]
    extractor: Extractor
    pinned: bool
    def __init__(self, attribute: _Optional[str] = ..., value: _Optional[str] = ..., negated: bool = ..., many: bool = ..., kind: _Optional[str] = ..., valid_from: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., valid_to: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sources: _Optional[_Iterable[_Union[_turn_pb2.EventRef, _Mapping]]] = ..., extractor: _Optional[_Union[Extractor, _Mapping]] = ..., pinned: bool = ...) -> None: ...

class FactResult(_message.Message):
    __slots__ = ("outcome", "fact", "reasons")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    outcome: FactOutcome
    fact: _turn_pb2.EventRef
    reasons: _containers.RepeatedScalarFieldContainer[HoldReason]
    def __init__(self, outcome: _Optional[_Union[FactOutcome, str]] = ..., fact: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., reasons: _Optional[_Iterable[_Union[HoldReason, str]]] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("document_id", "title", "uri", "text")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    title: str
    uri: str
    text: str
    def __init__(self, document_id: _Optional[str] = ..., title: _Optional[str] = ..., uri: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ProfileAttribute(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class MemoryChange(_message.Message):
    __slots__ = ("fact", "confirmation", "correction", "pin", "profile", "document", "review", "trust", "held_back")
    FACT_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    HELD_BACK_FIELD_NUMBER: _ClassVar[int]
    fact: Fact
    confirmation: Confirmation
    correction: FactCorrection
    pin: Pin
    profile: ProfileChange
    document: Document
    review: Review
    trust: Trust
    held_back: _containers.RepeatedScalarFieldContainer[HoldReason]
    def __init__(self, fact: _Optional[_Union[Fact, _Mapping]] = ..., confirmation: _Optional[_Union[Confirmation, _Mapping]] = ..., correction: _Optional[_Union[FactCorrection, _Mapping]] = ..., pin: _Optional[_Union[Pin, _Mapping]] = ..., profile: _Optional[_Union[ProfileChange, _Mapping]] = ..., document: _Optional[_Union[Document, _Mapping]] = ..., review: _Optional[_Union[Review, _Mapping]] = ..., trust: _Optional[_Union[Trust, str]] = ..., held_back: _Optional[_Iterable[_Union[HoldReason, str]]] = ...) -> None: ...

class Confirmation(_message.Message):
    __slots__ = ("fact", "sources", "extractor")
    FACT_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    EXTRACTOR_FIELD_NUMBER: _ClassVar[int]
    fact: _turn_pb2.EventRef
    sources: _containers.RepeatedCompositeFieldContainer[_turn_pb2.EventRef]
    extractor: Extractor
    def __init__(self, fact: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., sources: _Optional[_Iterable[_Union[_turn_pb2.EventRef, _Mapping]]] = ..., extractor: _Optional[_Union[Extractor, _Mapping]] = ...) -> None: ...

class FactCorrection(_message.Message):
    __slots__ = ("fact", "correction", "replacement", "cause", "tombstone")
    FACT_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    REPLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONE_FIELD_NUMBER: _ClassVar[int]
    fact: _turn_pb2.EventRef
    correction: Correction
    replacement: Fact
    cause: str
    tombstone: bytes
    def __init__(self, fact: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., correction: _Optional[_Union[Correction, str]] = ..., replacement: _Optional[_Union[Fact, _Mapping]] = ..., cause: _Optional[str] = ..., tombstone: _Optional[bytes] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("fact", "pinned")
    FACT_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    fact: _turn_pb2.EventRef
    pinned: bool
    def __init__(self, fact: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., pinned: bool = ...) -> None: ...

class ProfileChange(_message.Message):
    __slots__ = ("attributes",)
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    attributes: _containers.RepeatedCompositeFieldContainer[ProfileAttribute]
    def __init__(self, attributes: _Optional[_Iterable[_Union[ProfileAttribute, _Mapping]]] = ...) -> None: ...

class Review(_message.Message):
    __slots__ = ("fact", "decision", "reviewer", "cause", "tombstone")
    FACT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REVIEWER_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONE_FIELD_NUMBER: _ClassVar[int]
    fact: _turn_pb2.EventRef
    decision: Decision
    reviewer: str
    cause: str
    tombstone: bytes
    def __init__(self, fact: _Optional[_Union[_turn_pb2.EventRef, _Mapping]] = ..., decision: _Optional[_Union[Decision, str]] = ..., reviewer: _Optional[str] = ..., cause: _Optional[str] = ..., tombstone: _Optional[bytes] = ...) -> None: ...
