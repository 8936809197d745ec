"""What the server and the small processes say to each other, as bytes.

A frame is its length (of all that follows), its kind, and a body. The words of a request have no
NUL bytes (the kernel could not take them), so NUL separates them: nothing is escaped, nothing is
quoted, and one `split` undoes it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

__all__ = [
    "CANCEL",
    "EXIT",
    "FAILED",
    "FORK_BYTES",
    "NOTICE_BYTES",
    "PROBE",
    "READY",
    "RUN",
    "Ended",
    "Failure",
    "Fork",
    "Notice",
    "Request",
    "cut",
    "frame",
]

#: To a slot.
RUN: Final = 1
CANCEL: Final = 2
PROBE: Final = 3
#: From a slot.
EXIT: Final = 4
FAILED: Final = 5
READY: Final = 6

_HEAD: Final = struct.Struct("<IB")
_REQUEST: Final = struct.Struct("<dQdIIB")
_ENDED: Final = struct.Struct("<?i?QQ?dd")
_FAILURE: Final = struct.Struct("<B?")


def frame(kind: int, body: bytes = b"") -> bytes:
    """A frame of `body`."""
    return _HEAD.pack(len(body) + 1, kind) + body


def cut(received: bytearray) -> tuple[int, bytes] | None:
    """Take the first frame off `received`: its kind and its body; None if it is not whole."""
    if len(received) < _HEAD.size:
        return None
    length, kind = _HEAD.unpack_from(received)
    end = 4 + length
    if len(received) < end:
        return None
    body = bytes(memoryview(received)[_HEAD.size : end])
    del received[:end]
    return kind, body


class Request(NamedTuple):
    """A program to run. See `nativelink.worker.launch.Launch`; here all is bytes.

    Attributes:
        timeout_s: seconds, may be infinite.
        memory_bytes: limit, 0 is none.
        cpus: limit, 0 is none.
        pids: limit, 0 is none.
        piped: whether descriptors for its stdin and stdout come with the request.
        words: working directory, action directory, stdout, stderr, then the arguments.
        variables: NAME=value.
    """

    timeout_s: float
    memory_bytes: int
    cpus: float
    pids: int
    piped: bool
    words: list[bytes]
    variables: list[bytes]

    def pack(self) -> bytes:
        """The frame's body.

        Raises:
            ValueError: if there is a NUL byte in a word or a variable.
        """
        words = b"\0".join(self.words + self.variables)
        if words.count(b"\0") != len(self.words) + len(self.variables) - 1:
            raise ValueError("a NUL byte")
        return (
            _REQUEST.pack(
                self.timeout_s,
                self.memory_bytes,
                self.cpus,
                self.pids,
                len(self.words),
                self.piped,
            )
            + words
        )

    @staticmethod
    def unpack(body: bytes) -> Request:
        """What `pack` made."""
        timeout_s, memory_bytes, cpus, pids, count, piped = _REQUEST.unpack_from(body)
        words = body[_REQUEST.size :].split(b"\0")
        return Request(
            timeout_s, memory_bytes, cpus, pids, bool(piped), words[:count], words[count:]
        )


class Ended(NamedTuple):
    """A program that ended with everything it started. See `nativelink.worker.launch.Exit`.

    Attributes:
        timed_out: whether the time limit ended it.
        status: as wait(2) has it.
        out_of_memory: whether the kernel killed in it for its memory limit.
        cpu_us: of the whole tree.
        peak_memory_kb: 0 if it was never measured.
        sampled: whether it was.
        started_at: seconds since the epoch.
        ended_at: likewise.
    """

    timed_out: bool
    status: int
    out_of_memory: bool
    cpu_us: int
    peak_memory_kb: int
    sampled: bool
    started_at: float
    ended_at: float

    def pack(self) -> bytes:
        """The frame's body."""
        return _ENDED.pack(*self)

    @staticmethod
    def unpack(body: bytes | bytearray) -> Ended:
        """What `pack` made."""
        return Ended(*_ENDED.unpack(body))


class Failure(NamedTuple):
    """A program that could not be started, or not be ended.

    Attributes:
        code: a gRPC code.
        last: whether the slot is of no use any more.
        message: what went wrong.
    """

    code: int
    last: bool
    message: str

    def pack(self) -> bytes:
        """The frame's body."""
        text = self.message.encode("utf-8", "replace")
        return _FAILURE.pack(self.code, self.last) + text

    @staticmethod
    def unpack(body: bytes | bytearray) -> Failure:
        """What `pack` made."""
        code, last = _FAILURE.unpack_from(body)
        return Failure(code, last, body[_FAILURE.size :].decode("utf-8", "replace"))


_FORK: Final = struct.Struct("<I?")
_NOTICE: Final = struct.Struct("<Ii")
#: Bytes of a `Fork`.
FORK_BYTES: Final = _FORK.size
#: Bytes of a `Notice`.
NOTICE_BYTES: Final = _NOTICE.size


class Fork(NamedTuple):
    """What the server asks of the nursery: a slot, whose socket comes along.

    Attributes:
        slot: the slot's number, above 0.
        network: whether what runs in it may use the network.
    """

    slot: int
    network: bool

    def pack(self) -> bytes:
        """All of the message."""
        return _FORK.pack(*self)

    @staticmethod
    def unpack(body: bytes | bytearray) -> Fork:
        """What `pack` made."""
        return Fork(*_FORK.unpack(body))


class Notice(NamedTuple):
    """What the nursery tells the server: a slot ended, and nothing of what it ran is left.

    Attributes:
        slot: its number; 0 is the nursery itself, which says that it is ready.
        status: as wait(2) has it; negative: it could not be forked, with this error.
    """

    slot: int
    status: int

    def pack(self) -> bytes:
        """All of the message."""
        return _NOTICE.pack(*self)

    @staticmethod
    def unpack(body: bytes | bytearray) -> Notice:
        """What `pack` made."""
        return Notice(*_NOTICE.unpack(body))
