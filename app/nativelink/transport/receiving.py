"""What one connection receives: bodies under flow control, and the ends of streams.

Between the frames (`http2.py`) and what is sent (`flow.py`): the receive windows, the credit that
the driver gives for what was consumed, the streams that one side ended, and the allowances that a
peer lives on.
"""

from __future__ import annotations

from typing import Final

from nativelink.transport.flow import INITIAL_WINDOW, Sending
from nativelink.transport.frames import (
    END_STREAM,
    PADDED,
    ErrorCode,
    goaway_frame,
    rst_stream_frame,
    window_update_frame,
)
from nativelink.transport.limits import (
    ALLOWANCE_BURST,
    ALLOWANCE_PER_SECOND,
    DELAYED_FRAME_BYTES,
    MAX_DELAYED_CONTROL_FRAMES,
    RESETS_PER_SECOND,
    SMALL_CHUNK_BYTES,
    Allowance,
)
from nativelink.transport.settings import ServerSettings
from nativelink.transport.streams import Stream

__all__ = ["ConnectionEndedError", "Receiving"]

_GATHERED_CHUNK_BYTES: Final = 64 * 1024
_MAX_ADAPTIVE_WINDOW: Final = 16 * 1024 * 1024


class ConnectionEndedError(Exception):
    """A violation that ends the connection with `code`."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Receiving(Sending):
    """The receiving half of a connection, above its frames.

    Args:
        settings: the listener's.
        now: monotonic seconds.

    Attributes:
        error: why we ended the connection, or None.
        opened: streams opened so far.
    """

    def __init__(self, settings: ServerSettings, now: float) -> None:
        super().__init__(settings.http2_max_send_buf_size, now)
        self.settings = settings
        self.error: ConnectionEndedError | None = None
        self.opened = 0
        self._news: list[Stream] = []
        self._last_id = 0
        # Draining: the last stream that we shall serve, once that is settled.
        self._last_served: int | None = None
        self._window_size = settings.http2_initial_connection_window_size
        self._stream_window_size = settings.http2_initial_stream_window_size
        self._receive_window = max(self._window_size, INITIAL_WINDOW)
        self._owed = 0
        # Streams that we ended before the peer did: what it still sends on them is ignored.
        self._forgotten: dict[int, None] = {}
        self._allowance = Allowance(ALLOWANCE_BURST, ALLOWANCE_PER_SECOND, now)
        self._resets = Allowance(
            settings.http2_max_pending_accept_reset_streams, RESETS_PER_SECOND, now
        )
        self._earned = 0

    # -- bodies -------------------------------------------------------------------------------

    def _body(
        self, stream: Stream, chunk: bytes | memoryview, size: int, length: int, flags: int
    ) -> None:
        """Take a payload of `size` from a frame that counts `length` against the windows."""
        window = self._receive_window = self._receive_window - length
        if window < 0:
            raise ConnectionEndedError(
                ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows"
            )
        window = stream.receive_window = stream.receive_window - length
        if window < 0:
            self._give_back(length)
            self.reset(stream, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if length > size:
            self._give_back(length - size)
            self._credit_stream(stream, length - size)
        inbox = stream.inbox
        if not inbox:
            inbox.append(chunk)
            stream.buffered += size
        else:
            stream.buffered += size
            gathered = inbox[-1]
            if size >= SMALL_CHUNK_BYTES:
                inbox.append(chunk)
            elif type(gathered) is bytearray and len(gathered) < _GATHERED_CHUNK_BYTES:
                gathered += chunk
            else:
                inbox.append(bytearray(chunk))
        stream.received += size
        if flags & END_STREAM:
            if stream.head.content_length is None:
                stream.ended = True
            else:
                self._half_close(stream)
        else:
            stream.active_at = self._now
        if not stream.noted:
            stream.noted = True
            self._news.append(stream)

    def _half_close(self, stream: Stream) -> None:
        expected = stream.head.content_length
        if expected is not None and expected != stream.received:
            # RFC 9113 section 8.1.1.
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.ended = True

    def _unusual_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """DATA that is padded, empty, or for no open stream."""
        length = len(payload)
        size = length
        if flags & PADDED:
            if not length or payload[0] >= length:
                raise ConnectionEndedError(
                    ErrorCode.PROTOCOL_ERROR, "padding longer than its frame"
                )
            payload = payload[1 : length - payload[0]]
            size = len(payload)
        stream = self.streams.get(stream_id)
        if stream is None or stream.ended:
            if not stream_id or self._is_idle(stream_id):
                raise ConnectionEndedError(
                    ErrorCode.PROTOCOL_ERROR, f"DATA on the idle stream {stream_id}"
                )
            self._receive_window -= length
            if self._receive_window < 0:
                raise ConnectionEndedError(
                    ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows"
                )
            self._give_back(length)
            if stream is not None:
                self.reset(stream, ErrorCode.STREAM_CLOSED)
            elif stream_id not in self._forgotten:
                raise ConnectionEndedError(
                    ErrorCode.STREAM_CLOSED, f"DATA on the closed stream {stream_id}"
                )
            elif not size:
                self._spend(1)
            elif flags & END_STREAM:
                del self._forgotten[stream_id]
            return
        if size:
            self._body(stream, payload, size, length, flags)
            return
        if not flags & END_STREAM:
            self._spend(1)
        self._receive_window -= length
        stream.receive_window -= length
        if self._receive_window < 0 or stream.receive_window < 0:
            raise ConnectionEndedError(ErrorCode.FLOW_CONTROL_ERROR, "padding beyond a window")
        self._give_back(length)
        if flags & END_STREAM:
            self._half_close(stream)
            self._note(stream)
        else:
            self._credit_stream(stream, length)

    def credit(self, stream: Stream, size: int) -> None:
        """`size` bytes taken from the inbox were consumed: the peer may send as many more."""
        # A stream that ended has given back what it held.
        size = min(size, stream.buffered)
        stream.buffered -= size
        self._give_back(size)
        self._credit_stream(stream, size)

    def _give_back(self, size: int) -> None:
        self._owed += size
        # A peer that does not read would not learn of it; it is told when it does.
        if self._owed * 2 >= self._window_size and self.writable:
            self.out.append(window_update_frame(0, self._owed))
            self._receive_window += self._owed
            self._owed = 0

    def _credit_stream(self, stream: Stream, size: int) -> None:
        if stream.ended or stream.reset is not None:
            return
        stream.owed += size
        window = stream.window_size or self._stream_window_size
        if stream.owed * 2 >= window and self.writable:
            if (
                self.settings.http2_adaptive_window
                and not stream.buffered
                and window < _MAX_ADAPTIVE_WINDOW
            ):
                # The reader waits for the peer: the window is what slows them down.
                stream.window_size = min(window * 2, _MAX_ADAPTIVE_WINDOW)
                stream.owed += stream.window_size - window
                if stream.window_size > self._window_size:
                    self._owed += stream.window_size - self._window_size
                    self._window_size = stream.window_size
                    self._give_back(0)
            self.out.append(window_update_frame(stream.id, stream.owed))
            stream.receive_window += stream.owed
            stream.owed = 0

    def set_writable(self, writable: bool, now: float) -> None:
        super().set_writable(writable, now)
        if writable:
            self._give_back(0)
            for stream in self.streams.values():
                if stream.owed:
                    self._credit_stream(stream, 0)

    # -- limits -----------------------------------------------------------------------------

    def _spend(self, cost: float) -> None:
        # A call earns what its client may say around it, a frame sent what it may be answered.
        earned = 4 * self.opened + 2 * self._frames_sent
        if not self._allowance.spend(cost, self._now, earned - self._earned):
            raise ConnectionEndedError(
                ErrorCode.ENHANCE_YOUR_CALM, "too many frames without a purpose"
            )
        self._earned = earned

    def _spend_reset(self) -> None:
        if not self._resets.spend(1, self._now):
            raise ConnectionEndedError(ErrorCode.ENHANCE_YOUR_CALM, "too many streams reset")

    def _control(self, frame: bytes) -> None:
        """Queue an answer that the peer can ask for without limit."""
        self.out.append(frame)
        self._delayed_control += 1
        if self._delayed_control > MAX_DELAYED_CONTROL_FRAMES:
            raise ConnectionEndedError(
                ErrorCode.ENHANCE_YOUR_CALM, "too many answers that the peer does not read"
            )

    # -- streams' ends ----------------------------------------------------------------------

    def _note(self, stream: Stream) -> None:
        if not stream.noted:
            stream.noted = True
            self._news.append(stream)

    def _forget(self, stream_id: int) -> None:
        """Remember that we ended `stream_id` first."""
        self._forgotten[stream_id] = None
        if len(self._forgotten) > 4 * self.settings.http2_max_concurrent_streams + 64:
            del self._forgotten[next(iter(self._forgotten))]

    def _drop(self, stream: Stream, code: int) -> None:
        """Forget a stream that ends early, and give back what nobody will read."""
        stream.reset = code
        if self.streams.pop(stream.id, None) is None:
            return
        self.cut(stream)
        if stream.buffered:
            stream.inbox = []
            self._give_back(stream.buffered)
            stream.buffered = 0
        self._note(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream early, by our decision."""
        if stream.id not in self.streams:
            return
        if not stream.ended:
            self._forget(stream.id)
        self._control(rst_stream_frame(stream.id, code))
        self._drop(stream, code)
        if code not in {ErrorCode.CANCEL, ErrorCode.NO_ERROR}:
            self._spend_reset()

    def _close_stream(self, stream: Stream) -> None:
        """Our END_STREAM is out."""
        streams = self.streams
        if streams.pop(stream.id, None) is None:
            return
        if not stream.ended:
            # RFC 9113 section 8.1: the answer is complete, the rest of the request unneeded.
            # Clients take the answer and stop sending; grpc-go's server does the same.
            self.delayed_bytes += DELAYED_FRAME_BYTES
            self.out.append(rst_stream_frame(stream.id, ErrorCode.NO_ERROR))
            self._forget(stream.id)
            stream.reset = ErrorCode.NO_ERROR
        buffered = stream.buffered
        if buffered:
            # The inbox itself stays: who answers at once may still look into it.
            stream.buffered = 0
            owed = self._owed = self._owed + buffered
            if owed * 2 >= self._window_size:
                self._give_back(0)

    def _end(self, error: ConnectionEndedError) -> None:
        self.error = error
        # RFC 9113 section 6.8: what an earlier GOAWAY disclaimed stays so.
        last_id = self._last_id if self._last_served is None else self._last_served
        self.out.append(goaway_frame(last_id, error.code, error.reason.encode()))
        self.abandon()

    def abandon(self) -> list[Stream]:
        """The connection is lost: end every stream; those that were open."""
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            self.cut(stream)
            stream.reset = ErrorCode.CANCEL
            stream.inbox = []
            stream.buffered = 0
            self._note(stream)
        return streams

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._last_id or not stream_id & 1
