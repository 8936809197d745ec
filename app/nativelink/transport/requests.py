"""How requests begin: header blocks, in one frame or in many, become streams."""

from __future__ import annotations

from typing import Final

from nativelink.transport.fields import FieldBombError, FieldDecodingError
from nativelink.transport.flow import INITIAL_WINDOW
from nativelink.transport.frames import (
    END_HEADERS,
    END_STREAM,
    MAX_STREAM_ID,
    PADDED,
    PRIORITY_FIELDS,
    ErrorCode,
    rst_stream_frame,
)
from nativelink.transport.headers import HeaderReader, MalformedRequestError, RequestHead
from nativelink.transport.limits import max_continuations
from nativelink.transport.receiving import ConnectionEndedError, Receiving
from nativelink.transport.settings import ServerSettings
from nativelink.transport.streams import Stream

__all__ = ["Requests"]

#: A note beside the eight flags of a HEADERS frame.
_SELF_DEPENDENT: Final = 0x100


class Requests(Receiving):
    """A connection's header blocks and the streams that they open.

    Args:
        settings: the listener's.
        now: monotonic seconds.

    Attributes:
        refused: streams turned away because too many were open.
    """

    def __init__(self, settings: ServerSettings, now: float) -> None:
        super().__init__(settings, now)
        self.refused = 0
        self._headers = HeaderReader(
            settings.http2_max_header_list_size,
            connect_protocol=settings.http2_enable_connect_protocol,
        )
        self._max_frame = settings.http2_max_frame_size
        # What the peer grants to new streams.
        self._peer_window_size = INITIAL_WINDOW
        # The block under way, if it takes more than one frame.
        self._block: bytearray | None = None
        self._block_id = 0
        self._block_flags = 0
        self._block_frames = 0
        self._block_at = now
        self._max_continuations = max_continuations(
            settings.http2_max_header_list_size, settings.http2_max_frame_size
        )

    def _open(self, stream_id: int, head: RequestHead, flags: int) -> None:
        """A request begins; its block is decoded."""
        if not stream_id & 1:
            raise ConnectionEndedError(
                ErrorCode.PROTOCOL_ERROR, f"a client opens no stream {stream_id}"
            )
        self._last_id = stream_id
        streams = self.streams
        if len(streams) >= self.settings.http2_max_concurrent_streams:
            self.refused += 1
            self._spend(1)
            self._forget(stream_id)
            self._control(rst_stream_frame(stream_id, ErrorCode.REFUSED_STREAM))
            return
        if self._last_served is not None:
            # RFC 9113 section 6.8: it raced with our GOAWAY, the client sends it elsewhere.
            self._forget(stream_id)
            return
        self.opened += 1
        stream = Stream(
            stream_id, head, self._stream_window_size, self._peer_window_size, self._now
        )
        streams[stream_id] = stream
        self._news.append(stream)
        if flags & END_STREAM:
            self._half_close(stream)

    def _begin_block(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A HEADERS frame that the cache does not answer."""
        if not stream_id & 1:
            raise ConnectionEndedError(
                ErrorCode.PROTOCOL_ERROR, f"a client opens no stream {stream_id}"
            )
        start, end = 0, len(payload)
        if flags & PADDED:
            if not payload or payload[0] >= end:
                raise ConnectionEndedError(
                    ErrorCode.PROTOCOL_ERROR, "padding longer than its frame"
                )
            start, end = 1, end - payload[0]
        depends_on = 0
        if flags & PRIORITY_FIELDS:
            if end - start < 5:
                raise ConnectionEndedError(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority fields"
                )
            depends_on = int.from_bytes(payload[start : start + 4], "big") & MAX_STREAM_ID
            start += 5
        block = payload[start:end]
        if depends_on == stream_id:
            # Malformed, but its block must be decoded all the same.
            flags |= _SELF_DEPENDENT
        if flags & END_HEADERS:
            self._complete_block(flags, stream_id, block)
            return
        self._block = bytearray(block)
        self._block_id = stream_id
        self._block_flags = flags
        self._block_frames = 0
        self._block_at = self._now
        self._check_block_size()

    def _continuation(self, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionEndedError(
                ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block"
            )
        block += payload
        self._block_frames += 1
        self._check_block_size()
        if flags & END_HEADERS:
            self._block = None
            self._complete_block(self._block_flags, self._block_id, bytes(block))

    def _check_block_size(self) -> None:
        # An encoder that takes the shorter form of each text never needs more octets than the
        # list counts, 32 a field included; so a longer block is over the limit.
        size = len(self._block or b"")
        if (
            size > self.settings.http2_max_header_list_size + self._max_frame
            or self._block_frames > self._max_continuations
        ):
            raise ConnectionEndedError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a header block of {size} octets in {self._block_frames + 1} frames",
            )

    def _complete_block(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            stream = self.streams.get(stream_id)
            if stream is not None:
                self._trailers(flags, stream, block)
            elif not self._is_idle(stream_id):
                self._headers.skip(block)
                if stream_id not in self._forgotten:
                    raise ConnectionEndedError(
                        ErrorCode.STREAM_CLOSED, f"HEADERS on the closed stream {stream_id}"
                    )
                self._spend(1)
            else:
                self._new_request(flags, stream_id, block)
        except FieldDecodingError as error:
            raise ConnectionEndedError(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except FieldBombError as error:
            raise ConnectionEndedError(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from None

    def _new_request(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            head = self._headers.request(block)
            if flags & _SELF_DEPENDENT:
                raise MalformedRequestError("a stream that depends on itself")
        except MalformedRequestError:
            self._last_id = stream_id
            self._spend_reset()
            self._forget(stream_id)
            self._control(rst_stream_frame(stream_id, ErrorCode.PROTOCOL_ERROR))
            return
        self._open(stream_id, head, flags)

    def _trailers(self, flags: int, stream: Stream, block: bytes) -> None:
        try:
            self._headers.trailers(block)
            malformed = not flags & END_STREAM
        except MalformedRequestError:
            malformed = True
        if stream.ended:
            raise ConnectionEndedError(
                ErrorCode.STREAM_CLOSED, f"HEADERS on the half-closed stream {stream.id}"
            )
        if malformed:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
            return
        self._half_close(stream)
        self._note(stream)
