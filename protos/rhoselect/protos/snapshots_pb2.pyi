from rhoselect.protos import selection_pb2 as _selection_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttachRequest(_message.Message):
    __slots__ = ("slot",)
    SLOT_FIELD_NUMBER: _ClassVar[int]
    slot: int
    def __init__(self, slot: _Optional[int] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("session", "slot", "lanes", "config_json", "inputs_sha256", "facts")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    INPUTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    session: _selection_pb2.Session
    slot: int
    lanes: int
    config_json: str
    inputs_sha256: str
    facts: _containers.ScalarMap[str, str]
    def __init__(self, session: _Optional[_Union[_selection_pb2.Session, _Mapping]] = ..., slot: _Optional[int] = ..., lanes: _Optional[int] = ..., config_json: _Optional[str] = ..., inputs_sha256: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("session", "version", "timeout_seconds")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    session: _selection_pb2.Session
    version: int
    timeout_seconds: float
    def __init__(self, session: _Optional[_Union[_selection_pb2.Session, _Mapping]] = ..., version: _Optional[int] = ..., timeout_seconds: _Optional[float] = ...) -> None: ...

class LoadResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...
