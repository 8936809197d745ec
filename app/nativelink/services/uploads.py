"""Uploads that outlive the calls that carry them.

A client may lose its connection in the middle of a large upload and go on over another one
(google.bytestream.ByteStream.Write, QueryWriteStatus). So what a call receives belongs to an
`Upload`, not to the call:

- Bytes are kept in the upload's buffer until there are more than `BUFFER_BYTES` of them. A blob
  that ends before that is stored by the call itself, without any task.
- From then on a task of the registry's runs the store's `put`, which takes what the buffer holds,
  in one piece. The call waits while the buffer is full: so memory is `BUFFER_BYTES` and one
  message for each upload, whatever the blob's size.
- One call at a time is an upload's *owner* and may feed it. When its call ends early, the upload
  is *parked*: its bytes, or its half-done `put`, wait for the next call of the same name. Parked
  uploads end after a time, or when there are too many; a `put` that ends so is cancelled and
  leaves nothing (the store contract, 8).

A call whose upload is owned by another one already is one of two things. If it starts at offset 0,
two clients chose one name: it gets an upload of its own, under no name. If it starts later, its
client was told by QueryWriteStatus how far the other call got: that call's connection is dead,
though nobody has noticed yet, so the new call takes the upload over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.services.upload import Upload, UploadName
from nativelink.stores.store import Store

__all__ = ["UploadStatistics", "Uploads"]

#: Parked uploads at most: with full buffers they hold 64 MiB. (A store that does not keep up with
#: its clients leaves one message more in each.)
_MAX_PARKED: Final = 256


@dataclass(frozen=True, slots=True)
class UploadStatistics:
    """What the uploads of a service hold.

    Attributes:
        active: uploads that a call feeds, those under no name included.
        parked: uploads that wait for their client.
        buffered_bytes: bytes in the buffers of both.
    """

    active: int
    parked: int
    buffered_bytes: int


class Uploads:
    """The uploads under way: an async context manager, whose tasks run the stores' `put`s.

    Args:
        max_parked: parked uploads at most; the one parked first makes room.
    """

    def __init__(self, *, max_parked: int = _MAX_PARKED) -> None:
        self._max_parked = max_parked
        self._tasks = asyncio.TaskGroup()
        self._closed = False
        self._named: dict[UploadName, Upload] = {}
        #: In the order in which they were parked.
        self._parked: dict[UploadName, Upload] = {}
        self._active: set[Upload] = set()

    async def __aenter__(self) -> Uploads:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up whatever is under way and wait until nothing of it is left."""
        self._closed = True
        for upload in list(self._parked.values()):
            self._drop(upload)
        for upload in self._active:
            upload.abandon()
        await self._tasks.__aexit__(kind, error, trace)

    def find(self, name: UploadName) -> Upload | None:
        """The upload of a name, whether a call feeds it or not."""
        upload = self._named.get(name)
        return None if upload is None or upload.ended else upload

    def resumable(self, name: UploadName, offset: int) -> Upload | None:
        """The upload that a call whose first byte is at `offset` goes on with, or None."""
        upload = self.find(name)
        if upload is None or (upload.owner is not None and not 0 < offset <= upload.received):
            return None
        return upload

    @contextmanager
    def feeding(
        self, name: UploadName, store: Store, offset: int, persist_s: float, owner: object
    ) -> Iterator[Upload]:
        """An upload for the call `owner` alone, old or new; parked if it is unfinished at the end.

        Args:
            name: of the upload.
            store: where the blob goes.
            offset: where in the blob the call starts.
            persist_s: seconds that the upload is kept without a call.
            owner: the call.

        Raises:
            NativeLinkError: UNAVAILABLE once the service is being closed; ABORTED if the call does
                not start where the upload is: the client is to ask how far it got, and may be
                told otherwise than before, by another server or after a restart of this one.
        """
        if self._closed:
            raise unavailable(f"blob {name.digest} is not taken: the server is shutting down")
        upload = self.resumable(name, offset)
        received = 0 if upload is None else upload.received
        if offset > received:
            raise NativeLinkError(
                Code.ABORTED,
                f"write_offset {offset} leaves a gap: {received} bytes of {name.digest} were "
                "received here; QueryWriteStatus says where to go on",
            )
        if upload is None:
            upload = Upload(name, store, self._start_put)
            if self.find(name) is None:
                self._named[name] = upload
        elif upload.timer is not None:
            upload.timer.cancel()
            upload.timer = None
            del self._parked[name]
        upload.take_over(owner)
        self._active.add(upload)
        try:
            yield upload
        finally:
            if upload.owner is owner:
                upload.owner = None
                self._active.discard(upload)
                self._leave(upload, persist_s)

    def statistics(self) -> UploadStatistics:
        """What is held now."""
        uploads = (*self._active, *self._parked.values())
        return UploadStatistics(
            active=len(self._active),
            parked=len(self._parked),
            buffered_bytes=sum(upload.buffered_bytes for upload in uploads),
        )

    def _leave(self, upload: Upload, persist_s: float) -> None:
        """Park an unfinished upload that has a name; forget any other."""
        if upload.ended or self._closed or self._named.get(upload.name) is not upload:
            self._drop(upload)
        else:
            loop = asyncio.get_running_loop()
            upload.timer = loop.call_later(persist_s, self._drop, upload)
            self._parked[upload.name] = upload
            if len(self._parked) > self._max_parked:
                self._drop(next(iter(self._parked.values())))

    def _drop(self, upload: Upload) -> None:
        """End and forget an upload, but none that took its name since it ended."""
        if upload.timer is not None:
            upload.timer.cancel()
            upload.timer = None
        for uploads in (self._parked, self._named):
            if uploads.get(upload.name) is upload:
                del uploads[upload.name]
        upload.abandon()

    def _start_put(self, upload: Upload) -> asyncio.Task[None]:
        task = self._tasks.create_task(upload.put())
        task.add_done_callback(lambda _: self._put_ended(upload))
        return task

    def _put_ended(self, upload: Upload) -> None:
        """A parked upload may end too: its client sent everything and did not wait."""
        if upload.owner is None:
            self._drop(upload)
