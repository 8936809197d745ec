"""HTTP/2 frames as bytes (RFC 9113 section 4 and 6): numbers, and one builder per frame we send."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "HEADER_LENGTH",
    "MAX_STREAM_ID",
    "MAX_WINDOW",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FIELDS",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "ErrorCode",
    "Setting",
    "data_header",
    "goaway_frame",
    "pack_header",
    "ping_frame",
    "rst_stream_frame",
    "settings_ack_frame",
    "settings_frame",
    "split_header",
    "window_update_frame",
]

#: What a client sends first (RFC 9113 section 3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FIELDS: Final = 0x20

HEADER_LENGTH: Final = 9
MAX_STREAM_ID: Final = 2**31 - 1
MAX_WINDOW: Final = 2**31 - 1

# The length's 24 bits travel as 16 and 8: one unpack gives all five fields of a header.
_HEADER: Final = Struct(">HBBBI")

#: The same five of a header to be sent.
pack_header: Final = _HEADER.pack

#: `(length >> 8, length & 255, type, flags, stream id with its reserved bit)` at an offset.
split_header: Final = _HEADER.unpack_from


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """RFC 9113 section 6.5.2, and RFC 8441 section 3 for the last."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


def data_header(length: int, flags: int, stream_id: int) -> bytes:
    """The header of a DATA frame."""
    return _HEADER.pack(length >> 8, length & 255, DATA, flags, stream_id)


def settings_frame(values: dict[Setting, int]) -> bytes:
    """SETTINGS with `values`, in order."""
    payload = b"".join(
        int(key).to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items()
    )
    return _HEADER.pack(0, len(payload), SETTINGS, 0, 0) + payload


def settings_ack_frame() -> bytes:
    """The acknowledgement of the peer's SETTINGS."""
    return _HEADER.pack(0, 0, SETTINGS, ACK, 0)


def ping_frame(payload: bytes, *, ack: bool = False) -> bytes:
    """PING with its 8 bytes."""
    return _HEADER.pack(0, 8, PING, ACK if ack else 0, 0) + payload


def goaway_frame(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY; `debug` is read by people only."""
    return (
        _HEADER.pack(0, 8 + len(debug), GOAWAY, 0, 0)
        + last_stream_id.to_bytes(4, "big")
        + code.to_bytes(4, "big")
        + debug
    )


def rst_stream_frame(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return _HEADER.pack(0, 4, RST_STREAM, 0, stream_id) + code.to_bytes(4, "big")


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return _HEADER.pack(0, 4, WINDOW_UPDATE, 0, stream_id) + increment.to_bytes(4, "big")
