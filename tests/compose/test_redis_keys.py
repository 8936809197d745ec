"""What keys of a Redis store do, seen from outside of it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nativelink.compose.environment import Environment
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.remote.redis_node import RedisNode
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import PassingTime
from tests.compose.making import made
from tests.stores.remote.redis_server import RedisServer, shared_redis

pytestmark = pytest.mark.slow

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


@asynccontextmanager
async def opened(environment: Environment, port: int, **keys: Any) -> AsyncIterator[Any]:
    """A store of these keys, closed while its server is still there."""
    address = f"redis://127.0.0.1:{port}"
    yield await made(environment, redis_store={"addresses": [address], **keys})
    await environment.lifetimes.aclose()


async def test_redis_times_out_as_the_keys_say(environment: Environment):
    with RedisServer() as server:
        async with opened(
            environment,
            server.port,
            command_timeout_ms=20_000,
            connection_timeout_ms=10_000,
            health_check_timeout_ms=5_000,
            retry={"max_retries": 1, "delay": 0.01},
        ) as store:
            await write_bytes(store, DIGEST, BLOB)
            time = PassingTime()
            server.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(NativeLinkError, match=r"no answer for 5 s"):
                    await time.outlast(store.check())
                with pytest.raises(NativeLinkError, match=r" [12]0 s") as caught:
                    await time.outlast(store.has([DIGEST]))
                assert caught.value.code is Code.UNAVAILABLE
            finally:
                server.process.send_signal(signal.SIGCONT)


async def test_redis_waits_for_a_connection_as_long_as_the_key_says(environment: Environment):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with opened(
            environment,
            deaf.getsockname()[1],
            connection_timeout_ms=100,
            retry={"max_retries": 1, "delay": 0.01},
        ) as store:
            with pytest.raises(NativeLinkError, match=r"wait for a connection for 0\.1 s"):
                await store.has([DIGEST])


async def test_redis_is_read_and_written_in_chunks_of_the_size(environment: Environment):
    with RedisServer() as server:
        async with opened(
            environment, server.port, read_chunk_size=10_000, max_chunk_uploads_per_update=2
        ) as store:
            data = bytes(range(250)) * 200
            digest = DigestFunction.SHA256.digest_of(data)
            await write_bytes(store, digest, data)
            assert await read_bytes(store, digest) == data
            with server.raw() as raw:
                calls = {
                    name.removeprefix("cmdstat_"): figures["calls"]
                    for name, figures in raw.info("commandstats").items()
                }
            assert calls["setrange"] == 5
            # Whole, perhaps asked for beyond its end, and looked at once before it is put in place.
            assert calls["getrange"] >= 5 + 1


@pytest.mark.parametrize("count", [1, 2])
async def test_redis_has_so_many_connections_for_so_many_commands(
    environment: Environment, count: int
):
    with RedisServer() as server:
        async with opened(
            environment,
            server.port,
            connection_pool_size=count,
            max_client_permits=40,
            command_timeout_ms=60_000,
        ) as store:
            await write_bytes(store, DIGEST, BLOB)
            with server.raw() as raw:
                # Nobody is answered: commands gather.
                raw.client_pause(500, all=True)
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(100):
                        tasks.create_task(store.has([DIGEST]))
                    await asyncio.sleep(0)
                clients = [each for each in raw.client_list() if each["name"] == "nativelink"]
            assert len(clients) == count


@pytest.mark.parametrize("permits", [1, 3])
async def test_redis_is_asked_no_more_at_once_than_the_key_permits(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, permits: int
):
    asking = most = 0
    real = RedisNode.run_packed

    async def counted(self: RedisNode, packed: Any, count: int) -> list[Any]:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            return await real(self, packed, count)
        finally:
            asking -= 1

    monkeypatch.setattr(RedisNode, "run_packed", counted)
    async with opened(environment, shared_redis().port, max_client_permits=permits) as store:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(store.has([DIGEST]))
        assert most == permits
