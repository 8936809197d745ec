"""Sentinels that disagree, played: each is a server that says what the test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.stores.remote.redis_address import Login
from nativelink.stores.remote.redis_node import Dialing
from nativelink.stores.remote.redis_sentinel import SentinelClient
from tests.stores.remote.redis_played import PlayedRedis, started

MASTER = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
REPLICA = b"*5\r\n$5\r\nslave\r\n$1\r\nx\r\n:1\r\n$9\r\nconnected\r\n:0\r\n"


def names(server: PlayedRedis) -> Callable[[], bytes]:
    """What a sentinel says that takes a server for the master."""

    def answer() -> bytes:
        host, port = server.endpoint.host.encode(), str(server.endpoint.port).encode()
        return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(host), host, len(port), port)

    return answer


@asynccontextmanager
async def asking(*sentinels: PlayedRedis) -> AsyncIterator[SentinelClient]:
    dialing = Dialing(
        Login(), connect_timeout_s=5, command_timeout_s=5, connections=1, recorder=None
    )
    client = SentinelClient(
        [each.endpoint for each in sentinels],
        dialing,
        sentinel_login=Login(),
        service="master",
        retry=Retry(),
        max_in_flight=0,
    )
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("role", [REPLICA, b"-ERR no such role\r\n"])
async def test_a_sentinel_that_goes_on_naming_the_old_master_does_not_have_the_last_word(
    role: bytes,
) -> None:
    old, new = PlayedRedis(ROLE=role), PlayedRedis(ROLE=MASTER, PING=b"+PONG\r\n")
    stale, other = PlayedRedis(SENTINEL=names(old)), PlayedRedis(SENTINEL=names(old))
    right = PlayedRedis(SENTINEL=names(new))
    async with started(old, new, stale, other, right), asking(stale, other, right) as client:
        assert await client.masters() == (new.endpoint,)
        assert await client.run([("PING",)]) == [b"PONG"]
        # Whoever calls himself no master is asked once, however many name him.
        assert old.heard["ROLE"] == 1
        client.doubt()
        await client.masters()
        # Who was right is asked first.
        assert (stale.heard["SENTINEL"], right.heard["SENTINEL"]) == (1, 2)


async def test_a_sentinel_that_names_a_server_that_is_gone_is_passed_over() -> None:
    old, new = PlayedRedis(), PlayedRedis(ROLE=MASTER)
    stale, right = PlayedRedis(SENTINEL=names(old)), PlayedRedis(SENTINEL=names(new))
    async with started(old, new, stale, right), asking(stale, right) as client:
        await old.stop()
        assert await client.masters() == (new.endpoint,)


async def test_those_who_need_the_master_at_once_ask_for_it_once() -> None:
    master = PlayedRedis(ROLE=MASTER, PING=b"+PONG\r\n")
    sentinel = PlayedRedis(SENTINEL=names(master))
    async with started(master, sentinel), asking(sentinel) as client:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(client.run([("PING",)]))
        assert (sentinel.heard["HELLO"], sentinel.heard["SENTINEL"]) == (1, 1)
        assert (master.heard["ROLE"], master.heard["PING"]) == (1, 50)


async def test_who_asks_may_go_away_and_the_next_one_asks() -> None:
    master = PlayedRedis(ROLE=MASTER)
    sentinel = PlayedRedis(SENTINEL=names(master))
    async with started(master, sentinel), asking(sentinel) as client:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.masters())
            await asyncio.sleep(0)
            second = tasks.create_task(client.masters())
            await asyncio.sleep(0)
            first.cancel()
        assert second.result() == (master.endpoint,)


async def test_sentinels_that_all_name_no_master_are_unavailable() -> None:
    old = PlayedRedis(ROLE=REPLICA)
    stale = PlayedRedis(SENTINEL=names(old))
    async with started(old, stale), asking(stale) as client:
        with pytest.raises(NativeLinkError, match="no master yet") as raised:
            await client.masters()
        assert raised.value.code is Code.UNAVAILABLE
