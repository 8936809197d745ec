"""Which keys left Redis, as it tells (keyspace notifications)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.remote.redis_address import Endpoint
from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.remote.redis_connection import RedisConnection, dial

__all__ = ["Removals"]

_logger = logging.getLogger(__name__)

_GONE: Final = frozenset({b"evicted", b"expired", b"del"})
#: Seconds between two looks at who the masters are, and between signs of life asked of each.
_LOOK_S: Final = 5.0
#: Seconds before a lost connection is opened again.
_PAUSE_S: Final = 1.0


class Removals:
    """A `RemovalFeed` of what Redis evicts, lets expire or is told to delete.

    Each server that keeps data is followed over a connection of its own, once somebody wants to
    know. Redis sends these messages once and to nobody who is not connected, so a removal may be
    missed while a connection is down: whenever one stands, any key may have left before.

    Redis tells only if `notify-keyspace-events` says so: `Exeg` is enough; a warning is logged
    if nothing would come. That a database was emptied (FLUSHALL, FLUSHDB) is no event of its keys:
    it is heard by who tracks what he reads, which these connections say that they do. A server
    that refuses this (an ACL without `client|tracking`, a proxy) is warned of, too.

    Args:
        client: knows the servers.
        key_prefix: keys without it are not ours.
    """

    def __init__(self, client: RedisClient, *, key_prefix: str) -> None:
        self._client = client
        self._prefix = key_prefix
        self._callbacks: list[Callable[[StoreKey | None], None]] = []
        self._tasks = asyncio.TaskGroup()
        self._watching: asyncio.Task[None] | None = None
        self._warned = False
        self._warned_of_tracking = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
        # What ended the store's life is not the followers' failure: it is not grouped with theirs.
        await self._tasks.__aexit__(None, None, None)

    def on_removed(self, callback: Callable[[StoreKey | None], None], /) -> None:
        """Call `callback` for every key that is evicted, expires or is deleted."""
        self._callbacks.append(callback)
        if self._watching is None:
            self._watching = self._tasks.create_task(self._watch())

    async def _watch(self) -> None:
        """Follow those servers that are masters now."""
        followed: dict[Endpoint, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    masters = frozenset(await self._client.masters())
                except NativeLinkError as error:
                    _logger.warning("Redis' removals cannot be followed now: %s", error)
                else:
                    for gone in followed.keys() - masters:
                        followed.pop(gone).cancel()
                    for new in masters - followed.keys():
                        followed[new] = tasks.create_task(self._follow(new))
                await asyncio.sleep(_LOOK_S)

    async def _follow(self, endpoint: Endpoint) -> None:
        """Listen to one server, again and again."""
        dialing = self._client.dialing
        while True:
            try:
                connection = await dial(
                    endpoint,
                    dialing.login,
                    connect_timeout_s=dialing.connect_timeout_s,
                    timeout_s=dialing.command_timeout_s,
                    on_push=self._heard,
                )
            except NativeLinkError as error:
                _logger.warning("Redis' removals at %s are missed: %s", endpoint, error)
                self._client.doubt()
            else:
                try:
                    await self._subscribe(connection, endpoint)
                    # Answered behind the subscription: from now on, nothing is missed.
                    await connection.call("PING")
                    self._tell(None)
                    await _until_lost(connection)
                except NativeLinkError as error:
                    _logger.warning("Redis' removals at %s are missed: %s", endpoint, error)
                finally:
                    connection.close()
            await asyncio.sleep(_PAUSE_S)

    async def _subscribe(self, connection: RedisConnection, endpoint: Endpoint) -> None:
        flags = await self._flags(connection)
        database = self._client.dialing.login.database
        if flags is not None and not (
            ("K" in flags or "E" in flags) and ("A" in flags or {"x", "e"} <= set(flags))
        ):
            self._warn(endpoint, flags)
        if flags is None or "E" in flags:
            events = (f"__keyevent@{database}__:{event.decode()}" for event in _GONE)
            connection.say("SUBSCRIBE", *events)
        if flags is None or ("K" in flags and "E" not in flags):
            escaped = "".join(f"\\{each}" if each in "*?[]\\" else each for each in self._prefix)
            connection.say("PSUBSCRIBE", f"__keyspace@{database}__:{escaped}*")
        await self._track(connection, endpoint)

    async def _track(self, connection: RedisConnection, endpoint: Endpoint) -> None:
        """Be told when a database is emptied; nothing else, as no key is read here."""
        try:
            await connection.call("CLIENT", "TRACKING", "ON")
        except NativeLinkError as error:
            # Not every server that speaks like Redis can, or lets us.
            if error.code is Code.UNAVAILABLE:
                raise
            if not self._warned_of_tracking:
                self._warned_of_tracking = True
                _logger.warning(
                    "Redis at %s does not tell when it is emptied (FLUSHALL, FLUSHDB): "
                    "CLIENT TRACKING is refused: %s",
                    endpoint,
                    error,
                )

    async def _flags(self, connection: RedisConnection) -> str | None:
        """What the server tells; None if it does not let us know (managed servers)."""
        try:
            answer = await connection.call("CONFIG", "GET", "notify-keyspace-events")
        except NativeLinkError as error:
            if error.code is Code.UNAVAILABLE:
                raise
            return None
        return next(iter(answer.values()), b"").decode()

    def _warn(self, endpoint: Endpoint, flags: str) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "Redis at %s does not tell what it evicts: notify-keyspace-events is %r, "
                "'Exeg' is needed",
                endpoint,
                flags,
            )

    def _heard(self, message: list[Any]) -> None:
        match message:
            case [b"invalidate", _]:
                # Nothing was read that could be invalidated alone; which keys it speaks of differs
                # from one server to the next: none (Redis 6.2), or one of a zero byte (6.0).
                self._tell(None)
                return
            case [b"message", channel, name]:
                _, _, event = channel.partition(b"__:")
            case [b"pmessage", _, channel, event]:
                _, _, name = channel.partition(b"__:")
            case _:
                return
        if event in _GONE and (key := self._key(name)) is not None:
            self._tell(key)

    def _tell(self, key: StoreKey | None) -> None:
        for callback in self._callbacks:
            callback(key)

    def _key(self, name: bytes) -> StoreKey | None:
        """Whose name that is; None if it is not one of this store, or a temporary one."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        if not text.startswith(self._prefix):
            return None
        text = text.removeprefix(self._prefix)
        try:
            return Digest.from_string(text)
        except NativeLinkError:
            return text


async def _until_lost(connection: RedisConnection) -> None:
    while True:
        try:
            async with asyncio.timeout(_LOOK_S):
                await connection.wait_lost()
                return
        except TimeoutError:
            # Half a connection is none: this fails if nobody answers.
            await connection.call("PING")
