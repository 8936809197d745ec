import datetime

from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as _remote_asset_pb2
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as _remote_execution_pb2
from nativelink.proto.google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RemoteAssetArtifact(_message.Message):
    __slots__ = ("uri", "qualifiers", "blob_digest", "expire_at", "digest_function")
    URI_FIELD_NUMBER: _ClassVar[int]
    QUALIFIERS_FIELD_NUMBER: _ClassVar[int]
    BLOB_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    uri: str
    qualifiers: _containers.RepeatedCompositeFieldContainer[_remote_asset_pb2.Qualifier]
    blob_digest: _remote_execution_pb2.Digest
    expire_at: _timestamp_pb2.Timestamp
    digest_function: _remote_execution_pb2.DigestFunction.Value
    def __init__(self, uri: _Optional[str] = ..., qualifiers: _Optional[_Iterable[_Union[_remote_asset_pb2.Qualifier, _Mapping]]] = ..., blob_digest: _Optional[_Union[_remote_execution_pb2.Digest, _Mapping]] = ..., expire_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., digest_function: _Optional[_Union[_remote_execution_pb2.DigestFunction.Value, str]] = ...) -> None: ...

class RemoteAssetRecord(_message.Message):
    __slots__ = ("content_time", "references_blobs", "references_directories")
    CONTENT_TIME_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_BLOBS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    content_time: _timestamp_pb2.Timestamp
    references_blobs: _containers.RepeatedCompositeFieldContainer[_remote_execution_pb2.Digest]
    references_directories: _containers.RepeatedCompositeFieldContainer[_remote_execution_pb2.Digest]
    def __init__(self, content_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., references_blobs: _Optional[_Iterable[_Union[_remote_execution_pb2.Digest, _Mapping]]] = ..., references_directories: _Optional[_Iterable[_Union[_remote_execution_pb2.Digest, _Mapping]]] = ...) -> None: ...
