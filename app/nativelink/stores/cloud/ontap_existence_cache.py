"""`ontap_s3_existence_cache`: an index of what a bucket holds, on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, StoreKey, is_empty
from nativelink.core.eager import ended
from nativelink.core.errors import Code, NativeLinkError, failed_precondition
from nativelink.core.streams import Sink, Source
from nativelink.stores.store import DelegatingStore, Store, absent

__all__ = ["OntapS3ExistenceCacheStore"]


class OntapS3ExistenceCacheStore(DelegatingStore):
    """Digests that the index lacks are absent without a request. An async context manager.

    The index is compared with the bucket every `sync_interval_s` seconds, and kept in a file so
    that a restart does not begin with a comparison (NativeLink v1.6.6's format). What others put
    into the bucket is seen after the next comparison. While there is no index yet, every question
    goes to the bucket. String keys are not in it and always go there.

    Args:
        backend: the store over the bucket.
        names: lists the keys of the bucket's objects, without the key prefix.
        index_path: the file.
        sync_interval_s: seconds between comparisons.
        clock: stamps the file.
        sleep: lets a number of seconds pass.

    Raises:
        NativeLinkError: FAILED_PRECONDITION when entered: the file is there and no index.
    """

    def __init__(
        self,
        backend: Store,
        *,
        names: Callable[[], AsyncIterator[str]],
        index_path: Path,
        sync_interval_s: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(backend)
        self._names = names
        self._index_path = index_path
        self._sync_interval_s = sync_interval_s
        self._clock = clock
        self._sleep = sleep
        self._index: set[Digest] | None = None
        #: Put while the bucket is being listed, which may have passed their place already.
        self._put_meanwhile: set[Digest] = set()
        self._syncing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> OntapS3ExistenceCacheStore:
        loop = asyncio.get_running_loop()
        self._index = await loop.run_in_executor(None, self._load)
        self._syncing = asyncio.Task(self._keep_in_sync(), loop=loop)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            await ended([self._syncing])

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        asked = [key for key in keys if self._may_be_there(key)]
        sizes = dict(zip(asked, await self._backend.has(asked), strict=True)) if asked else {}
        return [sizes.get(key) for key in keys]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if not self._may_be_there(key):
            raise absent(key)
        await self._backend.get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        try:
            return await self._backend.put(key, source)
        finally:
            # Also after a failure: it may have come too late. The backend knows.
            if isinstance(key, Digest):
                self._put_meanwhile.add(key)
                if self._index is not None:
                    self._index.add(key)

    async def sync(self) -> None:
        """Compare the index with the bucket, and write its file.

        Raises:
            NativeLinkError: the bucket cannot be listed, or the file not be written.
        """
        self._put_meanwhile.clear()
        found: set[Digest] = set()
        async for name in self._names():
            try:
                found.add(Digest.from_string(name))
            except NativeLinkError:
                # A string key's object, or not ours.
                continue
        found |= self._put_meanwhile
        self._index = found
        written = [str(digest) for digest in found]
        saving = asyncio.get_running_loop().run_in_executor(None, self._save, written)
        # Once the store is closed, nothing writes there any more.
        await ended((saving,))
        saving.result()

    def _may_be_there(self, key: StoreKey) -> bool:
        if self._index is None or not isinstance(key, Digest):
            return True
        return key in self._index or is_empty(key)

    async def _keep_in_sync(self) -> None:
        if self._index is not None:
            await self._sleep(self._sync_interval_s)
        while True:
            try:
                await self.sync()
            except NativeLinkError:
                # The index stays as it was; the bucket's own requests say what is wrong with it.
                pass
            await self._sleep(self._sync_interval_s)

    def _load(self) -> set[Digest] | None:
        try:
            text = self._index_path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return {Digest.from_string(digest) for digest in json.loads(text)["digests"]}
        except (ValueError, KeyError, TypeError, AttributeError, NativeLinkError) as error:
            raise failed_precondition(
                f"{self._index_path} is no index of ONTAP objects ({error}); remove it to have it "
                "made anew"
            ) from error

    def _save(self, digests: list[str]) -> None:
        text = json.dumps({"digests": digests, "timestamp": int(self._clock.time())})
        partial = self._index_path.with_name(f"{self._index_path.name}.partial")
        try:
            partial.write_text(text)
            partial.replace(self._index_path)
        except OSError as error:
            raise NativeLinkError(
                Code.UNAVAILABLE, f"{self._index_path}: {error.strerror}"
            ) from error
