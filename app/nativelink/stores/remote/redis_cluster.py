"""Redis Cluster: every key has a slot, every slot a server, and both may move while we work.

See the Redis cluster specification: "Key distribution model", "MOVED redirection", "ASK
redirection", "Multi-keys operations".
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from nativelink.core.eager import run_all
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.retry import Retry
from nativelink.stores.remote.redis_address import Endpoint
from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.remote.redis_connection import Command
from nativelink.stores.remote.redis_node import Attempt, Dialing, RedisNode
from nativelink.stores.remote.redis_replies import (
    TEMPORARY,
    RefusedReplies,
    ReplyError,
    as_error,
)

__all__ = ["ClusterClient", "slot_of"]

_SLOTS: Final = 16_384
#: Redirections that one request follows before it counts as failed.
_MAX_HOPS: Final = 5


def slot_of(key: bytes | str) -> int:
    """The slot of a key: of what stands in its first braces, if there is something."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % _SLOTS


class ClusterClient(RedisClient):
    """A cluster, known through any of its servers.

    Args:
        seeds: some of its servers.
        dialing: how connections are made.
        retry: tries after the quick ones.
        max_in_flight: requests in flight.
    """

    def __init__(
        self, seeds: Sequence[Endpoint], dialing: Dialing, *, retry: Retry, max_in_flight: int
    ) -> None:
        super().__init__(dialing, retry=retry, max_in_flight=max_in_flight)
        self._seeds = tuple(seeds)
        #: Who has which slot; empty before the first look.
        self._owners: list[RedisNode | None] = []
        #: Whether the map is known to be wrong.
        self._stale = True
        #: Somebody asks for it.
        self._looking: Attempt | None = None
        #: Who answered last, and so is asked first.
        self._told_by: Endpoint | None = None

    def doubt(self) -> None:
        self._stale = True

    async def masters(self) -> Sequence[Endpoint]:
        await self._look()
        return tuple({node.endpoint for node in self._owners if node is not None})

    async def _attempt(self, commands: Sequence[Command]) -> list[Any]:
        await self._look()
        replies: list[Any] = [None] * len(commands)
        #: Places of the commands to be sent, by node, and whether it must be told that it is asked
        #: for a slot that is still on its way to it.
        todo: dict[tuple[RedisNode, bool], list[int]] = {}
        for place, command in enumerate(commands):
            todo.setdefault((self._owner(command), False), []).append(place)
        for _ in range(_MAX_HOPS):
            answers = await run_all(
                self._run_at(node, asking, [commands[place] for place in places])
                for (node, asking), places in todo.items()
            )
            again: dict[tuple[RedisNode, bool], list[int]] = {}
            refused = False
            for ((node, _), places), answer in zip(todo.items(), answers, strict=True):
                for place, reply in zip(places, answer, strict=True):
                    replies[place] = reply
                    if isinstance(reply, ReplyError):
                        refused = True
                        moved = self._redirection(node, reply, commands[place])
                        if moved is not None:
                            again.setdefault(moved, []).append(place)
            if not again:
                # Most batches were sent once and were not refused.
                still = refused or any(isinstance(reply, ReplyError) for reply in replies)
                return RefusedReplies(replies) if still else replies
            todo = again
        self._stale = True
        raise unavailable(f"a Redis cluster sent us on more than {_MAX_HOPS} times")

    def _owner(self, command: Command) -> RedisNode:
        key = command[1]
        assert isinstance(key, bytes | str)
        slot = slot_of(key)
        node = self._owners[slot]
        if node is None:
            self._stale = True
            raise unavailable(f"no server of the Redis cluster has slot {slot} now")
        return node

    async def _run_at(
        self, node: RedisNode, asking: bool, commands: Sequence[Command]
    ) -> list[Any]:
        try:
            if not asking:
                return await node.run(commands)
            asked: tuple[Command, ...] = (("ASKING",),)
            both = chain.from_iterable((*asked, command) for command in commands)
            return (await node.run(tuple(both)))[1::2]
        except NativeLinkError:
            # A replica may take over.
            self._stale = True
            raise

    def _redirection(
        self, node: RedisNode, reply: ReplyError, command: Command
    ) -> tuple[RedisNode, bool] | None:
        """Where to go with a command that a node refused; None if that is its answer.

        Raises:
            NativeLinkError: UNAVAILABLE: nowhere, for the moment.
        """
        if reply.kind in TEMPORARY:
            self._stale = True
            raise as_error(reply, who=node.endpoint)
        if reply.kind not in {"MOVED", "ASK"}:
            return None
        _, _, where = reply.rest.partition(" ")
        host, _, port = where.rpartition(":")
        # Without a host, it is the one that answered.
        other = self.node(Endpoint(host or node.endpoint.host, int(port)))
        if reply.kind == "ASK":
            return other, True
        key = command[1]
        assert isinstance(key, bytes | str)
        self._owners[slot_of(key)] = other
        self._stale = True
        return other, False

    async def _look(self) -> None:
        """Learn who has which slot, if we do not know."""
        while self._stale:
            looking = self._looking
            if looking is None:
                looking = self._looking = Attempt()
                try:
                    await self._learn()
                except NativeLinkError as error:
                    looking.error = error
                    raise
                finally:
                    self._looking = None
                    looking.set()
            else:
                await looking.wait()
                if looking.error is not None:
                    raise looking.error.copy()

    async def _learn(self) -> None:
        failure: NativeLinkError | None = None
        told_by = (self._told_by,) if self._told_by is not None else ()
        for endpoint in dict.fromkeys((*told_by, *self._nodes, *self._seeds)):
            try:
                (slots,) = await self.node(endpoint).run((("CLUSTER", "SLOTS"),))
            except NativeLinkError as error:
                failure = error
                continue
            if isinstance(slots, ReplyError):
                failure = as_error(slots, who=endpoint)
                continue
            self._take(slots, endpoint)
            return
        raise failure or unavailable("no server of the Redis cluster is known")

    def _take(self, slots: Sequence[Any], told_by: Endpoint) -> None:
        """Replace the map by what CLUSTER SLOTS says."""
        owners: list[RedisNode | None] = [None] * _SLOTS
        known: set[Endpoint] = set()
        for first, last, *servers in slots:
            for server in servers:
                host, port = server[0], server[1]
                known.add(Endpoint(host.decode() if host else told_by.host, port))
            host, port = servers[0][0], servers[0][1]
            owner = self.node(Endpoint(host.decode() if host else told_by.host, port))
            owners[first : last + 1] = [owner] * (last + 1 - first)
        self._owners = owners
        self._stale = False
        self._told_by = told_by
        self._forget_others(known)
        for endpoint in known:
            # Replicas too: any of them may be who is left to ask.
            self.node(endpoint)
