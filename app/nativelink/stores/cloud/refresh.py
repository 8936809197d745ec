"""Objects in use are kept young, so that a lifecycle rule by age deletes only the others."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.eager import ended
from nativelink.core.errors import NativeLinkError
from nativelink.stores.cloud.bucket import Bucket, Found

__all__ = ["Refresher"]

_log: Final = logging.getLogger(__name__)

#: Copies in flight: they are not urgent, and each costs as much as a write.
_AT_ONCE: Final = 8
#: Objects that wait; what is noticed beyond is noticed again when it is used again.
_MAX_WAITING: Final = 10_000


class Refresher:
    """Copies objects onto themselves in the background. An async context manager.

    Args:
        bucket: where they are.
        clock: what their ages are measured by.
        after_s: how old an object must be.

    Attributes:
        refreshed: objects copied.
        failed: objects that were not, or not now.
    """

    def __init__(self, bucket: Bucket, *, clock: Clock, after_s: int) -> None:
        self._bucket = bucket
        self._clock = clock
        self._after_s = after_s
        self._waiting: dict[str, Found] = {}
        self._wanted = asyncio.Event()
        self._at_work: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.refreshed = 0
        self.failed = 0

    async def __aenter__(self) -> Refresher:
        loop = asyncio.get_running_loop()
        self._tasks = [asyncio.Task(self._work(), loop=loop) for _ in range(_AT_ONCE)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await ended(self._tasks)

    def noticed(self, path: str, found: Found) -> None:
        """An object is in use: refresh it if it is old enough and nobody does so already."""
        if found.modified + self._after_s > self._clock.time():
            return
        if path in self._at_work or path in self._waiting:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self.failed += 1
            return
        self._waiting[path] = found
        self._wanted.set()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._wanted.clear()
                await self._wanted.wait()
            path = next(iter(self._waiting))
            found = self._waiting.pop(path)
            self._at_work.add(path)
            try:
                await self._bucket.touch(path, found)
                self.refreshed += 1
            except NativeLinkError:
                # It is noticed again when it is used again, and counted by the bucket by code.
                self.failed += 1
            except Exception:  # noqa: BLE001 - logged; the work must not end with it
                # A library's surprise; without the work, what is in use would grow too old.
                _log.exception("%s could not be refreshed", path)
                self.failed += 1
            finally:
                self._at_work.discard(path)
