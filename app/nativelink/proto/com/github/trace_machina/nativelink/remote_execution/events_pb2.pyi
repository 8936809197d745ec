from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as _remote_asset_pb2
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as _remote_execution_pb2
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import worker_api_pb2 as _worker_api_pb2
from nativelink.proto.google.bytestream import bytestream_pb2 as _bytestream_pb2
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2 as _publish_build_event_pb2
from nativelink.proto.google.longrunning import operations_pb2 as _operations_pb2
from nativelink.proto.google.protobuf import empty_pb2 as _empty_pb2
from nativelink.proto.google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchUpdateBlobsRequestOverride(_message.Message):
    __slots__ = ("instance_name", "requests", "digest_function")
    class Request(_message.Message):
        __slots__ = ("digest", "compressor", "data_len")
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        COMPRESSOR_FIELD_NUMBER: _ClassVar[int]
        DATA_LEN_FIELD_NUMBER: _ClassVar[int]
        digest: _remote_execution_pb2.Digest
        compressor: _remote_execution_pb2.Compressor.Value
        data_len: int
        def __init__(self, digest: _Optional[_Union[_remote_execution_pb2.Digest, _Mapping]] = ..., compressor: _Optional[_Union[_remote_execution_pb2.Compressor.Value, str]] = ..., data_len: _Optional[int] = ...) -> None: ...
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    requests: _containers.RepeatedCompositeFieldContainer[BatchUpdateBlobsRequestOverride.Request]
    digest_function: _remote_execution_pb2.DigestFunction.Value
    def __init__(self, instance_name: _Optional[str] = ..., requests: _Optional[_Iterable[_Union[BatchUpdateBlobsRequestOverride.Request, _Mapping]]] = ..., digest_function: _Optional[_Union[_remote_execution_pb2.DigestFunction.Value, str]] = ...) -> None: ...

class BatchReadBlobsResponseOverride(_message.Message):
    __slots__ = ("responses",)
    class Response(_message.Message):
        __slots__ = ("digest", "compressor", "status", "data_len")
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        COMPRESSOR_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        DATA_LEN_FIELD_NUMBER: _ClassVar[int]
        digest: _remote_execution_pb2.Digest
        compressor: _remote_execution_pb2.Compressor.Value
        status: _status_pb2.Status
        data_len: int
        def __init__(self, digest: _Optional[_Union[_remote_execution_pb2.Digest, _Mapping]] = ..., compressor: _Optional[_Union[_remote_execution_pb2.Compressor.Value, str]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., data_len: _Optional[int] = ...) -> None: ...
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[BatchReadBlobsResponseOverride.Response]
    def __init__(self, responses: _Optional[_Iterable[_Union[BatchReadBlobsResponseOverride.Response, _Mapping]]] = ...) -> None: ...

class WriteRequestOverride(_message.Message):
    __slots__ = ("resource_name", "write_offset", "finish_write", "data_len")
    RESOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
    WRITE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    FINISH_WRITE_FIELD_NUMBER: _ClassVar[int]
    DATA_LEN_FIELD_NUMBER: _ClassVar[int]
    resource_name: str
    write_offset: int
    finish_write: bool
    data_len: int
    def __init__(self, resource_name: _Optional[str] = ..., write_offset: _Optional[int] = ..., finish_write: _Optional[bool] = ..., data_len: _Optional[int] = ...) -> None: ...

class RequestEvent(_message.Message):
    __slots__ = ("get_capabilities_request", "get_action_result_request", "update_action_result_request", "find_missing_blobs_request", "batch_read_blobs_request", "batch_update_blobs_request", "get_tree_request", "read_request", "write_request", "query_write_status_request", "execute_request", "wait_execution_request", "scheduler_start_execute", "fetch_blob_request", "push_blob_request")
    GET_CAPABILITIES_REQUEST_FIELD_NUMBER: _ClassVar[int]
    GET_ACTION_RESULT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ACTION_RESULT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    FIND_MISSING_BLOBS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_READ_BLOBS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_UPDATE_BLOBS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    GET_TREE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    READ_REQUEST_FIELD_NUMBER: _ClassVar[int]
    WRITE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    QUERY_WRITE_STATUS_REQUEST_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    WAIT_EXECUTION_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_START_EXECUTE_FIELD_NUMBER: _ClassVar[int]
    FETCH_BLOB_REQUEST_FIELD_NUMBER: _ClassVar[int]
    PUSH_BLOB_REQUEST_FIELD_NUMBER: _ClassVar[int]
    get_capabilities_request: _remote_execution_pb2.GetCapabilitiesRequest
    get_action_result_request: _remote_execution_pb2.GetActionResultRequest
    update_action_result_request: _remote_execution_pb2.UpdateActionResultRequest
    find_missing_blobs_request: _remote_execution_pb2.FindMissingBlobsRequest
    batch_read_blobs_request: _remote_execution_pb2.BatchReadBlobsRequest
    batch_update_blobs_request: BatchUpdateBlobsRequestOverride
    get_tree_request: _remote_execution_pb2.GetTreeRequest
    read_request: _bytestream_pb2.ReadRequest
    write_request: _empty_pb2.Empty
    query_write_status_request: _bytestream_pb2.QueryWriteStatusRequest
    execute_request: _remote_execution_pb2.ExecuteRequest
    wait_execution_request: _remote_execution_pb2.WaitExecutionRequest
    scheduler_start_execute: _worker_api_pb2.StartExecute
    fetch_blob_request: _remote_asset_pb2.FetchBlobRequest
    push_blob_request: _remote_asset_pb2.PushBlobRequest
    def __init__(self, get_capabilities_request: _Optional[_Union[_remote_execution_pb2.GetCapabilitiesRequest, _Mapping]] = ..., get_action_result_request: _Optional[_Union[_remote_execution_pb2.GetActionResultRequest, _Mapping]] = ..., update_action_result_request: _Optional[_Union[_remote_execution_pb2.UpdateActionResultRequest, _Mapping]] = ..., find_missing_blobs_request: _Optional[_Union[_remote_execution_pb2.FindMissingBlobsRequest, _Mapping]] = ..., batch_read_blobs_request: _Optional[_Union[_remote_execution_pb2.BatchReadBlobsRequest, _Mapping]] = ..., batch_update_blobs_request: _Optional[_Union[BatchUpdateBlobsRequestOverride, _Mapping]] = ..., get_tree_request: _Optional[_Union[_remote_execution_pb2.GetTreeRequest, _Mapping]] = ..., read_request: _Optional[_Union[_bytestream_pb2.ReadRequest, _Mapping]] = ..., write_request: _Optional[_Union[_empty_pb2.Empty, _Mapping]] = ..., query_write_status_request: _Optional[_Union[_bytestream_pb2.QueryWriteStatusRequest, _Mapping]] = ..., execute_request: _Optional[_Union[_remote_execution_pb2.ExecuteRequest, _Mapping]] = ..., wait_execution_request: _Optional[_Union[_remote_execution_pb2.WaitExecutionRequest, _Mapping]] = ..., scheduler_start_execute: _Optional[_Union[_worker_api_pb2.StartExecute, _Mapping]] = ..., fetch_blob_request: _Optional[_Union[_remote_asset_pb2.FetchBlobRequest, _Mapping]] = ..., push_blob_request: _Optional[_Union[_remote_asset_pb2.PushBlobRequest, _Mapping]] = ...) -> None: ...

class ResponseEvent(_message.Message):
    __slots__ = ("error", "server_capabilities", "action_result", "find_missing_blobs_response", "batch_read_blobs_response", "batch_update_blobs_response", "write_response", "query_write_status_response", "empty", "fetch_blob_response", "push_blob_response", "action_resource_usage")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SERVER_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    ACTION_RESULT_FIELD_NUMBER: _ClassVar[int]
    FIND_MISSING_BLOBS_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    BATCH_READ_BLOBS_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    BATCH_UPDATE_BLOBS_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    WRITE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    QUERY_WRITE_STATUS_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    FETCH_BLOB_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    PUSH_BLOB_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ACTION_RESOURCE_USAGE_FIELD_NUMBER: _ClassVar[int]
    error: _status_pb2.Status
    server_capabilities: _remote_execution_pb2.ServerCapabilities
    action_result: _remote_execution_pb2.ActionResult
    find_missing_blobs_response: _remote_execution_pb2.FindMissingBlobsResponse
    batch_read_blobs_response: BatchReadBlobsResponseOverride
    batch_update_blobs_response: _remote_execution_pb2.BatchUpdateBlobsResponse
    write_response: _bytestream_pb2.WriteResponse
    query_write_status_response: _bytestream_pb2.QueryWriteStatusResponse
    empty: _empty_pb2.Empty
    fetch_blob_response: _remote_asset_pb2.FetchBlobResponse
    push_blob_response: _remote_asset_pb2.PushBlobResponse
    action_resource_usage: _worker_api_pb2.ActionResourceUsage
    def __init__(self, error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., server_capabilities: _Optional[_Union[_remote_execution_pb2.ServerCapabilities, _Mapping]] = ..., action_result: _Optional[_Union[_remote_execution_pb2.ActionResult, _Mapping]] = ..., find_missing_blobs_response: _Optional[_Union[_remote_execution_pb2.FindMissingBlobsResponse, _Mapping]] = ..., batch_read_blobs_response: _Optional[_Union[BatchReadBlobsResponseOverride, _Mapping]] = ..., batch_update_blobs_response: _Optional[_Union[_remote_execution_pb2.BatchUpdateBlobsResponse, _Mapping]] = ..., write_response: _Optional[_Union[_bytestream_pb2.WriteResponse, _Mapping]] = ..., query_write_status_response: _Optional[_Union[_bytestream_pb2.QueryWriteStatusResponse, _Mapping]] = ..., empty: _Optional[_Union[_empty_pb2.Empty, _Mapping]] = ..., fetch_blob_response: _Optional[_Union[_remote_asset_pb2.FetchBlobResponse, _Mapping]] = ..., push_blob_response: _Optional[_Union[_remote_asset_pb2.PushBlobResponse, _Mapping]] = ..., action_resource_usage: _Optional[_Union[_worker_api_pb2.ActionResourceUsage, _Mapping]] = ...) -> None: ...

class StreamEvent(_message.Message):
    __slots__ = ("error", "get_tree_response", "data_length", "write_request", "operation", "closed")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    GET_TREE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    DATA_LENGTH_FIELD_NUMBER: _ClassVar[int]
    WRITE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    error: _status_pb2.Status
    get_tree_response: _remote_execution_pb2.GetTreeResponse
    data_length: int
    write_request: WriteRequestOverride
    operation: _operations_pb2.Operation
    closed: _empty_pb2.Empty
    def __init__(self, error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., get_tree_response: _Optional[_Union[_remote_execution_pb2.GetTreeResponse, _Mapping]] = ..., data_length: _Optional[int] = ..., write_request: _Optional[_Union[WriteRequestOverride, _Mapping]] = ..., operation: _Optional[_Union[_operations_pb2.Operation, _Mapping]] = ..., closed: _Optional[_Union[_empty_pb2.Empty, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("request", "response", "stream")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    request: RequestEvent
    response: ResponseEvent
    stream: StreamEvent
    def __init__(self, request: _Optional[_Union[RequestEvent, _Mapping]] = ..., response: _Optional[_Union[ResponseEvent, _Mapping]] = ..., stream: _Optional[_Union[StreamEvent, _Mapping]] = ...) -> None: ...

class OriginEvent(_message.Message):
    __slots__ = ("version", "event_id", "parent_event_id", "bazel_request_metadata", "identity", "event")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    BAZEL_REQUEST_METADATA_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    version: int
    event_id: str
    parent_event_id: str
    bazel_request_metadata: _remote_execution_pb2.RequestMetadata
    identity: str
    event: Event
    def __init__(self, version: _Optional[int] = ..., event_id: _Optional[str] = ..., parent_event_id: _Optional[str] = ..., bazel_request_metadata: _Optional[_Union[_remote_execution_pb2.RequestMetadata, _Mapping]] = ..., identity: _Optional[str] = ..., event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class OriginEvents(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[OriginEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[OriginEvent, _Mapping]]] = ...) -> None: ...

class BepEvent(_message.Message):
    __slots__ = ("version", "identity", "lifecycle_event", "build_tool_event")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    LIFECYCLE_EVENT_FIELD_NUMBER: _ClassVar[int]
    BUILD_TOOL_EVENT_FIELD_NUMBER: _ClassVar[int]
    version: int
    identity: str
    lifecycle_event: _publish_build_event_pb2.PublishLifecycleEventRequest
    build_tool_event: _publish_build_event_pb2.PublishBuildToolEventStreamRequest
    def __init__(self, version: _Optional[int] = ..., identity: _Optional[str] = ..., lifecycle_event: _Optional[_Union[_publish_build_event_pb2.PublishLifecycleEventRequest, _Mapping]] = ..., build_tool_event: _Optional[_Union[_publish_build_event_pb2.PublishBuildToolEventStreamRequest, _Mapping]] = ...) -> None: ...
