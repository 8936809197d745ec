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

class ListBuildsRequest(_message.Message):
    __slots__ = ("page_size", "filter", "days")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    filter: str
    days: int
    def __init__(self, page_size: _Optional[int] = ..., filter: _Optional[str] = ..., days: _Optional[int] = ...) -> None: ...

class ListBuildsResponse(_message.Message):
    __slots__ = ("builds", "more")
    BUILDS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    builds: _containers.RepeatedCompositeFieldContainer[Build]
    more: bool
    def __init__(self, builds: _Optional[_Iterable[_Union[Build, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class GetBuildRequest(_message.Message):
    __slots__ = ("invocation_id", "build_id")
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    invocation_id: str
    build_id: str
    def __init__(self, invocation_id: _Optional[str] = ..., build_id: _Optional[str] = ...) -> None: ...

class ReadBuildLogRequest(_message.Message):
    __slots__ = ("invocation_id", "build_id")
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    invocation_id: str
    build_id: str
    def __init__(self, invocation_id: _Optional[str] = ..., build_id: _Optional[str] = ...) -> None: ...

class ReadBuildLogResponse(_message.Message):
    __slots__ = ("stdout", "stderr")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    stdout: str
    stderr: str
    def __init__(self, stdout: _Optional[str] = ..., stderr: _Optional[str] = ...) -> None: ...

class BuildIndex(_message.Message):
    __slots__ = ("entries",)
    class Entry(_message.Message):
        __slots__ = ("invocation_id", "start_time")
        INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
        START_TIME_FIELD_NUMBER: _ClassVar[int]
        invocation_id: str
        start_time: _timestamp_pb2.Timestamp
        def __init__(self, invocation_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[BuildIndex.Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[BuildIndex.Entry, _Mapping]]] = ...) -> None: ...

class Build(_message.Message):
    __slots__ = ("build_id", "invocation_id", "identity", "project_id", "keywords", "last_sequence_number", "incomplete", "state", "seen_time", "tool_version", "command", "patterns", "options", "workspace_directory", "user", "host", "metadata", "start_time", "finish_time", "exit_name", "exit_code", "failure_message", "targets_configured", "targets_built", "targets_failed", "targets_skipped", "tests_passed", "tests_failed", "tests_flaky", "tests_cached", "failures_total", "runners", "actions_created", "actions_executed", "has_action_cache", "action_cache_hits", "action_cache_misses", "wall_time", "cpu_time", "analysis_time", "execution_time", "critical_path_time", "critical_path", "profile_uri", "source_bytes", "output_bytes", "output_files", "network_sent_bytes", "network_received_bytes", "targets", "tests", "failures")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Build.State]
        RUNNING: _ClassVar[Build.State]
        SUCCEEDED: _ClassVar[Build.State]
        FAILED: _ClassVar[Build.State]
        INTERRUPTED: _ClassVar[Build.State]
    UNKNOWN: Build.State
    RUNNING: Build.State
    SUCCEEDED: Build.State
    FAILED: Build.State
    INTERRUPTED: Build.State
    class Target(_message.Message):
        __slots__ = ("label", "kind", "state")
        class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            CONFIGURED: _ClassVar[Build.Target.State]
            BUILT: _ClassVar[Build.Target.State]
            FAILED: _ClassVar[Build.Target.State]
            SKIPPED: _ClassVar[Build.Target.State]
        CONFIGURED: Build.Target.State
        BUILT: Build.Target.State
        FAILED: Build.Target.State
        SKIPPED: Build.Target.State
        LABEL_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        label: str
        kind: str
        state: Build.Target.State
        def __init__(self, label: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[Build.Target.State, str]] = ...) -> None: ...
    class Test(_message.Message):
        __slots__ = ("label", "status", "duration", "runs", "cached", "attempts", "shards", "logs", "strategy", "details")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        DURATION_FIELD_NUMBER: _ClassVar[int]
        RUNS_FIELD_NUMBER: _ClassVar[int]
        CACHED_FIELD_NUMBER: _ClassVar[int]
        ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
        SHARDS_FIELD_NUMBER: _ClassVar[int]
        LOGS_FIELD_NUMBER: _ClassVar[int]
        STRATEGY_FIELD_NUMBER: _ClassVar[int]
        DETAILS_FIELD_NUMBER: _ClassVar[int]
        label: str
        status: str
        duration: _duration_pb2.Duration
        runs: int
        cached: int
        attempts: int
        shards: int
        logs: _containers.RepeatedScalarFieldContainer[str]
        strategy: str
        details: str
        def __init__(self, label: _Optional[str] = ..., status: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., runs: _Optional[int] = ..., cached: _Optional[int] = ..., attempts: _Optional[int] = ..., shards: _Optional[int] = ..., logs: _Optional[_Iterable[str]] = ..., strategy: _Optional[str] = ..., details: _Optional[str] = ...) -> None: ...
    class Failure(_message.Message):
        __slots__ = ("label", "mnemonic", "exit_code", "message", "stdout_uri", "stderr_uri", "output", "reason")
        LABEL_FIELD_NUMBER: _ClassVar[int]
        MNEMONIC_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        STDOUT_URI_FIELD_NUMBER: _ClassVar[int]
        STDERR_URI_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        label: str
        mnemonic: str
        exit_code: int
        message: str
        stdout_uri: str
        stderr_uri: str
        output: str
        reason: str
        def __init__(self, label: _Optional[str] = ..., mnemonic: _Optional[str] = ..., exit_code: _Optional[int] = ..., message: _Optional[str] = ..., stdout_uri: _Optional[str] = ..., stderr_uri: _Optional[str] = ..., output: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
    class Runner(_message.Message):
        __slots__ = ("name", "count")
        NAME_FIELD_NUMBER: _ClassVar[int]
        COUNT_FIELD_NUMBER: _ClassVar[int]
        name: str
        count: int
        def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PROJECT_ID_FIELD_NUMBER: _ClassVar[int]
    KEYWORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    TOOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    EXIT_NAME_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    TARGETS_BUILT_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FAILED_FIELD_NUMBER: _ClassVar[int]
    TARGETS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    TESTS_PASSED_FIELD_NUMBER: _ClassVar[int]
    TESTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    TESTS_FLAKY_FIELD_NUMBER: _ClassVar[int]
    TESTS_CACHED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RUNNERS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_CREATED_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_EXECUTED_FIELD_NUMBER: _ClassVar[int]
    HAS_ACTION_CACHE_FIELD_NUMBER: _ClassVar[int]
    ACTION_CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    ACTION_CACHE_MISSES_FIELD_NUMBER: _ClassVar[int]
    WALL_TIME_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_TIME_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_PATH_TIME_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_PATH_FIELD_NUMBER: _ClassVar[int]
    PROFILE_URI_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FILES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    build_id: str
    invocation_id: str
    identity: str
    project_id: str
    keywords: _containers.RepeatedScalarFieldContainer[str]
    last_sequence_number: int
    incomplete: bool
    state: Build.State
    seen_time: _timestamp_pb2.Timestamp
    tool_version: str
    command: str
    patterns: _containers.RepeatedScalarFieldContainer[str]
    options: _containers.RepeatedScalarFieldContainer[str]
    workspace_directory: str
    user: str
    host: str
    metadata: _containers.ScalarMap[str, str]
    start_time: _timestamp_pb2.Timestamp
    finish_time: _timestamp_pb2.Timestamp
    exit_name: str
    exit_code: int
    failure_message: str
    targets_configured: int
    targets_built: int
    targets_failed: int
    targets_skipped: int
    tests_passed: int
    tests_failed: int
    tests_flaky: int
    tests_cached: int
    failures_total: int
    runners: _containers.RepeatedCompositeFieldContainer[Build.Runner]
    actions_created: int
    actions_executed: int
    has_action_cache: bool
    action_cache_hits: int
    action_cache_misses: int
    wall_time: _duration_pb2.Duration
    cpu_time: _duration_pb2.Duration
    analysis_time: _duration_pb2.Duration
    execution_time: _duration_pb2.Duration
    critical_path_time: _duration_pb2.Duration
    critical_path: str
    profile_uri: str
    source_bytes: int
    output_bytes: int
    output_files: int
    network_sent_bytes: int
    network_received_bytes: int
    targets: _containers.RepeatedCompositeFieldContainer[Build.Target]
    tests: _containers.RepeatedCompositeFieldContainer[Build.Test]
    failures: _containers.RepeatedCompositeFieldContainer[Build.Failure]
    def __init__(self, build_id: _Optional[str] = ..., invocation_id: _Optional[str] = ..., identity: _Optional[str] = ..., project_id: _Optional[str] = ..., keywords: _Optional[_Iterable[str]] = ..., last_sequence_number: _Optional[int] = ..., incomplete: _Optional[bool] = ..., state: _Optional[_Union[Build.State, str]] = ..., seen_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tool_version: _Optional[str] = ..., command: _Optional[str] = ..., patterns: _Optional[_Iterable[str]] = ..., options: _Optional[_Iterable[str]] = ..., workspace_directory: _Optional[str] = ..., user: _Optional[str] = ..., host: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exit_name: _Optional[str] = ..., exit_code: _Optional[int] = ..., failure_message: _Optional[str] = ..., targets_configured: _Optional[int] = ..., targets_built: _Optional[int] = ..., targets_failed: _Optional[int] = ..., targets_skipped: _Optional[int] = ..., tests_passed: _Optional[int] = ..., tests_failed: _Optional[int] = ..., tests_flaky: _Optional[int] = ..., tests_cached: _Optional[int] = ..., failures_total: _Optional[int] = ..., runners: _Optional[_Iterable[_Union[Build.Runner, _Mapping]]] = ..., actions_created: _Optional[int] = ..., actions_executed: _Optional[int] = ..., has_action_cache: _Optional[bool] = ..., action_cache_hits: _Optional[int] = ..., action_cache_misses: _Optional[int] = ..., wall_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., analysis_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., execution_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., critical_path_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., critical_path: _Optional[str] = ..., profile_uri: _Optional[str] = ..., source_bytes: _Optional[int] = ..., output_bytes: _Optional[int] = ..., output_files: _Optional[int] = ..., network_sent_bytes: _Optional[int] = ..., network_received_bytes: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[Build.Target, _Mapping]]] = ..., tests: _Optional[_Iterable[_Union[Build.Test, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Build.Failure, _Mapping]]] = ...) -> None: ...
