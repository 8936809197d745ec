"""Clusters that are resharded and lose a master, and sentinels whose master dies, under load."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.remote.redis_cluster import ClusterClient, slot_of
from nativelink.stores.remote.redis_replies import ReplyError
from nativelink.stores.store import read_bytes
from nativelink.testing.fakes import PiecesSource
from tests.stores.remote.redis_cluster import RedisCluster, WatchedRedis
from tests.stores.remote.redis_server import open_redis

#: Seconds within which servers have found a new master.
_TAKE_OVER_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    made = RedisCluster()
    yield made
    made.close()


class Load:
    """Puts and reads without end; knows what was acknowledged, and what went wrong."""

    def __init__(self, store: RedisStore, *, seed: int = 0) -> None:
        self._store = store
        self._chance = random.Random(seed)
        self.acknowledged: dict[Digest, bytes] = {}
        self.codes: dict[Code, int] = {}
        self.slowest_s = 0.0
        self.calls = 0

    async def run(self) -> None:
        while True:
            data = self._chance.randbytes(self._chance.choice((10, 5_000, 100_000)))
            key = Digest(hashlib.sha256(data).hexdigest(), len(data))
            if await self._try(self._store.put(key, PiecesSource.split(data, 30_000))):
                self.acknowledged[key] = data
            old = self._chance.choice(list(self.acknowledged) or [key])
            await self._try(self._read(old))
            await self._try(self._store.has(list(self.acknowledged)[-100:]))

    async def _read(self, key: Digest) -> None:
        data = await read_bytes(self._store, key)
        assert data == self.acknowledged[key], "not the blob that was put"

    async def _try(self, call: Awaitable[object]) -> bool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.calls += 1
        try:
            await call
        except NativeLinkError as error:
            self.codes[error.code] = self.codes.get(error.code, 0) + 1
            return False
        finally:
            self.slowest_s = max(self.slowest_s, loop.time() - began)
        return True

    async def succeeds_again(self) -> None:
        """Return when many calls in a row went well."""
        async with asyncio.timeout(_TAKE_OVER_S):
            while not await self._goes_well(100):
                pass

    async def _goes_well(self, count: int) -> bool:
        """Whether the next `count` calls succeed."""
        failed, calls = sum(self.codes.values()), self.calls
        await holds(lambda: self.calls >= calls + count or sum(self.codes.values()) > failed)
        return sum(self.codes.values()) == failed


@asynccontextmanager
async def loaded(store: RedisStore) -> AsyncIterator[Load]:
    load = Load(store)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(load.run()) for _ in range(6)]
        await load.succeeds_again()
        try:
            yield load
        finally:
            for task in running:
                task.cancel()


async def lost(load: Load, store: RedisStore) -> set[Digest]:
    """Acknowledged blobs that are gone; all others are whole."""
    keys = list(load.acknowledged)
    sizes = await store.has(keys)
    here = {key for key, size in zip(keys, sizes, strict=True) if size is not None}
    for key in here:
        assert await read_bytes(store, key) == load.acknowledged[key]
    return load.acknowledged.keys() - here


async def holds(condition: Callable[[], bool]) -> None:
    """Return when servers, or the load, have come as far."""
    async with asyncio.timeout(_TAKE_OVER_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def off_loop(work: Callable[..., object], *arguments: object) -> None:
    await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def test_slots_are_those_of_the_specification():
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"temp-x-{cas:abc}") == slot_of(b"cas:abc")
    assert slot_of(b"{user1000}.following") == slot_of("{user1000}.followers")
    assert slot_of(b"foo{}{bar}") == slot_of(b"foo{}{bar}"[:]) != slot_of(b"bar")
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")


@pytest.mark.slow
@pytest.mark.xdist_group("redis cluster")
async def test_resharding_under_load_is_not_noticed(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
):
    redirected: set[str] = set()
    redirection = ClusterClient._redirection

    def noted(self: ClusterClient, node: Any, reply: ReplyError, command: Any) -> Any:
        redirected.add(reply.kind)
        return redirection(self, node, reply, command)

    monkeypatch.setattr(ClusterClient, "_redirection", noted)
    async with open_redis(cluster.client(retries=3), prefix="moved:") as store:
        with cluster.patient():
            async with loaded(store) as load:
                (_, first), (_, second), *_ = sorted(cluster.masters().items())
                port = str(next(iter(cluster.masters())))
                await off_loop(
                    cluster.cli,
                    *("--cluster", "reshard", f"127.0.0.1:{port}", "--cluster-yes"),
                    *("--cluster-from", first, "--cluster-to", second, "--cluster-slots", "1500"),
                )
                await load.succeeds_again()
                # What the load may have missed, on a machine that lets it do little.
                ports = {name: port for port, name in cluster.masters().items()}
                slots = cluster.slots(ports[second])
                places = {key: slot_of(f"moved:{key}") for key in load.acknowledged}
                key = next(key for key, slot in places.items() if slot in slots)
                with cluster.moving(places[key], ports[second], ports[first]):
                    assert await read_bytes(store, key) == load.acknowledged[key]
                await load.succeeds_again()
        assert load.codes == {}
        assert redirected >= {"MOVED", "ASK"}
        assert await lost(load, store) == set()
        assert len(load.acknowledged) > 100


@pytest.mark.slow
@pytest.mark.xdist_group("redis cluster")
async def test_a_failover_that_is_asked_for_loses_nothing(cluster: RedisCluster):
    async with open_redis(cluster.client(retries=3)) as store:
        with cluster.patient():
            async with loaded(store) as load:
                replica = next(
                    int(fields[1].partition("@")[0].rpartition(":")[2])
                    for fields in cluster.nodes()
                    if "slave" in fields[2]
                )
                await off_loop(cluster.cli, "-p", str(replica), "cluster", "failover")
                await holds(lambda: replica in cluster.masters())
                await load.succeeds_again()
        assert load.codes.keys() <= {Code.UNAVAILABLE}
        assert await lost(load, store) == set()


@pytest.mark.slow
@pytest.mark.xdist_group("redis cluster")
async def test_a_killed_master_costs_seconds_and_what_redis_itself_lost(cluster: RedisCluster):
    async with open_redis(cluster.client(command_timeout_s=2), prefix="killed:") as store:
        async with loaded(store) as load:
            victim = next(iter(cluster.masters()))
            slots = cluster.slots(victim)
            before = set(load.acknowledged)
            await off_loop(cluster.wait_for_replica, victim)
            cluster.servers[victim].kill()
            await holds(lambda: len(cluster.masters()) == 3 and victim not in cluster.masters())
            replaced = set(load.acknowledged)
            await load.succeeds_again()
        assert load.codes.keys() <= {Code.UNAVAILABLE, Code.NOT_FOUND}
        # Replication is asynchronous: what the dead master alone had is gone, and nothing else.
        gone = await lost(load, store)
        assert gone <= replaced - before
        assert {slot_of(f"killed:{key}") for key in gone} <= slots
        assert load.slowest_s < _TAKE_OVER_S


@pytest.mark.slow
@pytest.mark.xdist_group("redis cluster")
async def test_health_finds_the_new_master_without_any_traffic():
    watched = WatchedRedis()
    try:
        async with open_redis(watched.client()) as store:
            await store.check()
            watched.master.kill()
            outcomes: list[Code | None] = []

            async def well() -> bool:
                try:
                    await store.check()
                    outcomes.append(None)
                except NativeLinkError as error:
                    outcomes.append(error.code)
                    await asyncio.sleep(0.05)
                return outcomes[-1] is None

            async with asyncio.timeout(_TAKE_OVER_S):
                while not await well():
                    pass
            assert set(outcomes) == {Code.UNAVAILABLE, None}
    finally:
        watched.close()


@pytest.mark.slow
@pytest.mark.xdist_group("redis cluster")
async def test_sentinels_name_a_new_master_when_the_old_one_is_killed():
    watched = WatchedRedis()
    try:
        async with open_redis(watched.client()) as store:
            async with loaded(store) as load:
                before = set(load.acknowledged)
                await off_loop(watched.master.wait_for_replica, "settled")
                watched.master.kill()
                await load.succeeds_again()
                assert await store.removals._client.masters() == (watched.replica.endpoint,)
                replaced = set(load.acknowledged)
                await load.succeeds_again()
            assert load.codes.keys() <= {Code.UNAVAILABLE, Code.NOT_FOUND}
            assert Code.UNAVAILABLE in load.codes
            assert await lost(load, store) <= replaced - before
            assert load.slowest_s < _TAKE_OVER_S
    finally:
        watched.close()
