from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_RUNNING: _ClassVar[WorkerState]
    WORKER_STATE_SILENT: _ClassVar[WorkerState]
    WORKER_STATE_REFUSED: _ClassVar[WorkerState]
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_RUNNING: WorkerState
WORKER_STATE_SILENT: WorkerState
WORKER_STATE_REFUSED: WorkerState

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RunStatus
    def __init__(self, status: _Optional[_Union[RunStatus, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("interval_s",)
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    interval_s: float
    def __init__(self, interval_s: _Optional[float] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RunStatus
    def __init__(self, status: _Optional[_Union[RunStatus, _Mapping]] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("run_id", "generation", "run_dir", "step", "steps", "paused", "loss", "accuracy", "lag", "staleness", "wall_seconds", "wait_seconds", "scored_points", "staleness_counts", "queue", "workers", "inexact", "metric", "metric_name")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RUN_DIR_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    WALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCORED_POINTS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_COUNTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    INEXACT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    METRIC_NAME_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    generation: int
    run_dir: str
    step: int
    steps: int
    paused: bool
    loss: float
    accuracy: float
    lag: int
    staleness: int
    wall_seconds: float
    wait_seconds: float
    scored_points: int
    staleness_counts: _containers.RepeatedCompositeFieldContainer[StalenessCount]
    queue: QueueStatus
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    inexact: str
    metric: float
    metric_name: str
    def __init__(self, run_id: _Optional[str] = ..., generation: _Optional[int] = ..., run_dir: _Optional[str] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., paused: _Optional[bool] = ..., loss: _Optional[float] = ..., accuracy: _Optional[float] = ..., lag: _Optional[int] = ..., staleness: _Optional[int] = ..., wall_seconds: _Optional[float] = ..., wait_seconds: _Optional[float] = ..., scored_points: _Optional[int] = ..., staleness_counts: _Optional[_Iterable[_Union[StalenessCount, _Mapping]]] = ..., queue: _Optional[_Union[QueueStatus, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., inexact: _Optional[str] = ..., metric: _Optional[float] = ..., metric_name: _Optional[str] = ...) -> None: ...

class StalenessCount(_message.Message):
    __slots__ = ("up_to_steps", "points")
    UP_TO_STEPS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    up_to_steps: int
    points: int
    def __init__(self, up_to_steps: _Optional[int] = ..., points: _Optional[int] = ...) -> None: ...

class QueueStatus(_message.Message):
    __slots__ = ("windows", "waiting", "leased", "points", "oldest_version", "accepted", "repeated", "late", "rejected", "reclaimed", "server_bytes", "server_limit_bytes")
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_FIELD_NUMBER: _ClassVar[int]
    SERVER_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVER_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    windows: int
    waiting: int
    leased: int
    points: int
    oldest_version: int
    accepted: int
    repeated: int
    late: int
    rejected: int
    reclaimed: int
    server_bytes: int
    server_limit_bytes: int
    def __init__(self, windows: _Optional[int] = ..., waiting: _Optional[int] = ..., leased: _Optional[int] = ..., points: _Optional[int] = ..., oldest_version: _Optional[int] = ..., accepted: _Optional[int] = ..., repeated: _Optional[int] = ..., late: _Optional[int] = ..., rejected: _Optional[int] = ..., reclaimed: _Optional[int] = ..., server_bytes: _Optional[int] = ..., server_limit_bytes: _Optional[int] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("slot", "state", "pid", "restarts", "scored_points", "refused")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    SCORED_POINTS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    slot: int
    state: WorkerState
    pid: int
    restarts: int
    scored_points: int
    refused: str
    def __init__(self, slot: _Optional[int] = ..., state: _Optional[_Union[WorkerState, str]] = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ..., scored_points: _Optional[int] = ..., refused: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: int
    def __init__(self, workers: _Optional[int] = ...) -> None: ...

class ScaleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointResponse(_message.Message):
    __slots__ = ("step", "path")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    step: int
    path: str
    def __init__(self, step: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ("step", "path")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    step: int
    path: str
    def __init__(self, step: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class PeekQueueRequest(_message.Message):
    __slots__ = ("k",)
    K_FIELD_NUMBER: _ClassVar[int]
    k: int
    def __init__(self, k: _Optional[int] = ...) -> None: ...

class PeekQueueResponse(_message.Message):
    __slots__ = ("window", "version", "points")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    window: int
    version: int
    points: _containers.RepeatedCompositeFieldContainer[QueuedPoint]
    def __init__(self, window: _Optional[int] = ..., version: _Optional[int] = ..., points: _Optional[_Iterable[_Union[QueuedPoint, _Mapping]]] = ...) -> None: ...

class QueuedPoint(_message.Message):
    __slots__ = ("position", "index", "epoch", "score")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    position: int
    index: int
    epoch: int
    score: float
    def __init__(self, position: _Optional[int] = ..., index: _Optional[int] = ..., epoch: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...
