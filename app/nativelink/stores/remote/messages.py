"""Messages of the Remote Execution API, as stores make and read them."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from nativelink.core.digest import Digest
from nativelink.core.errors import internal
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

__all__ = ["digest_message", "parsed"]

_Message = TypeVar("_Message", bound=Message)


def digest_message(digest: Digest) -> pb.Digest:
    """A digest as REAPI has it."""
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def parsed(kind: type[_Message], answer: bytes) -> _Message:
    """What an upstream answered.

    Raises:
        NativeLinkError: INTERNAL if it is no such message.
    """
    try:
        return kind.FromString(answer)
    except DecodeError as error:
        raise internal(f"the upstream sent what is no {kind.__name__}: {error}") from error
