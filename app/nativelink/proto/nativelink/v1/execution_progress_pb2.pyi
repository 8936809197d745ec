from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ExecutionProgress(_message.Message):
    __slots__ = ("queue_position", "note", "attempts", "priority", "operation_id", "tool_invocation_id", "target_id", "action_mnemonic")
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_INVOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_MNEMONIC_FIELD_NUMBER: _ClassVar[int]
    queue_position: int
    note: str
    attempts: int
    priority: int
    operation_id: str
    tool_invocation_id: str
    target_id: str
    action_mnemonic: str
    def __init__(self, queue_position: _Optional[int] = ..., note: _Optional[str] = ..., attempts: _Optional[int] = ..., priority: _Optional[int] = ..., operation_id: _Optional[str] = ..., tool_invocation_id: _Optional[str] = ..., target_id: _Optional[str] = ..., action_mnemonic: _Optional[str] = ...) -> None: ...
