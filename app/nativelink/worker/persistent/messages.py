"""Requests and responses of Bazel's worker protocol, as bytes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import DecodeError

from nativelink.proto.nativelink.v1 import work_pb2

__all__ = [
    "MAX_RESPONSE_BYTES",
    "Protocol",
    "ProtocolError",
    "WorkInput",
    "encode",
    "read_response",
]

#: What a response may have, as in NativeLink v1.6.6: more is no compiler's output.
MAX_RESPONSE_BYTES: Final = 64 << 20
_MAX_VARINT_BYTES: Final = 5


class Protocol(StrEnum):
    """How messages are written (`requires-worker-protocol`)."""

    PROTO = "proto"
    JSON = "json"


class ProtocolError(Exception):
    """What a process said is no response, or it said nothing any more."""


class WorkInput(NamedTuple):
    """A file that an action may read.

    Attributes:
        path: relative to the action's working directory.
        digest: hash of its content, in hexadecimal.
    """

    path: str
    digest: str


def encode(arguments: Iterable[str], inputs: Iterable[WorkInput], protocol: Protocol) -> bytes:
    """A request as a process reads it. It has id 0: nothing is asked at the same time."""
    request = work_pb2.WorkRequest(
        arguments=arguments,
        inputs=(
            work_pb2.Input(path=path, digest=digest.encode("ascii")) for path, digest in inputs
        ),
    )
    if protocol is Protocol.JSON:
        return MessageToJson(request, indent=None).encode() + b"\n"
    data = request.SerializeToString()
    return _varint(len(data)) + data


async def read_response(
    read: Callable[[], Awaitable[bytes]], protocol: Protocol
) -> work_pb2.WorkResponse:
    """Wait for the next response.

    Args:
        read: gives what came, b"" at the end.
        protocol: how it is written.

    Raises:
        ProtocolError: it is not whole, too long, or not the answer to our request.
    """
    if protocol is Protocol.JSON:
        response = await _read_json(read)
    else:
        response = await _read_proto(read)
    if response.request_id:
        raise ProtocolError(f"it answered request {response.request_id}, which was not asked")
    return response


async def _read_proto(read: Callable[[], Awaitable[bytes]]) -> work_pb2.WorkResponse:
    received = bytearray()
    end: int | None = None
    while end is None or len(received) < end:
        received += await _more(read)
        if end is None and (head := _parse_varint(received)) is not None:
            length, size = head
            if length > MAX_RESPONSE_BYTES:
                raise ProtocolError(f"its answer of {length} bytes exceeds {MAX_RESPONSE_BYTES}")
            del received[:size]
            end = length
    if len(received) > end:
        raise ProtocolError(f"it wrote {len(received) - end} bytes after its answer")
    try:
        return work_pb2.WorkResponse.FromString(bytes(received))
    except DecodeError:
        raise ProtocolError(f"its answer is no WorkResponse: {bytes(received[:100])!r}") from None


async def _read_json(read: Callable[[], Awaitable[bytes]]) -> work_pb2.WorkResponse:
    received = bytearray()
    while True:
        received += await _more(read)
        if len(received) > MAX_RESPONSE_BYTES:
            raise ProtocolError(f"its answer exceeds {MAX_RESPONSE_BYTES} bytes")
        # A line break after it is usual, but not required.
        if not received.rstrip().endswith(b"}"):
            if not received.lstrip().startswith(b"{") and received.strip():
                raise ProtocolError(f"its answer is no JSON object: {bytes(received[:100])!r}")
            continue
        try:
            text = received.decode()
            json.loads(text)
        except ValueError:
            # A brace inside of it, so far.
            continue
        try:
            return Parse(text, work_pb2.WorkResponse(), ignore_unknown_fields=True)
        except ParseError:
            raise ProtocolError(f"its answer is no WorkResponse: {text[:100]!r}") from None


async def _more(read: Callable[[], Awaitable[bytes]]) -> bytes:
    data = await read()
    if not data:
        raise ProtocolError("it ended, or closed its output, before it had answered")
    return data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _parse_varint(data: bytearray) -> tuple[int, int] | None:
    """The number that `data` begins with, and its bytes; None if it is not whole yet."""
    value = 0
    for place, byte in enumerate(data[:_MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, place + 1
    if len(data) >= _MAX_VARINT_BYTES:
        raise ProtocolError(f"its answer begins with no length: {bytes(data[:20])!r}")
    return None
