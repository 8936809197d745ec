"""What one connection sends: answers cut into frames, held back by windows and by the socket.

Three things hold DATA back: the stream's window, the connection's window, and room in `out`
(`http2_max_send_buf_size`, none while the socket is full). What they hold back stays in the
stream's outbox and goes on, in the order in which the streams were blocked, as soon as they let it.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from nativelink.core.streams import Chunk
from nativelink.transport.fields import Field, encode_fields
from nativelink.transport.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    data_header,
    pack_header,
)
from nativelink.transport.limits import DELAYED_FRAME_BYTES
from nativelink.transport.streams import Stream

__all__ = ["INITIAL_MAX_FRAME", "INITIAL_WINDOW", "HeaderBlock", "Sending", "header_block"]

#: A block ready to be sent: its frame header without the stream, and the block.
HeaderBlock: TypeAlias = tuple[bytes, bytes]

#: RFC 9113 section 6.5.2: what a peer grants before its SETTINGS say otherwise.
INITIAL_WINDOW: Final = 65_535
INITIAL_MAX_FRAME: Final = 16_384

#: What a stream sends before the next one that waits has its turn; less would cost more. If each
#: sent its whole outbox, a small answer behind a hundred reads would wait for 100 MiB.
_TURN_BYTES: Final = 128 * 1024


def header_block(fields: Iterable[Field], *, end_stream: bool = False) -> HeaderBlock:
    """A header block to be sent any number of times, on any connection.

    Raises:
        ValueError: it does not fit into one frame of the size that every peer takes.
    """
    block = encode_fields(fields)
    if len(block) > INITIAL_MAX_FRAME:
        raise ValueError(f"a header block of {len(block)} octets does not fit into one frame")
    flags = END_HEADERS | (END_STREAM if end_stream else 0)
    return len(block).to_bytes(3, "big") + bytes((HEADERS, flags)), block


class Sending(ABC):
    """The sending half of a connection.

    Args:
        send_buffer: bytes of DATA that may wait in `out`.
        now: monotonic seconds.

    Attributes:
        out: bytes to write, in order; `take_output` empties it.
        out_bytes: those of them that are DATA.
        streams: open streams by id, in order of arrival.
        writable: whether the socket takes more; `set_writable` changes it.
        parked_bytes: bytes in the outboxes of answers that are complete.
        delayed_bytes: what the header blocks and resets cost that the socket did not take at once.
        drained: streams whose outbox became empty since the driver looked last.
    """

    def __init__(self, send_buffer: int, now: float) -> None:
        self.out: list[Chunk] = []
        self.out_bytes = 0
        self.streams: dict[int, Stream] = {}
        self.writable = True
        self.parked_bytes = 0
        self.delayed_bytes = 0
        self.drained: list[Stream] = []
        self._now = now
        self._send_buffer = send_buffer
        self._peer_max_frame = INITIAL_MAX_FRAME
        self._send_window = INITIAL_WINDOW
        self._blocked: dict[int, Stream] = {}
        self._delayed_control = 0
        self._paused_at = now
        # When any stream last sent DATA; answers that fit into one frame do not count.
        self._moved_at = now
        # DATA frames sent, each of which a peer may answer with a WINDOW_UPDATE and a PING.
        self._frames_sent = 0

    def take_output(self) -> list[Chunk]:
        """What is to be written now. Call `pump` when it is written."""
        out, self.out = self.out, []
        self.out_bytes = 0
        if self.writable:
            self._delayed_control = self.delayed_bytes = 0
        return out

    def set_writable(self, writable: bool, now: float) -> None:
        """The socket's buffer filled up, or has room again."""
        self.writable = writable
        self._now = now
        if writable:
            self._delayed_control = self.delayed_bytes = 0
            self.pump()
        else:
            self._paused_at = now

    def pump(self) -> None:
        """Send on from the outboxes in turns, as far as windows and room allow."""
        waiting = list(self._blocked.values()) if self._blocked else []
        while waiting:
            most = _TURN_BYTES if len(waiting) > 1 else sys.maxsize
            again: list[Stream] = []
            for stream in waiting:
                if (
                    not self.writable
                    or self.out_bytes >= self._send_buffer
                    or self._send_window <= 0
                ):
                    return
                if self._send_outbox(stream, most):
                    again.append(stream)
            waiting = again

    def respond(
        self,
        stream: Stream,
        head: HeaderBlock,
        prefix: bytes,
        message: Chunk,
        trailers: HeaderBlock,
    ) -> None:
        """A whole answer: headers, one message behind its prefix, trailers.

        If it cannot be sent at once, the stream stays open until it is.
        """
        size = len(prefix) + len(message)
        if (
            size <= self._send_window
            and size <= stream.send_window
            and size <= self._peer_max_frame
            and self.writable
            and self.out_bytes < self._send_buffer
        ):
            id_ = stream.id
            id_bytes = id_.to_bytes(4, "big")
            self._send_window -= size
            self.out_bytes += size
            self.out += (
                head[0],
                id_bytes,
                head[1],
                pack_header(size >> 8, size & 255, DATA, 0, id_),
                prefix,
                message,
                trailers[0],
                id_bytes,
                trailers[1],
            )
            self._close_stream(stream)
            return
        self.send_head(stream, head)
        self.send_data(stream, (prefix, message), size)
        self.finish(stream, trailers)

    def send_head(self, stream: Stream, block: HeaderBlock) -> None:
        """Response headers."""
        stream.head_sent = True
        self._send_block(stream, block)

    def send_only(self, stream: Stream, block: HeaderBlock) -> None:
        """Headers that end the stream (`header_block(..., end_stream=True)`)."""
        self._send_block(stream, block)
        self._close_stream(stream)

    def send_data(self, stream: Stream, parts: Sequence[Chunk], size: int) -> bool:
        """Body of `size` bytes; False if some of it had to wait in the outbox.

        After False the stream comes up in `drained`, or it is reset.
        """
        if stream.outbox is not None:
            stream.outbox += parts
            stream.outbox_bytes += size
            return False
        sent = self._emit(stream, parts, size)
        if sent == size:
            return True
        stream.outbox = _rest(parts, sent)
        stream.outbox_bytes = size - sent
        # The time-out of a peer that takes nothing counts from here, not from the last body byte.
        stream.active_at = self._now
        self._blocked[stream.id] = stream
        return False

    def finish(self, stream: Stream, trailers: HeaderBlock | None) -> None:
        """End the answer behind whatever waits: with trailers, or without."""
        stream.finished = True
        stream.trailers = trailers
        if stream.outbox is None:
            self._send_end(stream)
        else:
            self.parked_bytes += stream.outbox_bytes

    def cut(self, stream: Stream) -> None:
        """Drop what waits in the outbox: the answer ends without it."""
        if stream.finished:
            self.parked_bytes -= stream.outbox_bytes
        stream.outbox = None
        stream.outbox_bytes = 0
        self._blocked.pop(stream.id, None)

    def _send_end(self, stream: Stream) -> None:
        if stream.trailers is None:
            self.out.append(data_header(0, END_STREAM, stream.id))
        else:
            self._send_block(stream, stream.trailers)
        self._close_stream(stream)

    def _send_block(self, stream: Stream, block: HeaderBlock) -> None:
        self.delayed_bytes += DELAYED_FRAME_BYTES + len(block[1])
        self.out += (block[0], stream.id.to_bytes(4, "big"), block[1])

    def _send_outbox(self, stream: Stream, most: int) -> bool:
        """Send up to `most` bytes of what waits; whether some was sent, and more is there."""
        parts = stream.outbox
        if parts is None:
            return False
        sent = self._emit(stream, parts, stream.outbox_bytes, most)
        if stream.finished:
            self.parked_bytes -= sent
        if sent == stream.outbox_bytes:
            stream.outbox = None
            stream.outbox_bytes = 0
            del self._blocked[stream.id]
            if stream.finished:
                self._send_end(stream)
            else:
                self.drained.append(stream)
        elif sent:
            stream.outbox = _rest(parts, sent)
            stream.outbox_bytes -= sent
            # Behind those that wait for the same windows and the same room.
            del self._blocked[stream.id]
            self._blocked[stream.id] = stream
            return True
        return False

    def _emit(
        self, stream: Stream, parts: Sequence[Chunk], size: int, most: int = sys.maxsize
    ) -> int:
        """Queue frames of as much of `parts` as may go now, up to `most`; how many bytes it is."""
        # Comparisons rather than `min`, here and below: this runs for every frame that we send.
        allowed = self._send_buffer - self.out_bytes if self.writable else 0
        if allowed > size:
            allowed = size
        if allowed > most:
            allowed = most
        if allowed > self._send_window:
            allowed = self._send_window
        if allowed > stream.send_window:
            allowed = stream.send_window
        if allowed <= 0:
            return 0
        self._send_window -= allowed
        stream.send_window -= allowed
        self.out_bytes += allowed
        stream.active_at = self._moved_at = self._now
        out = self.out
        id_ = stream.id
        max_frame = self._peer_max_frame
        if allowed == size <= max_frame:
            out.append(data_header(size, 0, id_))
            out += parts
            self._frames_sent += 1
            return size
        full = data_header(max_frame, 0, id_)
        # `missing` is what the frame under way still lacks, `left` what the frames to come carry.
        missing, left = 0, allowed
        for part in parts:
            length = len(part)
            offset = 0
            view: memoryview | None = None
            while offset < length:
                if not missing:
                    if not left:
                        return allowed
                    count = length - offset
                    if count > left:
                        count = left
                    count //= max_frame
                    if count:
                        # Whole frames out of one part: the bulk of every large answer.
                        if view is None:
                            view = memoryview(part)
                        stop = offset + count * max_frame
                        for start in range(offset, stop, max_frame):
                            out.append(full)
                            out.append(view[start : start + max_frame])
                        self._frames_sent += count
                        left -= stop - offset
                        offset = stop
                        continue
                    missing = max_frame
                    if missing > left:
                        missing = left
                    left -= missing
                    out.append(pack_header(missing >> 8, missing & 255, DATA, 0, id_))
                    self._frames_sent += 1
                count = length - offset
                if count > missing:
                    count = missing
                if count == length:
                    out.append(part)
                else:
                    if view is None:
                        view = memoryview(part)
                    out.append(view[offset : offset + count])
                offset += count
                missing -= count
        return allowed

    @abstractmethod
    def _close_stream(self, stream: Stream) -> None:
        """Our END_STREAM is queued."""


def _rest(parts: Sequence[Chunk], sent: int) -> list[Chunk]:
    """`parts` without their first `sent` bytes, which are not all of them."""
    at = 0
    while sent >= len(parts[at]):
        sent -= len(parts[at])
        at += 1
    rest = list(parts[at:])
    if sent:
        rest[0] = memoryview(rest[0])[sent:]
    return rest
