"""What is missed while nobody listens to Redis is made good for."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.retry import Retry
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.remote import redis_removals
from nativelink.stores.remote.redis_address import Login
from nativelink.stores.remote.redis_client import StandardClient
from nativelink.stores.remote.redis_node import Dialing
from nativelink.stores.remote.redis_removals import Removals
from nativelink.stores.store import write_bytes
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from tests.stores.remote.redis_played import PlayedRedis, started
from tests.stores.remote.redis_server import RedisServer, open_redis, standard

FLAGS = b"%1\r\n$22\r\nnotify-keyspace-events\r\n$4\r\nExeg\r\n"
KEY = DigestFunction.SHA256.digest_of(b"x")


@pytest.mark.parametrize(
    ("tracking", "said"), [(b"+OK\r\n", 0), (b"-ERR unknown subcommand\r\n", 1)]
)
async def test_what_may_have_left_while_nobody_listened_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tracking: bytes, said: int
) -> None:
    monkeypatch.setattr(redis_removals, "_PAUSE_S", 0)
    server = PlayedRedis(CONFIG=FLAGS, SUBSCRIBE=b"", CLIENT=tracking, PING=b"+PONG\r\n")
    dialing = Dialing(
        Login(), connect_timeout_s=5, command_timeout_s=5, connections=1, recorder=None
    )
    async with started(server):
        client = StandardClient(server.endpoint, dialing, retry=Retry(), max_in_flight=0)
        async with Removals(client, key_prefix="") as removals:
            blobs = DictStore()
            cache = ExistenceCacheStore(
                blobs, eviction=EvictionPolicy(), clock=FakeClock(), removals=removals
            )
            told: list[StoreKey | None] = []
            removals.on_removed(told.append)
            async with asyncio.timeout(60):
                await wait_until(lambda: told == [None])
            blobs.blobs[KEY] = b"x"
            assert await cache.has([KEY]) == [1]
            # Redis evicts it while the connection is down, and tells nobody.
            server.drop()
            del blobs.blobs[KEY]
            assert await cache.has([KEY]) == [1]
            async with asyncio.timeout(60):
                await wait_until(lambda: told == [None, None])
            assert server.heard["SUBSCRIBE"] == 2
            assert await cache.has([KEY]) == [None]
        refusals = [each for each in caplog.messages if "FLUSHALL" in each]
        assert len(refusals) == said, "it is said once, not at each connection"
        assert all("unknown subcommand" in each for each in refusals)
        client.close()


async def test_nothing_is_promised_before_the_subscription_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_removals, "_PAUSE_S", 0)
    order: list[str] = []

    def heard(word: str, answer: bytes) -> bytes:
        order.append(word)
        return answer

    server = PlayedRedis(
        CONFIG=FLAGS,
        CLIENT=b"+OK\r\n",
        SUBSCRIBE=lambda: heard("SUBSCRIBE", b""),
        PING=lambda: heard("PING", b"+PONG\r\n"),
    )
    dialing = Dialing(
        Login(), connect_timeout_s=5, command_timeout_s=5, connections=1, recorder=None
    )
    async with started(server):
        client = StandardClient(server.endpoint, dialing, retry=Retry(), max_in_flight=0)
        async with Removals(client, key_prefix="") as removals:
            removals.on_removed(lambda _: order.append("told"))
            async with asyncio.timeout(60):
                await wait_until(lambda: "told" in order)
        client.close()
    assert order == ["SUBSCRIBE", "PING", "told"]


@pytest.mark.parametrize("keys", [b"_\r\n", b"*1\r\n$1\r\n\0\r\n"], ids=["6.2", "6.0"])
async def test_that_it_was_emptied_is_understood_of_every_redis_that_tells(keys: bytes) -> None:
    pong = b"+PONG\r\n>2\r\n$10\r\ninvalidate\r\n" + keys
    server = PlayedRedis(CONFIG=FLAGS, SUBSCRIBE=b"", CLIENT=b"+OK\r\n", PING=pong)
    dialing = Dialing(
        Login(), connect_timeout_s=5, command_timeout_s=5, connections=1, recorder=None
    )
    async with started(server):
        client = StandardClient(server.endpoint, dialing, retry=Retry(), max_in_flight=0)
        async with Removals(client, key_prefix="") as removals:
            told: list[StoreKey | None] = []
            removals.on_removed(told.append)
            async with asyncio.timeout(60):
                await wait_until(lambda: len(told) >= 2)
            assert not any(told)
        client.close()


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
async def test_a_redis_that_is_emptied_is_forgotten_whole(command: str) -> None:
    with RedisServer("--notify-keyspace-events", "Exeg") as server:
        async with open_redis(standard(server.endpoint)) as store:
            cache = ExistenceCacheStore(
                store, eviction=EvictionPolicy(), clock=FakeClock(), removals=store.removals
            )
            told: list[StoreKey | None] = []
            store.removals.on_removed(told.append)
            await wait_until(lambda: told == [None])
            await write_bytes(cache, KEY, b"x")
            assert await cache.has([KEY]) == [1]
            with server.raw() as raw:
                raw.execute_command(command)
            await wait_until(lambda: told.count(None) > 1)
            assert await cache.has([KEY]) == [None]
