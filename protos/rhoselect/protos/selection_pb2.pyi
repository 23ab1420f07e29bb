from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_BFLOAT16: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_BFLOAT16: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_BOOL: DataType

class Session(_message.Message):
    __slots__ = ("run_id", "generation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    generation: int
    def __init__(self, run_id: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class BlobHeader(_message.Message):
    __slots__ = ("size_bytes", "sha256")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    sha256: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "data_type", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    data_type: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., data_type: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class OpenRunRequest(_message.Message):
    __slots__ = ("step", "ranks")
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    step: int
    ranks: int
    def __init__(self, step: _Optional[int] = ..., ranks: _Optional[int] = ...) -> None: ...

class OpenRunResponse(_message.Message):
    __slots__ = ("session", "steps", "layout", "needs_losses", "fingerprint", "first_index", "points", "config_json", "frozen")
    class FrozenEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    NEEDS_LOSSES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    session: Session
    steps: int
    layout: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    needs_losses: bool
    fingerprint: str
    first_index: int
    points: int
    config_json: str
    frozen: _containers.ScalarMap[str, str]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., steps: _Optional[int] = ..., layout: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., needs_losses: _Optional[bool] = ..., fingerprint: _Optional[str] = ..., first_index: _Optional[int] = ..., points: _Optional[int] = ..., config_json: _Optional[str] = ..., frozen: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PublishSnapshotRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PublishSnapshotHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[PublishSnapshotHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PublishSnapshotHeader(_message.Message):
    __slots__ = ("session", "version", "blob")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    session: Session
    version: int
    blob: BlobHeader
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., version: _Optional[int] = ..., blob: _Optional[_Union[BlobHeader, _Mapping]] = ...) -> None: ...

class PublishSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NextBatchRequest(_message.Message):
    __slots__ = ("session", "step", "with_inputs", "rank")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WITH_INPUTS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    session: Session
    step: int
    with_inputs: bool
    rank: int
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., step: _Optional[int] = ..., with_inputs: _Optional[bool] = ..., rank: _Optional[int] = ...) -> None: ...

class NextBatchResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: NextBatchHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[NextBatchHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class NextBatchHeader(_message.Message):
    __slots__ = ("step", "version", "blob", "content", "rank_agreement")
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    RANK_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    blob: BlobHeader
    content: str
    rank_agreement: float
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ..., blob: _Optional[_Union[BlobHeader, _Mapping]] = ..., content: _Optional[str] = ..., rank_agreement: _Optional[float] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("session", "step", "losses")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    session: Session
    step: int
    losses: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., step: _Optional[int] = ..., losses: _Optional[_Iterable[float]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogRequest(_message.Message):
    __slots__ = ("session", "step", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    session: Session
    step: int
    values: _containers.ScalarMap[str, float]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., step: _Optional[int] = ..., values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class LogResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
