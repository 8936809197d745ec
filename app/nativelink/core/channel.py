"""Outgoing calls, as those who make them see them; `transport.channel` implements it.

As in `core.rpc`, bodies are bytes at this border.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Protocol, TypeAlias

from nativelink.core.streams import Chunk

__all__ = ["Channel", "Duplex", "Metadata"]

#: Request headers, names lower case; values of `-bin` names are raw bytes.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class Duplex(Protocol):
    """A call that streams both ways."""

    async def read(self) -> bytes | None:
        """The next message, or None when the peer ended the call with OK.

        Raises:
            NativeLinkError: the status that the peer ended it with; UNAVAILABLE if it broke.
        """
        ...

    async def write(self, message: bytes, /) -> None:
        """Send a message; waits while the peer takes none.

        Raises:
            NativeLinkError: the call has ended.
        """
        ...

    async def done_writing(self) -> None:
        """No more messages will come from this side."""
        ...

    def cancel(self) -> None:
        """End the call. May be called twice, and after its end."""
        ...


class Channel(Protocol):
    """Connections to one service somewhere else; it connects when it is first needed.

    Every method raises `NativeLinkError` with the peer's code, message and MISSING details;
    UNAVAILABLE if it cannot be reached; DEADLINE_EXCEEDED after `timeout_s`.
    Cancelling the caller cancels the call.
    """

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> bytes:
        """One message there, one back. `path` is `/package.Service/Method`."""
        ...

    def server_stream(
        self,
        path: str,
        request: bytes,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """One message there, many back. Closing the iterator (`aclose`) cancels the call."""
        ...

    async def client_stream(
        self,
        path: str,
        requests: AsyncIterator[Chunk] | Iterable[Chunk],
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> bytes:
        """Many messages there, one back; the peer may answer before it has seen all of them."""
        ...

    def duplex(
        self, path: str, *, metadata: Metadata = (), timeout_s: float | None = None
    ) -> Duplex:
        """Messages both ways, at any time."""
        ...
