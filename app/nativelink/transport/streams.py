"""One HTTP/2 stream: what arrived and was not taken yet, what waits to be sent, its windows."""

from __future__ import annotations

from typing import Any

from nativelink.core.streams import Chunk
from nativelink.transport.headers import RequestHead

__all__ = ["Stream"]


class Stream:
    """A request and its answer, on the wire.

    A plain class with class-level defaults rather than slots: most streams live for one unary
    call and change only a few of these, so that making one costs four stores.

    Attributes:
        id: the client's stream identifier.
        head: its request.
        receive_window: what the peer may still send before it gets credit.
        send_window: what we may still send.
        inbox: DATA payloads that nobody took yet; their credit is given by `Connection.credit`.
            A `bytearray` among them is gathered small frames and no longer changes once taken.
        buffered: bytes in `inbox`.
        received: bytes of DATA payload so far.
        ended: the peer half-closed; nothing comes after what is in the inbox.
        reset: why the stream ended early (an HTTP/2 error code), by the peer or by us, or None.
        head_sent: response headers are out.
        finished: our END_STREAM is queued behind whatever the outbox holds.
        outbox: parts of messages that await window or room, in order.
        outbox_bytes: their size.
        trailers: the block that goes out when the outbox is empty; None ends with empty DATA.
        active_at: monotonic seconds at which it began, or the last DATA came in or went out.
        whole: the driver awaits the whole body, so it must make progress (`body_timeout_s`).
        noted: it is in the list of streams with news that is being made.
        owed: bytes credited by the driver that the peer was not told of yet.
        call: the driver's.
    """

    received = 0
    buffered = 0
    window_size = 0
    ended = False
    reset: int | None = None
    head_sent = False
    finished = False
    outbox: list[Chunk] | None = None
    outbox_bytes = 0
    trailers: tuple[bytes, bytes] | None = None
    whole = False
    noted = True
    owed = 0
    call: Any = None

    def __init__(
        self, id_: int, head: RequestHead, receive_window: int, send_window: int, now: float
    ) -> None:
        self.id = id_
        self.head = head
        self.receive_window = receive_window
        self.send_window = send_window
        self.active_at = now
        self.inbox: list[bytes | memoryview | bytearray] = []

    def __repr__(self) -> str:
        return f"<stream {self.id} {self.head!r}>"
