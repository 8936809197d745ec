"""Commands to Redis, whatever stands behind the addresses: tried again where that helps.

A command is routed by its second word, the key (or, for PUBLISH, the channel).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from typing import Any, Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry, Tries
from nativelink.stores.remote.redis_address import Endpoint
from nativelink.stores.remote.redis_connection import Command
from nativelink.stores.remote.redis_node import Dialing, RedisNode
from nativelink.stores.remote.redis_replies import (
    MOVING,
    TEMPORARY,
    RefusedReplies,
    ReplyError,
    SilentServerError,
    as_error,
)

__all__ = ["RedisClient", "StandardClient", "temporary_trouble"]

#: A restart or a failover takes its moment: tries of one request, and seconds between them, before
#: it counts as one failure of the configured `retry` (NativeLink v1.6.6, `redis_store`).
_QUICK_TRIES: Final = 5
_QUICK_PAUSE_S: Final = 0.1


class RedisClient(ABC):
    """Runs commands; each topology says how they reach their servers.

    Args:
        dialing: how connections are made.
        retry: tries after the quick ones.
        max_in_flight: requests in flight; further ones wait. 0: no limit.
    """

    def __init__(self, dialing: Dialing, *, retry: Retry, max_in_flight: int) -> None:
        self.dialing = dialing
        self._retry = retry
        self._permits = asyncio.Semaphore(max_in_flight) if max_in_flight else None
        self._nodes: dict[Endpoint, RedisNode] = {}

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands, in order; what is no trouble of a node stays a `ReplyError`.

        Commands of one key are executed in their order. They may be executed more than once, but
        then all of those from one of them on.

        Raises:
            NativeLinkError: UNAVAILABLE if they could not be executed, or perhaps were not;
                PERMISSION_DENIED if we may not log in.
        """
        tries: Tries | None = None
        quick = 0
        while True:
            try:
                if self._permits is None:
                    return await self._attempt(commands)
                # Not while it waits for the next try: others may ask servers that are well.
                async with self._permits:
                    return await self._attempt(commands)
            except NativeLinkError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
                quick += 1
                if quick < _QUICK_TRIES and not isinstance(error, SilentServerError):
                    await self._retry.sleep(_QUICK_PAUSE_S)
                else:
                    quick = 0
                    tries = tries or self._retry.tries()
                    await tries.after(error)

    async def ping(self) -> None:
        """Return if every server that keeps data answers.

        Raises:
            NativeLinkError: one does not.
        """
        for endpoint in await self.masters():
            try:
                (reply,) = await self.node(endpoint).run((("PING",),))
            except NativeLinkError:
                self.doubt()
                raise
            if isinstance(reply, ReplyError):
                raise as_error(reply, who=endpoint)

    def close(self) -> None:
        """Drop all connections; what waits fails."""
        for node in self._nodes.values():
            node.close()

    def node(self, endpoint: Endpoint) -> RedisNode:
        """Our connections to a server."""
        node = self._nodes.get(endpoint)
        if node is None:
            node = self._nodes[endpoint] = RedisNode(endpoint, self.dialing)
        return node

    def _forget_others(self, known: Set[Endpoint]) -> None:
        """Drop the connections to all servers but these."""
        for endpoint in self._nodes.keys() - known:
            self._nodes.pop(endpoint).close()

    @abstractmethod
    def doubt(self) -> None:
        """A master does not answer: find out again who the masters are before the next request."""

    @abstractmethod
    async def masters(self) -> Sequence[Endpoint]:
        """The servers that keep data now.

        Raises:
            NativeLinkError: nobody knows.
        """

    @abstractmethod
    async def _attempt(self, commands: Sequence[Command]) -> list[Any]:
        """One try of `run`; UNAVAILABLE if it may be tried again."""


def temporary_trouble(replies: list[Any], who: Endpoint) -> NativeLinkError | None:
    """The first answer that says that the node cannot do its work now."""
    if isinstance(replies, RefusedReplies):
        for reply in replies:
            if isinstance(reply, ReplyError) and reply.kind in TEMPORARY | MOVING:
                return as_error(reply, who=who)
    return None


class StandardClient(RedisClient):
    """One server.

    Args:
        endpoint: where it is.
        dialing: how connections are made.
        retry: tries after the quick ones.
        max_in_flight: requests in flight.
    """

    def __init__(
        self, endpoint: Endpoint, dialing: Dialing, *, retry: Retry, max_in_flight: int
    ) -> None:
        super().__init__(dialing, retry=retry, max_in_flight=max_in_flight)
        self._node = self.node(endpoint)

    def doubt(self) -> None:
        """There is one server, and there is no other."""

    async def masters(self) -> Sequence[Endpoint]:
        return (self._node.endpoint,)

    async def _attempt(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._node.run(commands)
        trouble = temporary_trouble(replies, self._node.endpoint)
        if trouble is not None:
            raise trouble
        return replies
