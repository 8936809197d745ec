"""The server side of one HTTP/2 connection, without I/O (RFC 9113).

`receive` takes what the socket gave and returns the streams that have news: a request that began,
body that arrived, an end, a reset. Their state is read from the `Stream`. What is to be written
gathers in `out`, in order; the driver writes it all at once when it has looked at the news.

Flow control is the only backpressure. A peer gets credit for a byte when the driver says that it
was consumed (`credit`). What we send waits in the stream's outbox while a window is closed, while
the socket is (`writable`), or while `out` already holds `http2_max_send_buf_size`; then `send_data`
returns False and the stream is in the news again when its outbox has drained.

A violation ends this connection (GOAWAY with the code of RFC 9113) or this stream (RST_STREAM),
never more. The limits stand in `limits.py` and `settings.py`.
"""

from __future__ import annotations

from typing import Final

from nativelink.transport.flow import INITIAL_MAX_FRAME, INITIAL_WINDOW
from nativelink.transport.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_LENGTH,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FIELDS,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    ping_frame,
    rst_stream_frame,
    settings_ack_frame,
    settings_frame,
    split_header,
    window_update_frame,
)
from nativelink.transport.lifetime import Lifetime
from nativelink.transport.limits import MAX_SETTINGS_PER_FRAME
from nativelink.transport.receiving import ConnectionEndedError
from nativelink.transport.settings import ServerSettings
from nativelink.transport.streams import Stream

__all__ = ["ConnectionEndedError", "Http2Connection"]

#: Copying a payload up to this size costs no more than a memoryview of it.
_COPY_BYTES: Final = 2048
#: A slice keeps the whole read alive; a frame smaller than this share of it is copied out.
_SLICE_SHIFT: Final = 4


class Http2Connection(Lifetime):
    """One connection, from its preface to its end.

    Args:
        settings: the listener's.
        now: monotonic seconds; every time here is on that clock.
    """

    def __init__(self, settings: ServerSettings, now: float) -> None:
        super().__init__(settings, now)
        # Where the parser stands.
        self._preface_left = PREFACE
        self._tail = bytearray()
        self._greet()

    def _greet(self) -> None:
        """Our SETTINGS, and the connection's window (RFC 9113 section 3.4)."""
        settings = self.settings
        values = {
            Setting.MAX_CONCURRENT_STREAMS: settings.http2_max_concurrent_streams,
            Setting.INITIAL_WINDOW_SIZE: settings.http2_initial_stream_window_size,
            Setting.MAX_FRAME_SIZE: settings.http2_max_frame_size,
            Setting.MAX_HEADER_LIST_SIZE: settings.http2_max_header_list_size,
        }
        if settings.http2_enable_connect_protocol:
            values[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        self.out.append(settings_frame(values))
        if self._window_size > INITIAL_WINDOW:
            self.out.append(window_update_frame(0, self._window_size - INITIAL_WINDOW))

    # -- receiving --------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Stream]:
        """Take bytes from the peer; the streams that have news, each once.

        Nothing is raised: a violation is answered in `out` and stands in `error`, and the streams
        that it ends are in the news with their `reset` set.
        """
        news = self._news = []
        if self.error is not None:
            return news
        self._now = self._received_at = now
        try:
            start = 0 if self._settled else self._begin(data)
            if self._tail and start < len(data):
                start = self._complete_frame(data, start)
            if start < len(data):
                start = self._frames(data, start)
                if start < len(data):
                    self._tail += memoryview(data)[start:]
        except ConnectionEndedError as error:
            self._end(error)
        for stream in news:
            stream.noted = False
        return news

    def _begin(self, data: bytes) -> int:
        """Match the preface; how much of `data` belongs to it."""
        left = self._preface_left
        count = min(len(left), len(data))
        if data[:count] != left[:count]:
            raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 connection preface")
        self._preface_left = left[count:]
        # The next frame must be SETTINGS: `_other_frame` and the two fast paths cannot be reached
        # by another kind before that, see `_frames`.
        return count

    def _complete_frame(self, data: bytes, start: int) -> int:
        """Complete the frame that earlier reads left incomplete; where the next one starts."""
        tail = self._tail
        wanted = HEADER_LENGTH
        while True:
            if len(tail) >= HEADER_LENGTH:
                wanted = HEADER_LENGTH + int.from_bytes(tail[:3], "big")
                if wanted > HEADER_LENGTH + self._max_frame:
                    break
            missing = wanted - len(tail)
            if missing > 0:
                tail += memoryview(data)[start : start + missing]
                start = min(start + missing, len(data))
                if len(tail) < wanted:
                    return start
            elif len(tail) == wanted:
                break
        frame = bytes(tail)
        tail.clear()
        self._frames(frame, 0)
        return start

    def _frames(self, data: bytes, index: int) -> int:
        """Handle the whole frames of `data` from `index` on; where the first partial one starts."""
        end = len(data)
        last = end - HEADER_LENGTH
        max_frame = self._max_frame
        streams = self.streams
        cache = self._headers.cache
        view: memoryview | None = None
        while index <= last:
            high, low, kind, flags, stream_id = split_header(data, index)
            length = (high << 8) | low
            if length > max_frame:
                raise ConnectionEndedError(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"a frame of {length} octets; {max_frame} are allowed",
                )
            start = index + HEADER_LENGTH
            stop = start + length
            if stop > end:
                break
            index = stop
            if self._block is not None or not self._settled:
                self._only_expected(kind, flags, stream_id & MAX_STREAM_ID)
            if kind == DATA:
                stream = streams.get(stream_id)
                if stream is None or stream.ended or flags & PADDED or not length:
                    self._unusual_data(flags, stream_id & MAX_STREAM_ID, data[start:stop])
                elif (
                    flags & END_STREAM
                    and length < _COPY_BYTES
                    and not stream.inbox
                    and stream.head.content_length is None
                    and length <= stream.receive_window
                    and length <= self._receive_window
                ):
                    # A whole unary request; what `_body` would do, without its questions.
                    self._receive_window -= length
                    stream.inbox.append(data[start:stop])
                    stream.buffered += length
                    stream.ended = True
                    if not stream.noted:
                        stream.noted = True
                        self._news.append(stream)
                elif length < _COPY_BYTES or length << _SLICE_SHIFT < end:
                    self._body(stream, data[start:stop], length, length, flags)
                else:
                    if view is None:
                        view = memoryview(data)
                    self._body(stream, view[start:stop], length, length, flags)
            elif kind == HEADERS:
                if (
                    flags & (PADDED | PRIORITY_FIELDS | END_HEADERS) == END_HEADERS
                    and self._last_id < stream_id <= MAX_STREAM_ID
                    and (head := cache.get(data[start:stop])) is not None
                ):
                    self._open(stream_id, head, flags)
                else:
                    self._begin_block(flags, stream_id & MAX_STREAM_ID, data[start:stop])
            else:
                self._other_frame(kind, flags, stream_id & MAX_STREAM_ID, data[start:stop])
        return index

    def _only_expected(self, kind: int, flags: int, stream_id: int) -> None:
        """Between the frames of a block, and first of all, only one kind may come."""
        if not self._settled:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionEndedError(
                    ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS"
                )
            self._settled = True
        elif kind != CONTINUATION or stream_id != self._block_id:
            raise ConnectionEndedError(
                ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame"
            )

    # -- other frames -----------------------------------------------------------------------

    def _other_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == SETTINGS:
            self._peer_settings(flags, stream_id, payload)
        elif kind == PING:
            self._ping(flags, stream_id, payload)
        elif kind == RST_STREAM:
            self._peer_reset(stream_id, payload)
        elif kind == CONTINUATION:
            self._continuation(flags, payload)
        elif kind == PRIORITY:
            self._priority(stream_id, payload)
        elif kind == GOAWAY:
            if stream_id:
                raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
            if len(payload) < 8:
                raise ConnectionEndedError(ErrorCode.FRAME_SIZE_ERROR, "a short GOAWAY")
            # The client opens no more streams; it closes when its last one has ended.
            self._spend(1)
        elif kind == PUSH_PROMISE:
            raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "a client pushes nothing")
        else:
            # RFC 9113 section 4.1: unknown types are ignored.
            self._spend(1)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionEndedError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is 4 octets")
        self._spend(1)
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if not stream_id:
            if not increment:
                raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise ConnectionEndedError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                if self._is_idle(stream_id):
                    raise ConnectionEndedError(
                        ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on the idle stream {stream_id}"
                    )
                return
            if not increment:
                self.reset(stream, ErrorCode.PROTOCOL_ERROR)
                return
            stream.send_window += increment
            if stream.send_window > MAX_WINDOW:
                self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR)
                return
        if self._blocked:
            self.pump()

    def _peer_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionEndedError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with values")
            self._spend(1)
            return
        count, rest = divmod(len(payload), 6)
        if rest:
            raise ConnectionEndedError(
                ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of no multiple of 6 octets"
            )
        if count > MAX_SETTINGS_PER_FRAME:
            raise ConnectionEndedError(
                ErrorCode.ENHANCE_YOUR_CALM, f"{count} settings in one frame"
            )
        # A new window size touches every stream, so this is the dearest of the small frames.
        self._spend(2 + len(self.streams) // 32)
        window: int | None = None
        for index in range(0, len(payload), 6):
            key = int.from_bytes(payload[index : index + 2], "big")
            value = int.from_bytes(payload[index + 2 : index + 6], "big")
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionEndedError(
                        ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}"
                    )
                window = value
            elif key == Setting.MAX_FRAME_SIZE:
                if not INITIAL_MAX_FRAME <= value < 2**24:
                    raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
                self._peer_max_frame = value
            elif key == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        self._control(settings_ack_frame())
        if window is not None:
            self._resize_send_windows(window)

    def _resize_send_windows(self, size: int) -> None:
        """RFC 9113 section 6.9.2; a window may become negative."""
        delta = size - self._peer_window_size
        self._peer_window_size = size
        for stream in self.streams.values():
            stream.send_window += delta
            if stream.send_window > MAX_WINDOW:
                raise ConnectionEndedError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        if self._blocked:
            self.pump()

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionEndedError(ErrorCode.FRAME_SIZE_ERROR, "PING is 8 octets")
        self._spend(1)
        if not flags & ACK:
            self._control(ping_frame(payload, ack=True))
        else:
            self._pinged_back(payload)

    def _peer_reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionEndedError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is 4 octets")
        if self._is_idle(stream_id):
            raise ConnectionEndedError(
                ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on the idle stream {stream_id}"
            )
        stream = self.streams.get(stream_id)
        if stream is None:
            self._forgotten.pop(stream_id, None)
            self._spend(1)
            return
        self._spend_reset()
        self._drop(stream, int.from_bytes(payload, "big"))

    def _priority(self, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionEndedError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on the connection")
        self._spend(1)
        stream = self.streams.get(stream_id)
        code = ErrorCode.FRAME_SIZE_ERROR
        if len(payload) == 5:
            if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID != stream_id:
                return
            code = ErrorCode.PROTOCOL_ERROR
        if stream is not None:
            self.reset(stream, code)
        else:
            # RFC 9113 section 5.3.2 keeps PRIORITY's own errors stream errors, on idle ones too.
            self._spend_reset()
            self._control(rst_stream_frame(stream_id, code))
