import datetime

from nativelink.proto.google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExecutionProgress(_message.Message):
    __slots__ = ("queue_position", "note", "attempts", "priority", "operation_id", "tool_invocation_id", "target_id", "action_mnemonic", "story")
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_MNEMONIC_FIELD_NUMBER: _ClassVar[int]
    STORY_FIELD_NUMBER: _ClassVar[int]
    queue_position: int
    note: str
    attempts: int
    priority: int
    operation_id: str
    tool_invocation_id: str
    target_id: str
    action_mnemonic: str
    story: _containers.RepeatedCompositeFieldContainer[StoryEntry]
    def __init__(self, queue_position: _Optional[int] = ..., note: _Optional[str] = ..., attempts: _Optional[int] = ..., priority: _Optional[int] = ..., operation_id: _Optional[str] = ..., tool_invocation_id: _Optional[str] = ..., target_id: _Optional[str] = ..., action_mnemonic: _Optional[str] = ..., story: _Optional[_Iterable[_Union[StoryEntry, _Mapping]]] = ...) -> None: ...

class StoryEntry(_message.Message):
    __slots__ = ("at", "cause", "text")
    AT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    cause: str
    text: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...
