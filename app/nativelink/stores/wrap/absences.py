"""Tells of what is looked for in a store in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nativelink.core.digest import StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Sink
from nativelink.stores.store import DelegatingStore, Store

__all__ = ["AbsencesStore"]


class AbsencesStore(DelegatingStore):
    """A store that says which keys its users did not find.

    Whoever remembers that something is there learns here that it is not, even where the backend
    does not tell what leaves it.
    """

    __slots__ = ("_callbacks",)

    def __init__(self, backend: Store) -> None:
        super().__init__(backend)
        self._callbacks: list[Callable[[Sequence[StoreKey]], None]] = []

    def on_absent(self, callback: Callable[[Sequence[StoreKey]], None]) -> None:
        """Call `callback`, on the event loop's thread, with the keys that were not found."""
        self._callbacks.append(callback)

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        sizes = await self._backend.has(keys)
        if None in sizes:
            self._tell([key for key, size in zip(keys, sizes, strict=True) if size is None])
        return sizes

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        try:
            await self._backend.get(key, sink, offset=offset, limit=limit)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                self._tell((key,))
            raise

    def _tell(self, keys: Sequence[StoreKey]) -> None:
        for callback in self._callbacks:
            callback(keys)
