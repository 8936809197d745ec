"""The `redis_store`: blobs in Redis, byte for byte where NativeLink keeps them.

A value is a string under `{key_prefix}{key}`. It is written under a temporary key
`temp-{uuid}-{final key}` whose braces (they are part of it) make a cluster keep both in one slot,
so that RENAME can put it in place.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from nativelink.core.digest import Digest, StoreKey, is_empty
from nativelink.core.errors import out_of_range, unavailable
from nativelink.core.streams import Sink, Source, drain
from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.remote.redis_connection import Command
from nativelink.stores.remote.redis_removals import Removals
from nativelink.stores.remote.redis_replies import RefusedReplies, refusal
from nativelink.stores.remote.redis_upload import MAX_VALUE_BYTES, Upload, too_large
from nativelink.stores.store import absent

__all__ = ["RedisStore"]

#: Values up to this size that may change are read by one command, which Redis does all at once.
_AT_ONCE_BYTES: Final = 1024 * 1024
#: Chunks that one round trip of a read brings.
_READ_CHUNKS: Final = 8


class RedisStore:
    """Blobs as strings in Redis. Entered while it is used.

    Whatever Redis evicts, or lets expire, is absent. While it cannot be asked, every call raises
    UNAVAILABLE; a full Redis that may not evict refuses puts with RESOURCE_EXHAUSTED.

    A read of a digest takes pieces of `read_chunk_size`; while the value of a string key is read,
    all of it is in memory, because it might be replaced.

    Args:
        client: connections to Redis; closed with this store.
        key_prefix: stands before every key.
        channel: where keys that were put are published; None: nowhere.
        read_chunk_size: bytes of one read or write command.
        max_chunk_uploads: chunks of one upload in flight.
        key_ttl_s: seconds after which Redis forgets what was put; 0: never.
        health_check_timeout_s: for `check`.
        new_id: makes the part of a temporary key that is different each time.

    Attributes:
        removals: says which keys left Redis.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        key_prefix: str = "",
        channel: str | None = None,
        read_chunk_size: int = 65_536,
        max_chunk_uploads: int = 10,
        key_ttl_s: int = 0,
        health_check_timeout_s: float = 4.0,
        new_id: Callable[[], object] = uuid.uuid4,
    ) -> None:
        self._client = client
        self._prefix = key_prefix
        self._channel = channel
        self._chunk_bytes = read_chunk_size
        self._max_chunk_uploads = max_chunk_uploads
        self._ttl_s = key_ttl_s
        self._health_check_timeout_s = health_check_timeout_s
        self._new_id = new_id
        self.removals = Removals(client, key_prefix=key_prefix)

    async def __aenter__(self) -> Self:
        await self.removals.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.removals.__aexit__(kind, error, trace)
        self._client.close()

    async def check(self) -> None:
        """Return if Redis answers.

        Raises:
            NativeLinkError: it does not.
        """
        try:
            async with asyncio.timeout(self._health_check_timeout_s):
                await self._client.ping()
        except TimeoutError as error:
            raise unavailable(
                f"Redis gave no answer for {self._health_check_timeout_s:g} s"
            ) from error

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        commands: list[Command] = []
        for key in keys:
            name = self._name(key)
            # Of an absent key, and of an empty value, the length is 0.
            commands += (("STRLEN", name), ("EXISTS", name))
        replies = await self._ask(commands) if commands else []
        sizes: list[int | None] = [
            size if there else None for size, there in zip(replies[::2], replies[1::2], strict=True)
        ]
        for place, key in enumerate(keys):
            if sizes[place] is None and is_empty(key):
                sizes[place] = 0
        return sizes

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if is_empty(key):
            if offset:
                raise out_of_range(f"offset {offset} is beyond the 0 bytes of {key}")
            return
        name = self._name(key)
        if not isinstance(key, Digest):
            await self._get_at_once(key, name, sink, offset, limit)
            return
        wanted = self._chunk_bytes if limit is None else min(limit, self._chunk_bytes)
        data = b""
        while not data:
            if wanted and offset < MAX_VALUE_BYTES:
                (data,) = await self._ask([("GETRANGE", name, offset, offset + wanted - 1)])
            if not data and (await self._check(key, name, offset) == offset or not wanted):
                return
        if len(data) < wanted or wanted == limit:
            await sink.write(data)
        else:
            await self._get_on(key, name, sink, data, offset, limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        if is_empty(key):
            return await drain(source)
        if source.size is not None and source.size > MAX_VALUE_BYTES:
            raise too_large(key, source.size)
        final = self._name(key)
        upload = Upload(
            self._client,
            key,
            final,
            b"temp-%b-{%b}" % (str(self._new_id()).encode(), final),
            chunk_bytes=self._chunk_bytes,
            window_bytes=self._chunk_bytes * self._max_chunk_uploads,
            ttl_s=self._ttl_s,
        )
        size = await upload.run(source)
        if self._channel is not None:
            await self._ask([("PUBLISH", self._channel, final)])
        return size

    # -- within

    def _name(self, key: StoreKey) -> bytes:
        return f"{self._prefix}{key}".encode()

    async def _check(self, key: StoreKey, name: bytes, offset: int) -> int:
        """The size of a value of which `offset` is no place behind its end.

        Raises:
            NativeLinkError: NOT_FOUND; OUT_OF_RANGE.
        """
        size, there = await self._ask([("STRLEN", name), ("EXISTS", name)])
        if not there:
            raise absent(key)
        if offset > size:
            raise out_of_range(f"offset {offset} is beyond the {size} bytes of {key}")
        return int(size)

    async def _get_on(
        self, key: Digest, name: bytes, sink: Sink, data: bytes, offset: int, limit: int | None
    ) -> None:
        """The rest of a read whose first chunk is `data`, and was not written yet."""
        step = self._chunk_bytes
        position = offset + len(data)
        end = MAX_VALUE_BYTES if limit is None else min(offset + limit, MAX_VALUE_BYTES)
        size = -1
        while position < end:
            commands: list[Command] = [
                ("GETRANGE", name, start, min(start + step, end) - 1)
                for start in range(position, min(end, position + step * _READ_CHUNKS), step)
            ]
            if size < 0:
                size, *pieces = await self._ask([("STRLEN", name), *commands])
                end = min(end, size)
                if size != key.size_bytes and size <= _AT_ONCE_BYTES:
                    # Not the blob itself but what an action, say, came to: it may be replaced.
                    await self._get_at_once(key, name, sink, offset, limit)
                    return
                await sink.write(data)
            else:
                pieces = await self._ask(commands)
            for piece in pieces:
                if piece:
                    await sink.write(piece)
                    position += len(piece)
            if position < end and len(pieces[0]) < step:
                raise unavailable(f"{key} left Redis while it was read")

    async def _get_at_once(
        self, key: StoreKey, name: bytes, sink: Sink, offset: int, limit: int | None
    ) -> None:
        (value,) = await self._ask([("GET", name)])
        if value is None:
            raise absent(key)
        if offset > len(value):
            raise out_of_range(f"offset {offset} is beyond the {len(value)} bytes of {key}")
        stop = len(value) if limit is None else min(len(value), offset + limit)
        if offset < stop:
            whole = stop - offset == len(value)
            await sink.write(value if whole else memoryview(value)[offset:stop])

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, none of which is an error."""
        replies = await self._client.run(commands)
        if isinstance(replies, RefusedReplies):
            raise refusal(replies)
        return replies
