from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_SYSTEM: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]
    ROLE_TOOL: _ClassVar[Role]
    ROLE_DOCUMENT: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_SYSTEM: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
ROLE_TOOL: Role
ROLE_DOCUMENT: Role

class EventRef(_message.Message):
    __slots__ = ("session_id", "version", "entry")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    version: int
    entry: int
    def __init__(self, session_id: _Optional[str] = ..., version: _Optional[int] = ..., entry: _Optional[int] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("text", "media")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    text: str
    media: Media
    def __init__(self, text: _Optional[str] = ..., media: _Optional[_Union[Media, _Mapping]] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("uri", "media_type", "description")
    URI_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    uri: str
    media_type: str
    description: str
    def __init__(self, uri: _Optional[str] = ..., media_type: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("role", "speaker", "spoken_at", "text", "parts", "citations")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    SPOKEN_AT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    role: Role
    speaker: str
    spoken_at: _timestamp_pb2.Timestamp
    text: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    citations: _containers.RepeatedCompositeFieldContainer[EventRef]
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., speaker: _Optional[str] = ..., spoken_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., text: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., citations: _Optional[_Iterable[_Union[EventRef, _Mapping]]] = ...) -> None: ...

class ToolCall(_message.Message):
    __slots__ = ("id", "name", "arguments_json")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    arguments_json: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class ToolResult(_message.Message):
    __slots__ = ("call_id", "content", "is_error")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IS_ERROR_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    content: str
    is_error: bool
    def __init__(self, call_id: _Optional[str] = ..., content: _Optional[str] = ..., is_error: bool = ...) -> None: ...

class TurnEntry(_message.Message):
    __slots__ = ("message", "tool_call", "tool_result", "app_json")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    TOOL_RESULT_FIELD_NUMBER: _ClassVar[int]
    APP_JSON_FIELD_NUMBER: _ClassVar[int]
    message: Message
    tool_call: ToolCall
    tool_result: ToolResult
    app_json: str
    def __init__(self, message: _Optional[_Union[Message, _Mapping]] = ..., tool_call: _Optional[_Union[ToolCall, _Mapping]] = ..., tool_result: _Optional[_Union[ToolResult, _Mapping]] = ..., app_json: _Optional[str] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("entries", "bundle_receipt")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_RECEIPT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TurnEntry]
    bundle_receipt: bytes
    def __init__(self, entries: _Optional[_Iterable[_Union[TurnEntry, _Mapping]]] = ..., bundle_receipt: _Optional[bytes] = ...) -> None: ...

class SessionEnd(_message.Message):
    __slots__ = ("cause",)
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    cause: str
    def __init__(self, cause: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("session_id", "version", "request_id", "committed_at", "previous_hash", "hash", "turn", "session_end")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    SESSION_END_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    version: int
    request_id: str
    committed_at: _timestamp_pb2.Timestamp
    previous_hash: bytes
    hash: bytes
    turn: Turn
    session_end: SessionEnd
    def __init__(self, session_id: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., committed_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., previous_hash: _Optional[bytes] = ..., hash: _Optional[bytes] = ..., turn: _Optional[_Union[Turn, _Mapping]] = ..., session_end: _Optional[_Union[SessionEnd, _Mapping]] = ...) -> None: ...
