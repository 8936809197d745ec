import datetime

from nativelink.proto.google.protobuf import duration_pb2 as _duration_pb2
from nativelink.proto.google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TestSize(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[TestSize]
    SMALL: _ClassVar[TestSize]
    MEDIUM: _ClassVar[TestSize]
    LARGE: _ClassVar[TestSize]
    ENORMOUS: _ClassVar[TestSize]

class TestStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NO_STATUS: _ClassVar[TestStatus]
    PASSED: _ClassVar[TestStatus]
    FLAKY: _ClassVar[TestStatus]
    TIMEOUT: _ClassVar[TestStatus]
    FAILED: _ClassVar[TestStatus]
    INCOMPLETE: _ClassVar[TestStatus]
    REMOTE_FAILURE: _ClassVar[TestStatus]
    FAILED_TO_BUILD: _ClassVar[TestStatus]
    TOOL_HALTED_BEFORE_TESTING: _ClassVar[TestStatus]
UNKNOWN: TestSize
SMALL: TestSize
MEDIUM: TestSize
LARGE: TestSize
ENORMOUS: TestSize
NO_STATUS: TestStatus
PASSED: TestStatus
FLAKY: TestStatus
TIMEOUT: TestStatus
FAILED: TestStatus
INCOMPLETE: TestStatus
REMOTE_FAILURE: TestStatus
FAILED_TO_BUILD: TestStatus
TOOL_HALTED_BEFORE_TESTING: TestStatus

class BuildEventId(_message.Message):
    __slots__ = ("progress", "pattern", "target_completed", "action_completed", "test_summary", "test_result", "build_finished", "pattern_skipped", "target_configured", "unconfigured_label", "configured_label")
    class ProgressId(_message.Message):
        __slots__ = ("opaque_count",)
        OPAQUE_COUNT_FIELD_NUMBER: _ClassVar[int]
        opaque_count: int
        def __init__(self, opaque_count: _Optional[int] = ...) -> None: ...
    class PatternExpandedId(_message.Message):
        __slots__ = ("pattern",)
        PATTERN_FIELD_NUMBER: _ClassVar[int]
        pattern: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, pattern: _Optional[_Iterable[str]] = ...) -> None: ...
    class ConfigurationId(_message.Message):
        __slots__ = ("id",)
        ID_FIELD_NUMBER: _ClassVar[int]
        id: str
        def __init__(self, id: _Optional[str] = ...) -> None: ...
    class TargetConfiguredId(_message.Message):
        __slots__ = ("label", "aspect")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        ASPECT_FIELD_NUMBER: _ClassVar[int]
        label: str
        aspect: str
        def __init__(self, label: _Optional[str] = ..., aspect: _Optional[str] = ...) -> None: ...
    class TargetCompletedId(_message.Message):
        __slots__ = ("label", "aspect", "configuration")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        ASPECT_FIELD_NUMBER: _ClassVar[int]
        CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
        label: str
        aspect: str
        configuration: BuildEventId.ConfigurationId
        def __init__(self, label: _Optional[str] = ..., aspect: _Optional[str] = ..., configuration: _Optional[_Union[BuildEventId.ConfigurationId, _Mapping]] = ...) -> None: ...
    class ActionCompletedId(_message.Message):
        __slots__ = ("primary_output", "label", "configuration")
        PRIMARY_OUTPUT_FIELD_NUMBER: _ClassVar[int]
        LABEL_FIELD_NUMBER: _ClassVar[int]
        CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
        primary_output: str
        label: str
        configuration: BuildEventId.ConfigurationId
        def __init__(self, primary_output: _Optional[str] = ..., label: _Optional[str] = ..., configuration: _Optional[_Union[BuildEventId.ConfigurationId, _Mapping]] = ...) -> None: ...
    class UnconfiguredLabelId(_message.Message):
        __slots__ = ("label",)
        LABEL_FIELD_NUMBER: _ClassVar[int]
        label: str
        def __init__(self, label: _Optional[str] = ...) -> None: ...
    class ConfiguredLabelId(_message.Message):
        __slots__ = ("label", "configuration")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
        label: str
        configuration: BuildEventId.ConfigurationId
        def __init__(self, label: _Optional[str] = ..., configuration: _Optional[_Union[BuildEventId.ConfigurationId, _Mapping]] = ...) -> None: ...
    class TestResultId(_message.Message):
        __slots__ = ("label", "run", "shard", "attempt", "configuration")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        RUN_FIELD_NUMBER: _ClassVar[int]
        SHARD_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_FIELD_NUMBER: _ClassVar[int]
        CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
        label: str
        run: int
        shard: int
        attempt: int
        configuration: BuildEventId.ConfigurationId
        def __init__(self, label: _Optional[str] = ..., run: _Optional[int] = ..., shard: _Optional[int] = ..., attempt: _Optional[int] = ..., configuration: _Optional[_Union[BuildEventId.ConfigurationId, _Mapping]] = ...) -> None: ...
    class TestSummaryId(_message.Message):
        __slots__ = ("label", "configuration")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
        label: str
        configuration: BuildEventId.ConfigurationId
        def __init__(self, label: _Optional[str] = ..., configuration: _Optional[_Union[BuildEventId.ConfigurationId, _Mapping]] = ...) -> None: ...
    class BuildFinishedId(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    TARGET_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    ACTION_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    TEST_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TEST_RESULT_FIELD_NUMBER: _ClassVar[int]
    BUILD_FINISHED_FIELD_NUMBER: _ClassVar[int]
    PATTERN_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    TARGET_CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    UNCONFIGURED_LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_LABEL_FIELD_NUMBER: _ClassVar[int]
    progress: BuildEventId.ProgressId
    pattern: BuildEventId.PatternExpandedId
    target_completed: BuildEventId.TargetCompletedId
    action_completed: BuildEventId.ActionCompletedId
    test_summary: BuildEventId.TestSummaryId
    test_result: BuildEventId.TestResultId
    build_finished: BuildEventId.BuildFinishedId
    pattern_skipped: BuildEventId.PatternExpandedId
    target_configured: BuildEventId.TargetConfiguredId
    unconfigured_label: BuildEventId.UnconfiguredLabelId
    configured_label: BuildEventId.ConfiguredLabelId
    def __init__(self, progress: _Optional[_Union[BuildEventId.ProgressId, _Mapping]] = ..., pattern: _Optional[_Union[BuildEventId.PatternExpandedId, _Mapping]] = ..., target_completed: _Optional[_Union[BuildEventId.TargetCompletedId, _Mapping]] = ..., action_completed: _Optional[_Union[BuildEventId.ActionCompletedId, _Mapping]] = ..., test_summary: _Optional[_Union[BuildEventId.TestSummaryId, _Mapping]] = ..., test_result: _Optional[_Union[BuildEventId.TestResultId, _Mapping]] = ..., build_finished: _Optional[_Union[BuildEventId.BuildFinishedId, _Mapping]] = ..., pattern_skipped: _Optional[_Union[BuildEventId.PatternExpandedId, _Mapping]] = ..., target_configured: _Optional[_Union[BuildEventId.TargetConfiguredId, _Mapping]] = ..., unconfigured_label: _Optional[_Union[BuildEventId.UnconfiguredLabelId, _Mapping]] = ..., configured_label: _Optional[_Union[BuildEventId.ConfiguredLabelId, _Mapping]] = ...) -> None: ...

class FailureDetail(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("stdout", "stderr")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    stdout: str
    stderr: str
    def __init__(self, stdout: _Optional[str] = ..., stderr: _Optional[str] = ...) -> None: ...

class Aborted(_message.Message):
    __slots__ = ("reason", "description")
    class AbortReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Aborted.AbortReason]
        USER_INTERRUPTED: _ClassVar[Aborted.AbortReason]
        TIME_OUT: _ClassVar[Aborted.AbortReason]
        REMOTE_ENVIRONMENT_FAILURE: _ClassVar[Aborted.AbortReason]
        INTERNAL: _ClassVar[Aborted.AbortReason]
        LOADING_FAILURE: _ClassVar[Aborted.AbortReason]
        ANALYSIS_FAILURE: _ClassVar[Aborted.AbortReason]
        SKIPPED: _ClassVar[Aborted.AbortReason]
        NO_ANALYZE: _ClassVar[Aborted.AbortReason]
        NO_BUILD: _ClassVar[Aborted.AbortReason]
        INCOMPLETE: _ClassVar[Aborted.AbortReason]
        OUT_OF_MEMORY: _ClassVar[Aborted.AbortReason]
    UNKNOWN: Aborted.AbortReason
    USER_INTERRUPTED: Aborted.AbortReason
    TIME_OUT: Aborted.AbortReason
    REMOTE_ENVIRONMENT_FAILURE: Aborted.AbortReason
    INTERNAL: Aborted.AbortReason
    LOADING_FAILURE: Aborted.AbortReason
    ANALYSIS_FAILURE: Aborted.AbortReason
    SKIPPED: Aborted.AbortReason
    NO_ANALYZE: Aborted.AbortReason
    NO_BUILD: Aborted.AbortReason
    INCOMPLETE: Aborted.AbortReason
    OUT_OF_MEMORY: Aborted.AbortReason
    REASON_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    reason: Aborted.AbortReason
    description: str
    def __init__(self, reason: _Optional[_Union[Aborted.AbortReason, str]] = ..., description: _Optional[str] = ...) -> None: ...

class BuildStarted(_message.Message):
    __slots__ = ("uuid", "start_time_millis", "build_tool_version", "options_description", "command", "working_directory", "workspace_directory", "start_time")
    UUID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_MILLIS_FIELD_NUMBER: _ClassVar[int]
    BUILD_TOOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    start_time_millis: int
    build_tool_version: str
    options_description: str
    command: str
    working_directory: str
    workspace_directory: str
    start_time: _timestamp_pb2.Timestamp
    def __init__(self, uuid: _Optional[str] = ..., start_time_millis: _Optional[int] = ..., build_tool_version: _Optional[str] = ..., options_description: _Optional[str] = ..., command: _Optional[str] = ..., working_directory: _Optional[str] = ..., workspace_directory: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class OptionsParsed(_message.Message):
    __slots__ = ("explicit_cmd_line",)
    EXPLICIT_CMD_LINE_FIELD_NUMBER: _ClassVar[int]
    explicit_cmd_line: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, explicit_cmd_line: _Optional[_Iterable[str]] = ...) -> None: ...

class WorkspaceStatus(_message.Message):
    __slots__ = ("item",)
    class Item(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: _containers.RepeatedCompositeFieldContainer[WorkspaceStatus.Item]
    def __init__(self, item: _Optional[_Iterable[_Union[WorkspaceStatus.Item, _Mapping]]] = ...) -> None: ...

class BuildMetadata(_message.Message):
    __slots__ = ("metadata",)
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    METADATA_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TargetConfigured(_message.Message):
    __slots__ = ("target_kind", "test_size")
    TARGET_KIND_FIELD_NUMBER: _ClassVar[int]
    TEST_SIZE_FIELD_NUMBER: _ClassVar[int]
    target_kind: str
    test_size: TestSize
    def __init__(self, target_kind: _Optional[str] = ..., test_size: _Optional[_Union[TestSize, str]] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "uri", "contents", "path_prefix", "digest", "length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    PATH_PREFIX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    uri: str
    contents: bytes
    path_prefix: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    length: int
    def __init__(self, name: _Optional[str] = ..., uri: _Optional[str] = ..., contents: _Optional[bytes] = ..., path_prefix: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class ActionExecuted(_message.Message):
    __slots__ = ("success", "exit_code", "stdout", "stderr", "label", "primary_output", "type", "failure_detail", "start_time", "end_time")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    success: bool
    exit_code: int
    stdout: File
    stderr: File
    label: str
    primary_output: File
    type: str
    failure_detail: FailureDetail
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, success: _Optional[bool] = ..., exit_code: _Optional[int] = ..., stdout: _Optional[_Union[File, _Mapping]] = ..., stderr: _Optional[_Union[File, _Mapping]] = ..., label: _Optional[str] = ..., primary_output: _Optional[_Union[File, _Mapping]] = ..., type: _Optional[str] = ..., failure_detail: _Optional[_Union[FailureDetail, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TargetComplete(_message.Message):
    __slots__ = ("success", "target_kind", "failure_detail")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    TARGET_KIND_FIELD_NUMBER: _ClassVar[int]
    FAILURE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    success: bool
    target_kind: str
    failure_detail: FailureDetail
    def __init__(self, success: _Optional[bool] = ..., target_kind: _Optional[str] = ..., failure_detail: _Optional[_Union[FailureDetail, _Mapping]] = ...) -> None: ...

class TestResult(_message.Message):
    __slots__ = ("test_action_output", "test_attempt_duration_millis", "cached_locally", "status", "execution_info", "status_details", "test_attempt_duration")
    class ExecutionInfo(_message.Message):
        __slots__ = ("strategy", "hostname", "cached_remotely", "exit_code")
        STRATEGY_FIELD_NUMBER: _ClassVar[int]
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        CACHED_REMOTELY_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        strategy: str
        hostname: str
        cached_remotely: bool
        exit_code: int
        def __init__(self, strategy: _Optional[str] = ..., hostname: _Optional[str] = ..., cached_remotely: _Optional[bool] = ..., exit_code: _Optional[int] = ...) -> None: ...
    TEST_ACTION_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TEST_ATTEMPT_DURATION_MILLIS_FIELD_NUMBER: _ClassVar[int]
    CACHED_LOCALLY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_INFO_FIELD_NUMBER: _ClassVar[int]
    STATUS_DETAILS_FIELD_NUMBER: _ClassVar[int]
    TEST_ATTEMPT_DURATION_FIELD_NUMBER: _ClassVar[int]
    test_action_output: _containers.RepeatedCompositeFieldContainer[File]
    test_attempt_duration_millis: int
    cached_locally: bool
    status: TestStatus
    execution_info: TestResult.ExecutionInfo
    status_details: str
    test_attempt_duration: _duration_pb2.Duration
    def __init__(self, test_action_output: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., test_attempt_duration_millis: _Optional[int] = ..., cached_locally: _Optional[bool] = ..., status: _Optional[_Union[TestStatus, str]] = ..., execution_info: _Optional[_Union[TestResult.ExecutionInfo, _Mapping]] = ..., status_details: _Optional[str] = ..., test_attempt_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TestSummary(_message.Message):
    __slots__ = ("total_run_count", "passed", "failed", "overall_status", "total_num_cached", "total_run_duration_millis", "run_count", "shard_count", "total_run_duration", "attempt_count")
    TOTAL_RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    OVERALL_STATUS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NUM_CACHED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RUN_DURATION_MILLIS_FIELD_NUMBER: _ClassVar[int]
    RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RUN_DURATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    total_run_count: int
    passed: _containers.RepeatedCompositeFieldContainer[File]
    failed: _containers.RepeatedCompositeFieldContainer[File]
    overall_status: TestStatus
    total_num_cached: int
    total_run_duration_millis: int
    run_count: int
    shard_count: int
    total_run_duration: _duration_pb2.Duration
    attempt_count: int
    def __init__(self, total_run_count: _Optional[int] = ..., passed: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., failed: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., overall_status: _Optional[_Union[TestStatus, str]] = ..., total_num_cached: _Optional[int] = ..., total_run_duration_millis: _Optional[int] = ..., run_count: _Optional[int] = ..., shard_count: _Optional[int] = ..., total_run_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., attempt_count: _Optional[int] = ...) -> None: ...

class BuildFinished(_message.Message):
    __slots__ = ("overall_success", "finish_time_millis", "exit_code", "finish_time", "failure_detail")
    class ExitCode(_message.Message):
        __slots__ = ("name", "code")
        NAME_FIELD_NUMBER: _ClassVar[int]
        CODE_FIELD_NUMBER: _ClassVar[int]
        name: str
        code: int
        def __init__(self, name: _Optional[str] = ..., code: _Optional[int] = ...) -> None: ...
    OVERALL_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_MILLIS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    overall_success: bool
    finish_time_millis: int
    exit_code: BuildFinished.ExitCode
    finish_time: _timestamp_pb2.Timestamp
    failure_detail: FailureDetail
    def __init__(self, overall_success: _Optional[bool] = ..., finish_time_millis: _Optional[int] = ..., exit_code: _Optional[_Union[BuildFinished.ExitCode, _Mapping]] = ..., finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failure_detail: _Optional[_Union[FailureDetail, _Mapping]] = ...) -> None: ...

class ActionCacheStatistics(_message.Message):
    __slots__ = ("hits", "misses")
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    hits: int
    misses: int
    def __init__(self, hits: _Optional[int] = ..., misses: _Optional[int] = ...) -> None: ...

class BuildMetrics(_message.Message):
    __slots__ = ("action_summary", "timing_metrics", "artifact_metrics", "network_metrics")
    class ActionSummary(_message.Message):
        __slots__ = ("actions_created", "actions_executed", "remote_cache_hits", "runner_count", "action_cache_statistics")
        class RunnerCount(_message.Message):
            __slots__ = ("name", "count", "exec_kind")
            NAME_FIELD_NUMBER: _ClassVar[int]
            COUNT_FIELD_NUMBER: _ClassVar[int]
            EXEC_KIND_FIELD_NUMBER: _ClassVar[int]
            name: str
            count: int
            exec_kind: str
            def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., exec_kind: _Optional[str] = ...) -> None: ...
        ACTIONS_CREATED_FIELD_NUMBER: _ClassVar[int]
        ACTIONS_EXECUTED_FIELD_NUMBER: _ClassVar[int]
        REMOTE_CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
        RUNNER_COUNT_FIELD_NUMBER: _ClassVar[int]
        ACTION_CACHE_STATISTICS_FIELD_NUMBER: _ClassVar[int]
        actions_created: int
        actions_executed: int
        remote_cache_hits: int
        runner_count: _containers.RepeatedCompositeFieldContainer[BuildMetrics.ActionSummary.RunnerCount]
        action_cache_statistics: ActionCacheStatistics
        def __init__(self, actions_created: _Optional[int] = ..., actions_executed: _Optional[int] = ..., remote_cache_hits: _Optional[int] = ..., runner_count: _Optional[_Iterable[_Union[BuildMetrics.ActionSummary.RunnerCount, _Mapping]]] = ..., action_cache_statistics: _Optional[_Union[ActionCacheStatistics, _Mapping]] = ...) -> None: ...
    class TimingMetrics(_message.Message):
        __slots__ = ("cpu_time_in_ms", "wall_time_in_ms", "analysis_phase_time_in_ms", "execution_phase_time_in_ms", "critical_path_time")
        CPU_TIME_IN_MS_FIELD_NUMBER: _ClassVar[int]
        WALL_TIME_IN_MS_FIELD_NUMBER: _ClassVar[int]
        ANALYSIS_PHASE_TIME_IN_MS_FIELD_NUMBER: _ClassVar[int]
        EXECUTION_PHASE_TIME_IN_MS_FIELD_NUMBER: _ClassVar[int]
        CRITICAL_PATH_TIME_FIELD_NUMBER: _ClassVar[int]
        cpu_time_in_ms: int
        wall_time_in_ms: int
        analysis_phase_time_in_ms: int
        execution_phase_time_in_ms: int
        critical_path_time: _duration_pb2.Duration
        def __init__(self, cpu_time_in_ms: _Optional[int] = ..., wall_time_in_ms: _Optional[int] = ..., analysis_phase_time_in_ms: _Optional[int] = ..., execution_phase_time_in_ms: _Optional[int] = ..., critical_path_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    class ArtifactMetrics(_message.Message):
        __slots__ = ("source_artifacts_read", "output_artifacts_seen", "output_artifacts_from_action_cache", "top_level_artifacts")
        class FilesMetric(_message.Message):
            __slots__ = ("size_in_bytes", "count")
            SIZE_IN_BYTES_FIELD_NUMBER: _ClassVar[int]
            COUNT_FIELD_NUMBER: _ClassVar[int]
            size_in_bytes: int
            count: int
            def __init__(self, size_in_bytes: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...
        SOURCE_ARTIFACTS_READ_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_ARTIFACTS_SEEN_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_ARTIFACTS_FROM_ACTION_CACHE_FIELD_NUMBER: _ClassVar[int]
        TOP_LEVEL_ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
        source_artifacts_read: BuildMetrics.ArtifactMetrics.FilesMetric
        output_artifacts_seen: BuildMetrics.ArtifactMetrics.FilesMetric
        output_artifacts_from_action_cache: BuildMetrics.ArtifactMetrics.FilesMetric
        top_level_artifacts: BuildMetrics.ArtifactMetrics.FilesMetric
        def __init__(self, source_artifacts_read: _Optional[_Union[BuildMetrics.ArtifactMetrics.FilesMetric, _Mapping]] = ..., output_artifacts_seen: _Optional[_Union[BuildMetrics.ArtifactMetrics.FilesMetric, _Mapping]] = ..., output_artifacts_from_action_cache: _Optional[_Union[BuildMetrics.ArtifactMetrics.FilesMetric, _Mapping]] = ..., top_level_artifacts: _Optional[_Union[BuildMetrics.ArtifactMetrics.FilesMetric, _Mapping]] = ...) -> None: ...
    class NetworkMetrics(_message.Message):
        __slots__ = ("system_network_stats",)
        class SystemNetworkStats(_message.Message):
            __slots__ = ("bytes_sent", "bytes_recv")
            BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
            BYTES_RECV_FIELD_NUMBER: _ClassVar[int]
            bytes_sent: int
            bytes_recv: int
            def __init__(self, bytes_sent: _Optional[int] = ..., bytes_recv: _Optional[int] = ...) -> None: ...
        SYSTEM_NETWORK_STATS_FIELD_NUMBER: _ClassVar[int]
        system_network_stats: BuildMetrics.NetworkMetrics.SystemNetworkStats
        def __init__(self, system_network_stats: _Optional[_Union[BuildMetrics.NetworkMetrics.SystemNetworkStats, _Mapping]] = ...) -> None: ...
    ACTION_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TIMING_METRICS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_METRICS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_METRICS_FIELD_NUMBER: _ClassVar[int]
    action_summary: BuildMetrics.ActionSummary
    timing_metrics: BuildMetrics.TimingMetrics
    artifact_metrics: BuildMetrics.ArtifactMetrics
    network_metrics: BuildMetrics.NetworkMetrics
    def __init__(self, action_summary: _Optional[_Union[BuildMetrics.ActionSummary, _Mapping]] = ..., timing_metrics: _Optional[_Union[BuildMetrics.TimingMetrics, _Mapping]] = ..., artifact_metrics: _Optional[_Union[BuildMetrics.ArtifactMetrics, _Mapping]] = ..., network_metrics: _Optional[_Union[BuildMetrics.NetworkMetrics, _Mapping]] = ...) -> None: ...

class BuildToolLogs(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: _containers.RepeatedCompositeFieldContainer[File]
    def __init__(self, log: _Optional[_Iterable[_Union[File, _Mapping]]] = ...) -> None: ...

class BuildEvent(_message.Message):
    __slots__ = ("id", "children", "progress", "aborted", "started", "action", "completed", "test_summary", "test_result", "options_parsed", "finished", "workspace_status", "configured", "build_tool_logs", "build_metrics", "build_metadata", "last_message")
    ID_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    TEST_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TEST_RESULT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_PARSED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_STATUS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    BUILD_TOOL_LOGS_FIELD_NUMBER: _ClassVar[int]
    BUILD_METRICS_FIELD_NUMBER: _ClassVar[int]
    BUILD_METADATA_FIELD_NUMBER: _ClassVar[int]
    LAST_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: BuildEventId
    children: _containers.RepeatedCompositeFieldContainer[BuildEventId]
    progress: Progress
    aborted: Aborted
    started: BuildStarted
    action: ActionExecuted
    completed: TargetComplete
    test_summary: TestSummary
    test_result: TestResult
    options_parsed: OptionsParsed
    finished: BuildFinished
    workspace_status: WorkspaceStatus
    configured: TargetConfigured
    build_tool_logs: BuildToolLogs
    build_metrics: BuildMetrics
    build_metadata: BuildMetadata
    last_message: bool
    def __init__(self, id: _Optional[_Union[BuildEventId, _Mapping]] = ..., children: _Optional[_Iterable[_Union[BuildEventId, _Mapping]]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., aborted: _Optional[_Union[Aborted, _Mapping]] = ..., started: _Optional[_Union[BuildStarted, _Mapping]] = ..., action: _Optional[_Union[ActionExecuted, _Mapping]] = ..., completed: _Optional[_Union[TargetComplete, _Mapping]] = ..., test_summary: _Optional[_Union[TestSummary, _Mapping]] = ..., test_result: _Optional[_Union[TestResult, _Mapping]] = ..., options_parsed: _Optional[_Union[OptionsParsed, _Mapping]] = ..., finished: _Optional[_Union[BuildFinished, _Mapping]] = ..., workspace_status: _Optional[_Union[WorkspaceStatus, _Mapping]] = ..., configured: _Optional[_Union[TargetConfigured, _Mapping]] = ..., build_tool_logs: _Optional[_Union[BuildToolLogs, _Mapping]] = ..., build_metrics: _Optional[_Union[BuildMetrics, _Mapping]] = ..., build_metadata: _Optional[_Union[BuildMetadata, _Mapping]] = ..., last_message: _Optional[bool] = ...) -> None: ...
