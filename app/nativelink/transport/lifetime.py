"""A connection's time: what is overdue, keep-alive, idleness, and how it is told to go."""

from __future__ import annotations

from typing import Final

from nativelink.transport.frames import MAX_STREAM_ID, ErrorCode, goaway_frame, ping_frame
from nativelink.transport.receiving import ConnectionEndedError
from nativelink.transport.requests import Requests
from nativelink.transport.settings import ServerSettings
from nativelink.transport.streams import Stream

__all__ = ["Lifetime"]

_DRAIN_PING: Final = b"draining"
_ALIVE_PING: Final = b"alive?!?"
#: How long the first GOAWAY of a drain waits for the answer to its PING.
_DRAIN_ROUND_TRIP_S: Final = 1.0


class Lifetime(Requests):
    """A connection as time passes.

    Args:
        settings: the listener's.
        now: monotonic seconds.

    Attributes:
        dead: the peer takes nothing any more: close without waiting for `out` to be written.
    """

    def __init__(self, settings: ServerSettings, now: float) -> None:
        super().__init__(settings, now)
        self.dead = False
        # Whether the peer's preface and SETTINGS have come.
        self._settled = False
        self._started_at = now
        self._received_at = now
        self._idle_since = now
        self._opened_before = 0
        self._ping_sent_at: float | None = None
        self._draining_since: float | None = None

    @property
    def draining(self) -> bool:
        """Whether the peer was told to open no more streams."""
        return self._draining_since is not None

    @property
    def done(self) -> bool:
        """Whether the connection is to be closed once `out` is written."""
        return self.error is not None or (self._last_served is not None and not self.streams)

    def tick(self, now: float) -> list[Stream]:
        """Let time pass: what is overdue ends; the streams that this ended.

        Call it about once a second. Afterwards `out`, `done` and `dead` are to be looked at.
        """
        news = self._news = []
        if self.error is not None:
            return news
        self._now = now
        try:
            self._tick_connection(now)
            if self.streams:
                self._tick_streams(now)
        except ConnectionEndedError as error:
            self._end(error)
        for stream in news:
            stream.noted = False
        return news

    def _tick_connection(self, now: float) -> None:
        settings = self.settings
        if settings.header_timeout_s:
            if not self._settled and now - self._started_at > settings.header_timeout_s:
                raise ConnectionEndedError(
                    ErrorCode.SETTINGS_TIMEOUT, "no preface and SETTINGS in time"
                )
            if self._block is not None and now - self._block_at > settings.header_timeout_s:
                raise ConnectionEndedError(
                    ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end"
                )
        if (
            settings.send_timeout_s
            and not self.writable
            and now - self._paused_at > settings.send_timeout_s
        ):
            self.dead = True
            raise ConnectionEndedError(ErrorCode.ENHANCE_YOUR_CALM, "the peer does not read")
        interval = settings.http2_keep_alive_interval_s
        if interval:
            if self._ping_sent_at is not None:
                if now - self._ping_sent_at > settings.http2_keep_alive_timeout_s:
                    self.dead = True
                    raise ConnectionEndedError(ErrorCode.NO_ERROR, "no answer to PING")
            elif now - self._received_at > interval:
                self._ping_sent_at = now
                self.out.append(ping_frame(_ALIVE_PING))
        if self._draining_since is not None:
            if self._last_served is None and now - self._draining_since > _DRAIN_ROUND_TRIP_S:
                self._settle_drain()
        elif self.streams or self.opened != self._opened_before:
            self._opened_before = self.opened
            self._idle_since = now
        elif settings.idle_timeout_s and now - self._idle_since > settings.idle_timeout_s:
            self.drain(now)

    def _tick_streams(self, now: float) -> None:
        settings = self.settings
        for stream in list(self.streams.values()):
            quiet = now - stream.active_at
            if stream.outbox is not None:
                if stream.send_window > 0:
                    # It waits for its turn, which comes while anybody's does.
                    quiet = min(quiet, now - self._moved_at)
                if settings.send_timeout_s and quiet > settings.send_timeout_s:
                    self.reset(stream, ErrorCode.CANCEL)
            elif (
                stream.whole
                and not stream.ended
                and settings.body_timeout_s
                and quiet > settings.body_timeout_s
            ):
                self.reset(stream, ErrorCode.CANCEL)

    def drain(self, now: float) -> None:
        """Tell the peer to open no more streams; those under way, or on their way, are served.

        RFC 9113 section 6.8: a first GOAWAY that refuses nothing, and after a round trip the one
        that says which stream was the last.
        """
        if self._draining_since is not None or self.error is not None:
            return
        self._draining_since = now
        self.out += (goaway_frame(MAX_STREAM_ID, ErrorCode.NO_ERROR), ping_frame(_DRAIN_PING))
        if not self._settled:
            self._settle_drain()

    def _settle_drain(self) -> None:
        if self._last_served is None:
            self._last_served = self._last_id
            self.out.append(goaway_frame(self._last_id, ErrorCode.NO_ERROR))

    def _pinged_back(self, payload: bytes) -> None:
        """The answer to a PING."""
        if payload == _DRAIN_PING and self._draining_since is not None:
            self._settle_drain()
        elif payload == _ALIVE_PING:
            self._ping_sent_at = None
