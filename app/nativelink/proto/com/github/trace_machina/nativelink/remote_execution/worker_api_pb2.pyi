import datetime

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as _remote_execution_pb2
from nativelink.proto.google.protobuf import empty_pb2 as _empty_pb2
from nativelink.proto.google.protobuf import timestamp_pb2 as _timestamp_pb2
from nativelink.proto.google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeepAliveRequest(_message.Message):
    __slots__ = ("draining",)
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    draining: bool
    def __init__(self, draining: _Optional[bool] = ...) -> None: ...

class GoingAwayRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConnectWorkerRequest(_message.Message):
    __slots__ = ("properties", "worker_id_prefix", "max_inflight_tasks", "can_resume", "resumes", "running")
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    MAX_INFLIGHT_TASKS_FIELD_NUMBER: _ClassVar[int]
    CAN_RESUME_FIELD_NUMBER: _ClassVar[int]
    RESUMES_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    properties: _containers.RepeatedCompositeFieldContainer[_remote_execution_pb2.Platform.Property]
    worker_id_prefix: str
    max_inflight_tasks: int
    can_resume: bool
    resumes: str
    running: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, properties: _Optional[_Iterable[_Union[_remote_execution_pb2.Platform.Property, _Mapping]]] = ..., worker_id_prefix: _Optional[str] = ..., max_inflight_tasks: _Optional[int] = ..., can_resume: _Optional[bool] = ..., resumes: _Optional[str] = ..., running: _Optional[_Iterable[str]] = ...) -> None: ...

class ExecuteResult(_message.Message):
    __slots__ = ("instance_name", "operation_id", "execute_response", "internal_error", "resource_usage")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_ERROR_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_USAGE_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    operation_id: str
    execute_response: _remote_execution_pb2.ExecuteResponse
    internal_error: _status_pb2.Status
    resource_usage: ActionResourceUsage
    def __init__(self, instance_name: _Optional[str] = ..., operation_id: _Optional[str] = ..., execute_response: _Optional[_Union[_remote_execution_pb2.ExecuteResponse, _Mapping]] = ..., internal_error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., resource_usage: _Optional[_Union[ActionResourceUsage, _Mapping]] = ...) -> None: ...

class ExecuteComplete(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: str
    def __init__(self, operation_id: _Optional[str] = ...) -> None: ...

class ActionResourceUsage(_message.Message):
    __slots__ = ("peak_memory_kb", "sampled", "operation_id", "worker_id", "cpu_time_ms")
    PEAK_MEMORY_KB_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    peak_memory_kb: int
    sampled: bool
    operation_id: str
    worker_id: str
    cpu_time_ms: int
    def __init__(self, peak_memory_kb: _Optional[int] = ..., sampled: _Optional[bool] = ..., operation_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., cpu_time_ms: _Optional[int] = ...) -> None: ...

class ConnectionResult(_message.Message):
    __slots__ = ("worker_id",)
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    def __init__(self, worker_id: _Optional[str] = ...) -> None: ...

class KillOperationRequest(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: str
    def __init__(self, operation_id: _Optional[str] = ...) -> None: ...

class UpdateForWorker(_message.Message):
    __slots__ = ("connection_result", "keep_alive", "start_action", "disconnect", "kill_operation_request")
    CONNECTION_RESULT_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    START_ACTION_FIELD_NUMBER: _ClassVar[int]
    DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    KILL_OPERATION_REQUEST_FIELD_NUMBER: _ClassVar[int]
    connection_result: ConnectionResult
    keep_alive: _empty_pb2.Empty
    start_action: StartExecute
    disconnect: _empty_pb2.Empty
    kill_operation_request: KillOperationRequest
    def __init__(self, connection_result: _Optional[_Union[ConnectionResult, _Mapping]] = ..., keep_alive: _Optional[_Union[_empty_pb2.Empty, _Mapping]] = ..., start_action: _Optional[_Union[StartExecute, _Mapping]] = ..., disconnect: _Optional[_Union[_empty_pb2.Empty, _Mapping]] = ..., kill_operation_request: _Optional[_Union[KillOperationRequest, _Mapping]] = ...) -> None: ...

class UpdateForScheduler(_message.Message):
    __slots__ = ("connect_worker_request", "keep_alive_request", "going_away_request", "execute_result", "execute_complete")
    CONNECT_WORKER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    GOING_AWAY_REQUEST_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_RESULT_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    connect_worker_request: ConnectWorkerRequest
    keep_alive_request: KeepAliveRequest
    going_away_request: GoingAwayRequest
    execute_result: ExecuteResult
    execute_complete: ExecuteComplete
    def __init__(self, connect_worker_request: _Optional[_Union[ConnectWorkerRequest, _Mapping]] = ..., keep_alive_request: _Optional[_Union[KeepAliveRequest, _Mapping]] = ..., going_away_request: _Optional[_Union[GoingAwayRequest, _Mapping]] = ..., execute_result: _Optional[_Union[ExecuteResult, _Mapping]] = ..., execute_complete: _Optional[_Union[ExecuteComplete, _Mapping]] = ...) -> None: ...

class StartExecute(_message.Message):
    __slots__ = ("execute_request", "operation_id", "queued_timestamp", "platform", "worker_id")
    EXECUTE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUED_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    execute_request: _remote_execution_pb2.ExecuteRequest
    operation_id: str
    queued_timestamp: _timestamp_pb2.Timestamp
    platform: _remote_execution_pb2.Platform
    worker_id: str
    def __init__(self, execute_request: _Optional[_Union[_remote_execution_pb2.ExecuteRequest, _Mapping]] = ..., operation_id: _Optional[str] = ..., queued_timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., platform: _Optional[_Union[_remote_execution_pb2.Platform, _Mapping]] = ..., worker_id: _Optional[str] = ...) -> None: ...

class HistoricalExecuteResponse(_message.Message):
    __slots__ = ("action_digest", "execute_response")
    ACTION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    action_digest: _remote_execution_pb2.Digest
    execute_response: _remote_execution_pb2.ExecuteResponse
    def __init__(self, action_digest: _Optional[_Union[_remote_execution_pb2.Digest, _Mapping]] = ..., execute_response: _Optional[_Union[_remote_execution_pb2.ExecuteResponse, _Mapping]] = ...) -> None: ...
