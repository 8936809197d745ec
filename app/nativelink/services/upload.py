"""One upload: a blob that arrives in pieces, perhaps by several calls (see `uploads`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.core.streams import BytesSource, Chunk
from nativelink.stores.store import Store

__all__ = ["BUFFER_BYTES", "Upload", "UploadName"]

_log = logging.getLogger(__name__)

#: As much as a read from a fast connection brings at once, and enough for one hop to a thread.
BUFFER_BYTES: Final = 256 * 1024

#: Pieces shorter than this are gathered: a view costs 200 bytes, and keeps the whole message in
#: memory, with a name of up to 4 KiB.
_GATHERED_BYTES: Final = 4 * 1024


class UploadName(NamedTuple):
    """What tells one upload from another: the parts of its resource name.

    The digest belongs to it, so that clients which choose one UUID for two blobs (peers have met
    them) upload two blobs.
    """

    instance: str
    uuid: str
    digest: Digest
    function: DigestFunction


class Upload:
    """One blob on its way into a store; the source that the store's `put` reads.

    Attributes:
        name: of the upload.
        store: where the blob goes.
        size: of the blob, in bytes; `read` gives as many.
        received: bytes taken so far, of which none is lost while the upload lives.
        owner: whatever stands for the call that feeds it, or None while it is parked.
        ended: stored, failed or given up: nothing more will come of it.
        timer: ends a parked upload.
    """

    __slots__ = (
        "_buffer",
        "_buffered",
        "_complete",
        "_error",
        "_put",
        "_reader",
        "_start_put",
        "_writer",
        "ended",
        "name",
        "owner",
        "received",
        "size",
        "store",
        "timer",
    )

    def __init__(
        self,
        name: UploadName,
        store: Store,
        start_put: Callable[[Upload], asyncio.Task[None]],
    ) -> None:
        self.name = name
        self.store = store
        self.size = name.digest.size_bytes
        self.received = 0
        self.owner: object | None = None
        self.ended = False
        self.timer: asyncio.TimerHandle | None = None
        self._start_put = start_put
        self._buffer: list[Chunk | bytearray] = []
        self._buffered = 0
        self._complete = False
        self._put: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes in the buffer."""
        return self._buffered

    @property
    def committed(self) -> int:
        """How far a client need not send the blob again.

        Never all of it: Bazel takes a whole `committed_size` for success, though the response is
        not `complete`, and would not finish an upload whose `put` may still fail.
        """
        return min(self.received, max(self.size - 1, 0))

    async def feed(self, owner: object, offset: int, data: Chunk) -> None:
        """Take `data`, which starts at `offset` of the blob; what is here already is skipped.

        Cancelled while it waits for room, it has taken nothing.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a gap (the upload stays as it was) or for more
                than `size` bytes (it ends); ABORTED if another call took the upload over;
                whatever made the store's `put` fail.
        """
        self._check(owner)
        if offset < 0:
            raise invalid_argument(f"write_offset {offset} is negative")
        if offset > self.received:
            raise invalid_argument(
                f"write_offset {offset} leaves a gap: {self.received} bytes of "
                f"{self.name.digest} were received"
            )
        skipped = self.received - offset
        if skipped:
            data = data[skipped:]
        size = len(data)
        if self.received + size > self.size:
            self.abandon()
            raise invalid_argument(
                f"{self.received + size} bytes were sent for blob {self.name.digest}"
            )
        while self._buffered >= BUFFER_BYTES:
            writer = self._writer = asyncio.get_running_loop().create_future()
            try:
                await writer
            finally:
                # A call that took the upload over may wait already.
                if self._writer is writer:
                    self._writer = None
            self._check(owner)
        self.received += size
        if not size or self.ended:
            return
        last = self._buffer[-1] if self._buffer else None
        if size >= _GATHERED_BYTES:
            self._buffer.append(data)
        elif isinstance(last, bytearray):
            last += data
        else:
            self._buffer.append(bytearray(data))
        self._buffered += size
        if self._put is not None:
            _wake(self._reader)
        elif self._buffered >= BUFFER_BYTES:
            self._put = self._start_put(self)

    async def finish(self, owner: object) -> int:
        """Store the blob, of which all bytes were fed; returns its size.

        Cancelled, a `put` in a task goes on to its end; otherwise nothing is stored, and the
        upload still has all bytes.

        Raises:
            NativeLinkError: INVALID_ARGUMENT if bytes are missing; whatever made `put` fail.
        """
        self._check(owner)
        if self.received != self.size:
            self.abandon()
            raise invalid_argument(
                f"finish_write after {self.received} of the {self.size} bytes of blob "
                f"{self.name.digest}"
            )
        if self.ended:
            # The call that it was taken from had all bytes too, and has stored them.
            return self.size
        if self._put is None:
            data = self._take()
            self._buffer.append(data)
            self._buffered = len(data)
            try:
                await self.store.put(self.name.digest, BytesSource(data))
            except Exception:
                self.abandon()
                raise
            self._end()
        else:
            self._complete = True
            _wake(self._reader)
            await asyncio.wait((self._put,))
            self._check(owner)
        return self.size

    async def read(self) -> Chunk:
        """For the store: everything that is in the buffer."""
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._take()
        _wake(self._writer)
        return data

    def take_over(self, owner: object) -> None:
        """Make `owner` the one call that feeds this upload."""
        self.owner = owner
        _wake(self._writer)

    def abandon(self) -> None:
        """Give the upload up; its `put` is cancelled."""
        if self.ended:
            return
        self._error = self._given_up()
        self._end()
        if self._put is not None:
            self._put.cancel()

    async def put(self) -> None:
        """Run the store's `put`, with this upload as its source."""
        try:
            await self.store.put(self.name.digest, self)
        except Exception as error:  # noqa: BLE001 - raised again in the call that feeds
            self._error = error
            if self.owner is None:
                _log.warning("the upload of blob %s failed: %s", self.name.digest, error)
        except BaseException:
            # Cancelled, by `abandon` or by something that the store waited for.
            self._error = self._error or self._given_up()
            raise
        finally:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self._buffer.clear()
        self._buffered = 0
        _wake(self._writer)
        _wake(self._reader)

    def _given_up(self) -> NativeLinkError:
        return NativeLinkError(Code.ABORTED, f"the upload of blob {self.name.digest} was given up")

    def _check(self, owner: object) -> None:
        if self._error is not None:
            raise self._error
        if self.owner is not owner:
            raise NativeLinkError(
                Code.ABORTED, f"the upload of blob {self.name.digest} went on in another call"
            )

    def _take(self) -> Chunk:
        only = self._buffer[0] if len(self._buffer) == 1 else None
        # What is handed over never changes, so gathered bytes are copied once more.
        data = b"".join(self._buffer) if only is None or isinstance(only, bytearray) else only
        self._buffer.clear()
        self._buffered = 0
        return data


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
