"""Whose turn it is to be downloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["DownloadSlots"]

#: The part of all slots that the downloads of one host may have.
_SHARE_OF_HOST: Final = 0.5


class _Host:
    """The slots of one host.

    Attributes:
        slots: those that are free.
        users: downloads that have one, or wait for one.
    """

    __slots__ = ("slots", "users")

    def __init__(self, count: int) -> None:
        self.slots = asyncio.Semaphore(count)
        self.users = 0


class DownloadSlots:
    """So many downloads at a time, and no more than half of them from one host.

    A mirror that is dead keeps each download that tries it for a minute or more. Were all slots
    its, nothing could be had from anybody.

    Args:
        count: downloads at a time.
    """

    def __init__(self, count: int) -> None:
        self._slots = asyncio.Semaphore(count)
        self._count_of_host = max(1, int(count * _SHARE_OF_HOST))
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def taken(self, uri: str) -> AsyncGenerator[None]:
        """A slot for a download that begins with this URI; others wait in the order they came."""
        name = uri.partition("://")[2].partition("/")[0].lower()
        host = self._hosts.setdefault(name, _Host(self._count_of_host))
        host.users += 1
        try:
            async with host.slots, self._slots:
                yield
        finally:
            host.users -= 1
            if not host.users:
                del self._hosts[name]
