"""What a peer may cost us: each limit with the attack that it ends and its precedent.

A limit that is passed ends that one connection with GOAWAY ENHANCE_YOUR_CALM (RFC 9113
section 10.5) unless said otherwise. The sizes and times that an operator may want to change are
in `settings.ServerSettings`; here stand the others.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALLOWANCE_BURST",
    "ALLOWANCE_PER_SECOND",
    "DELAYED_FRAME_BYTES",
    "MAX_DELAYED_BYTES",
    "MAX_DELAYED_CONTROL_FRAMES",
    "MAX_HELD_REQUEST_MESSAGES",
    "MAX_PARKED_BYTES",
    "MAX_SETTINGS_PER_FRAME",
    "RESETS_PER_SECOND",
    "SMALL_CHUNK_BYTES",
    "Allowance",
    "max_continuations",
]

#: Frames that cost the peer nothing and do nothing for it: PING, SETTINGS, PRIORITY, WINDOW_UPDATE,
#: empty DATA, frames for streams that are gone, unknown types (CVE-2019-9511 to 9518). nghttp2
#: and HAProxy count such "glitches" with a burst of 1,000 and 33 a second; BDP pings and window
#: updates of an honest gRPC client come with traffic and are paid for by it, see `Allowance`.
ALLOWANCE_BURST: Final = 1000
ALLOWANCE_PER_SECOND: Final = 100

#: Regained resets (CVE-2023-44487 "rapid reset" and CVE-2025-8671 "made you reset", which count
#: alike here): nghttp2's 33 a second. The burst is `http2_max_pending_accept_reset_streams`.
RESETS_PER_SECOND: Final = 33

#: Entries of one SETTINGS frame; nghttp2 takes 32 (CVE-2020-11080).
MAX_SETTINGS_PER_FRAME: Final = 32

#: Answers to PING and SETTINGS, and resets that the peer provoked, that wait because it does not
#: read; Go's net/http2 has `maxQueuedControlFrames` 10,000 (CVE-2019-9512, CVE-2019-9515).
MAX_DELAYED_CONTROL_FRAMES: Final = 10_000

#: Bytes of header blocks and of the resets behind early answers that wait because the peer does
#: not read; beyond it a connection starts no new calls, as each may cost a refusal of kilobytes.
#: 1 MiB is a thousand calls' errors.
MAX_DELAYED_BYTES: Final = 1024 * 1024

#: What a frame that waits alone costs beside its octets: an object, a view, a place in a queue.
DELAYED_FRAME_BYTES: Final = 128

#: Bytes of incomplete requests per connection, in messages of the longest size allowed. A
#: connection can hold `max_concurrent_streams` of them, which nobody needs at once.
MAX_HELD_REQUEST_MESSAGES: Final = 64

#: Bytes of complete answers that wait in outboxes; beyond it a connection starts no new calls. One
#: read can ask for thousands of answers of megabytes, and a peer can open no window for any.
MAX_PARKED_BYTES: Final = 16 * 1024 * 1024

#: Chunks below this are gathered while they wait to be read, so that a window full of one-byte
#: DATA frames is held as bytes and not as objects (CVE-2019-9518's cousin).
SMALL_CHUNK_BYTES: Final = 512


def max_continuations(max_header_list_bytes: int, max_frame_bytes: int) -> int:
    """CONTINUATION frames of one block (CVE-2024-27316, CVE-2024-28182).

    What an honest encoder needs for the largest list, a quarter more, and at least 5: the
    formula of the Rust crate h2.
    """
    return max(5, max_header_list_bytes * 5 // (max_frame_bytes * 4))


class Allowance:
    """A leaky bucket whose time, and what the peer earned by honest work, come in as arguments.

    Args:
        burst: what may be spent at once.
        per_second: what comes back with time.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._at = now

    def spend(self, cost: float, now: float, earned: float = 0) -> bool:
        """Take `cost`; False when it is not there."""
        left = self._left + (now - self._at) * self._per_second + earned
        self._at = now
        self._left = min(self._burst, left) - cost
        return self._left >= 0
