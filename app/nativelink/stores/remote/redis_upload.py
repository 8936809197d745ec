"""One blob on its way into Redis.

A temporary key takes the chunks and is then renamed, so readers see all of it or nothing. What
must never happen is a blob with a hole: SETRANGE fills with zeros what is not there, and a chunk
that arrived may be gone when the next one comes, because Redis evicted the temporary key or a
replica took over that had not seen it yet. So

- before more chunks are added to what earlier round trips brought, its length is checked: a
  replica may lack the latest chunks;
- in the end its length and its first byte that is not zero are checked: whatever was evicted
  meanwhile begins with zeros.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nativelink.core.digest import StoreKey
from nativelink.core.eager import begin
from nativelink.core.errors import NativeLinkError, invalid_argument, unavailable
from nativelink.core.streams import Chunk, Source
from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.remote.redis_connection import Command
from nativelink.stores.remote.redis_replies import RefusedReplies, ReplyError, refusal

__all__ = ["MAX_VALUE_BYTES", "Upload", "too_large"]

#: The longest string that Redis keeps (its `proto-max-bulk-len`).
MAX_VALUE_BYTES: Final = 512 * 1024 * 1024
#: Seconds that an upload that failed may take to remove what it had written.
_CLEAN_UP_S: Final = 1.0


class Upload:
    """Writes one value.

    Args:
        client: connections to Redis.
        key: for messages.
        final: the key's name in Redis.
        temp: a name of the same slot that nobody else uses.
        chunk_bytes: of one command.
        window_bytes: sent in one round trip.
        ttl_s: seconds after which Redis forgets the value; 0: never.
    """

    __slots__ = (
        "_asked",
        "_canary",
        "_chunk_bytes",
        "_client",
        "_commands",
        "_final",
        "_key",
        "_sent",
        "_size",
        "_temp",
        "_ttl_s",
        "_window_bytes",
    )

    def __init__(
        self,
        client: RedisClient,
        key: StoreKey,
        final: bytes,
        temp: bytes,
        *,
        chunk_bytes: int,
        window_bytes: int,
        ttl_s: int,
    ) -> None:
        self._client = client
        self._key = key
        self._final = final
        self._temp = temp
        self._chunk_bytes = chunk_bytes
        self._window_bytes = window_bytes
        self._ttl_s = ttl_s
        self._commands: list[Command] = []
        self._size = 0
        #: Whether there may be a temporary key.
        self._asked = False
        #: How much of it is in Redis already.
        self._sent = 0
        #: Where the first byte stands that is not zero, and that byte.
        self._canary: tuple[int, bytes] | None = None

    async def run(self, source: Source) -> int:
        """Store all of `source`; returns the number of bytes.

        If this fails or is cancelled, the temporary key is removed, as far as Redis answers.
        """
        try:
            while chunk := await source.read():
                await self._add(chunk)
            await self._finish()
        except BaseException:
            if self._asked:
                await self._discard()
            raise
        return self._size

    async def _add(self, chunk: Chunk) -> None:
        if self._size + len(chunk) > MAX_VALUE_BYTES:
            raise too_large(self._key, self._size + len(chunk))
        if self._canary is None:
            self._look_for_canary(chunk)
        step = self._chunk_bytes
        view = chunk if len(chunk) <= step else memoryview(chunk)
        for start in range(0, len(chunk), step):
            if self._size - self._sent >= self._window_bytes:
                await self._flush()
            part = view if view is chunk else view[start : start + step]
            self._commands.append(("SETRANGE", self._temp, self._size, part))
            if not self._size and self._ttl_s:
                self._commands.append(("EXPIRE", self._temp, self._ttl_s))
            self._size += len(part)

    async def _flush(self) -> None:
        """Send what was collected, behind what is there."""
        if not self._sent:
            await self._ask(self._commands)
        else:
            length, *_ = await self._ask([("STRLEN", self._temp), *self._commands])
            # More than `_sent` if a connection broke and this is the second time.
            if not self._sent <= length <= self._size:
                raise self._lost()
        self._sent = self._size
        self._commands = []

    async def _finish(self) -> None:
        temp, final = self._temp, self._final
        rename: list[Command] = [("RENAME", temp, final)]
        if self._ttl_s:
            rename.append(("EXPIRE", final, self._ttl_s))
        if not self._size:
            # SETRANGE of nothing makes no key.
            await self._commit([("SET", temp, b""), *rename])
        elif not self._sent and self._size <= self._chunk_bytes and len(self._commands) <= 2:
            # One SETRANGE is there or not; without it, there is nothing to rename.
            await self._commit([*self._commands, ("STRLEN", temp), *rename])
        else:
            if self._commands:
                await self._flush()
            position, byte = self._canary or (self._size - 1, b"\0")
            length, canary = await self._ask(
                [("STRLEN", temp), ("GETRANGE", temp, position, position)]
            )
            if length != self._size or canary != byte:
                raise self._lost()
            await self._commit(rename)

    async def _commit(self, commands: list[Command]) -> None:
        self._asked = True
        replies = await self._client.run(commands)
        if isinstance(replies, RefusedReplies):
            error = next(reply for reply in replies if isinstance(reply, ReplyError))
            raise self._lost() if "no such key" in error.rest else refusal(replies)

    async def _ask(self, commands: list[Command]) -> list[Any]:
        self._asked = True
        replies = await self._client.run(commands)
        if isinstance(replies, RefusedReplies):
            raise refusal(replies)
        return replies

    def _look_for_canary(self, chunk: Chunk) -> None:
        if chunk[0]:
            zeros = 0
        else:
            zeros = len(chunk) - len(bytes(chunk).lstrip(b"\0"))
        if zeros < len(chunk):
            self._canary = (self._size + zeros, bytes(chunk[zeros : zeros + 1]))

    def _lost(self) -> NativeLinkError:
        return unavailable(f"Redis lost a part of {self._key} while it was written; put it again")

    async def _discard(self) -> None:
        # The command leaves at once, behind those that may still be on their way; if we are
        # cancelled again, only its answer is missed.
        begun = begin(self._remove(), asyncio.get_running_loop())
        if not isinstance(begun, tuple):
            await asyncio.shield(begun)

    async def _remove(self) -> None:
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                await self._client.run([("UNLINK", self._temp)])
        except (NativeLinkError, TimeoutError):
            pass  # What made the upload fail is told; Redis' eviction takes care of the rest.


def too_large(key: StoreKey, size: int) -> NativeLinkError:
    """The error for a value that Redis cannot hold."""
    return invalid_argument(
        f"{key} has {size} bytes or more: Redis holds up to {MAX_VALUE_BYTES} bytes per value; "
        "larger ones belong into another store (size_partitioning)"
    )
