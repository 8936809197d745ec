"""TLS handshakes that fail: both sides get to know why."""

from __future__ import annotations

import logging
import ssl
from typing import Final

__all__ = ["FailedHandshakes"]

_log = logging.getLogger(__name__)

#: Seconds between two lines of the log: scanners and a fleet without certificates fail all day.
_TELL_EVERY_S: Final = 60.0

#: Who speaks plain text to us would not understand an alert, and OpenSSL makes none. The preface of
#: HTTP/2, which plain gRPC begins with, has a wrong version.
_NOT_TLS: Final = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"})


class FailedHandshakes:
    """Counts failed handshakes of a listener, by what OpenSSL says.

    Attributes:
        counts: since the start. OpenSSL has some hundred reasons at most, whatever peers send.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._told_at: float | None = None

    def watch(self, context: ssl.SSLContext) -> None:
        """Have the handshakes of a context counted, and their alerts sent."""
        failed = self._failed

        class Watched(ssl.SSLObject):
            """Keeps a failure back until the alert that says so to the peer was sent.

            Event loops drop what is to be sent when a handshake fails (RFC 8446 section 6.2 wants
            the alert to be sent first), and write it out when the handshake wants more. So it
            does, once: the peer then closes, or the loop's handshake time-out ends it.
            """

            _failure: ssl.SSLError | None = None

            def do_handshake(self) -> None:
                if self._failure is not None:
                    raise self._failure
                try:
                    super().do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
                    raise
                except ssl.SSLError as error:
                    failed(error)
                    if error.reason in _NOT_TLS:
                        raise
                    self._failure = error
                    raise ssl.SSLWantReadError from error

        context.sslobject_class = Watched

    def _failed(self, error: ssl.SSLError) -> None:
        words = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
        reason = words or (error.reason or "unknown").lower().replace("_", " ")
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def tell(self, now: float) -> None:
        """Log what failed since the last line, at most once a minute."""
        if self._told_at is not None and now - self._told_at < _TELL_EVERY_S:
            return
        news = {
            reason: count - self._told.get(reason, 0)
            for reason, count in self.counts.items()
            if count > self._told.get(reason, 0)
        }
        if news:
            self._told, self._told_at = dict(self.counts), now
            _log.warning(
                "TLS handshakes failed: %s",
                ", ".join(f"{count} x {reason}" for reason, count in news.items()),
            )
