"""Redis behind sentinels: they say which server is the master."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.retry import Retry
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_client import RedisClient, temporary_trouble
from nativelink.stores.remote.redis_connection import Command, dial
from nativelink.stores.remote.redis_node import Attempt, Dialing, RedisNode

__all__ = ["SentinelClient"]


class SentinelClient(RedisClient):
    """The master that sentinels name; they are asked again whenever it fails.

    A sentinel may be cut off together with an old master, which it goes on naming. So what one
    says counts only if that server can be reached and calls itself the master; else the next one
    is asked ("Guidelines for Redis clients with support for Redis Sentinel").

    Args:
        sentinels: asked in turn, the one that was right last first.
        sentinel_login: for them.
        service: the master's name among them.
        dialing: how connections to the master are made.
        retry: tries after the quick ones.
        max_in_flight: requests in flight.
    """

    def __init__(
        self,
        sentinels: Sequence[Endpoint],
        dialing: Dialing,
        *,
        sentinel_login: Login,
        service: str,
        retry: Retry,
        max_in_flight: int,
    ) -> None:
        super().__init__(dialing, retry=retry, max_in_flight=max_in_flight)
        self._sentinels = list(sentinels)
        self._sentinel_login = sentinel_login
        self._service = service
        self._master: RedisNode | None = None
        #: Somebody asks them.
        self._finding: Attempt | None = None

    def doubt(self) -> None:
        self._master = None

    async def masters(self) -> Sequence[Endpoint]:
        master = self._master or await self._find()
        return (master.endpoint,)

    async def _attempt(self, commands: Sequence[Command]) -> list[Any]:
        master = self._master or await self._find()
        try:
            replies = await master.run(commands)
            trouble = temporary_trouble(replies, master.endpoint)
            if trouble is not None:
                raise trouble
        except NativeLinkError as error:
            if error.code is Code.UNAVAILABLE and self._master is master:
                self._master = None
            raise
        return replies

    async def _find(self) -> RedisNode:
        """The master, found once for all who need it now."""
        while True:
            if self._master is not None:
                return self._master
            finding = self._finding
            if finding is not None:
                await finding.wait()
                if finding.error is not None:
                    raise finding.error.copy()
                continue
            finding = self._finding = Attempt()
            try:
                self._master = await self._ask_around()
            except NativeLinkError as error:
                finding.error = error
                raise
            finally:
                self._finding = None
                finding.set()

    async def _ask_around(self) -> RedisNode:
        """Ask the sentinels for the master, and the master whether it is one."""
        failure: NativeLinkError | None = None
        refuted: set[Endpoint] = set()
        for sentinel in tuple(self._sentinels):
            try:
                endpoint = await self._ask(sentinel)
            except NativeLinkError as error:
                failure = error
                continue
            if endpoint in refuted:
                continue
            try:
                await self._require_master(endpoint)
            except NativeLinkError as error:
                failure = error
                refuted.add(endpoint)
                continue
            # Who is right is asked first next time.
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            self._forget_others({endpoint})
            return self.node(endpoint)
        raise failure or unavailable("there are no sentinels")

    async def _require_master(self, endpoint: Endpoint) -> None:
        """Return if a server is a master.

        For a while after a failover, sentinels may name the old one, back as a replica.
        """
        (role,) = await self.node(endpoint).run((("ROLE",),))
        if not isinstance(role, list) or role[0] != b"master":
            raise unavailable(f"Redis at {endpoint} is no master yet")

    async def _ask(self, sentinel: Endpoint) -> Endpoint:
        connection = await dial(
            sentinel,
            self._sentinel_login,
            connect_timeout_s=self.dialing.connect_timeout_s,
            timeout_s=self.dialing.command_timeout_s,
        )
        try:
            found = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            connection.close()
        if found is None:
            raise unavailable(f"the sentinel at {sentinel} knows no master {self._service!r}")
        host, port = found
        return Endpoint(host.decode(), int(port))
