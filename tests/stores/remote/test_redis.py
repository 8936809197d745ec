"""`redis_store` on one real server: bytes, commands, limits, and a server that fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.core.streams import BytesSource
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_client import StandardClient
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.testing.fakes import FakeClock, PassingTime, PiecesSource, wait_until
from tests.errors import error_of
from tests.stores.remote.redis_proxy import CuttingProxy
from tests.stores.remote.redis_server import (
    RedisServer,
    dialing,
    fresh_prefix,
    names,
    open_redis,
    shared_redis,
    standard,
)
from tests.stores.test_filesystem_golden import make

GOLDEN = Path(__file__).parents[2] / "golden" / "nativelink-v1.6.6" / "redis"
ENTRIES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text())


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return Digest(hashlib.sha256(data).hexdigest(), size), data


class Recorder:
    """Counts batches of commands, and connections that came back."""

    def __init__(self) -> None:
        self.batches = 0
        self.reconnects = 0

    def acquired(self, *, queued: bool, idle: int) -> None:
        self.batches += 1

    def reconnected(self) -> None:
        self.reconnects += 1


# Bytes


async def test_what_nativelink_wrote_is_read():
    prefix = fresh_prefix()
    with shared_redis().raw() as raw:
        for name, entry in ENTRIES.items():
            raw.set(prefix + name, (GOLDEN / entry["file"]).read_bytes())
    async with open_redis(prefix=prefix + "cas:") as store:
        for name in ENTRIES:
            key = Digest.from_string(name.removeprefix("cas:"))
            assert await store.has([key]) == [key.size_bytes]
            data = await read_bytes(store, key)
            assert DigestFunction.SHA256.digest_of(data) == key


async def test_the_same_blobs_become_the_same_keys_and_values():
    prefix = fresh_prefix()
    blobs = [make(name) for name in ("text-0", "text-1", "text-100", "noise-65536", "noise-200001")]
    async with open_redis(prefix=prefix + "cas:") as store:
        for data in blobs:
            source = PiecesSource.split(data, 70_000)
            await store.put(DigestFunction.SHA256.digest_of(data), source)
    with shared_redis().raw() as raw:
        assert names(raw, prefix) == {prefix + name for name in ENTRIES}
        for name, entry in ENTRIES.items():
            assert raw.get(prefix + name) == (GOLDEN / entry["file"]).read_bytes()
            assert raw.type(prefix + name) == entry["type"].encode()
            assert raw.ttl(prefix + name) == entry["ttl"]


def test_it_works_on_the_loop_that_the_program_runs_on():
    data = random.Random(1).randbytes(300_000)
    digest = DigestFunction.SHA256.digest_of(data)

    async def used() -> None:
        async with open_redis(read_chunk_size=65_536) as store:
            await write_bytes(store, digest, data)
            assert await store.has([digest]) == [len(data)]
            assert await read_bytes(store, digest) == data

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(used())


async def test_a_temporary_key_of_somebody_else_is_no_blob():
    key, data = blob(100)
    prefix = fresh_prefix()
    with shared_redis().raw() as raw:
        raw.set(f"temp-some-id-{{{prefix}{key}}}", data)
    async with open_redis(prefix=prefix) as store:
        assert await store.has([key]) == [None]
        assert (await error_of(read_bytes(store, key))).code is Code.NOT_FOUND


# Commands


@asynccontextmanager
async def watched() -> AsyncIterator[list[list[str]]]:
    """What the server is told meanwhile, filled in at the end."""
    seen: list[list[str]] = []
    with shared_redis().raw() as raw, raw.monitor() as monitor:
        yield seen
        raw.echo("that was all")
        while (command := monitor.next_command()["command"]) != "ECHO that was all":
            if not command.startswith(("HELLO", "CLIENT")):
                seen.append(command.split())


@pytest.mark.parametrize("ttl_s", [0, 100])
async def test_a_small_blob_is_written_as_nativelink_does_in_one_round_trip(ttl_s: int):
    key, data = DigestFunction.SHA256.digest_of(b"small"), b"small"
    prefix, recorder = f"p{ttl_s}-{os.getpid()}:", Recorder()
    client = standard(shared_redis().endpoint, dialing(recorder=recorder))
    async with open_redis(client, prefix=prefix, key_ttl_s=ttl_s, new_id=lambda: "id") as store:
        async with watched() as seen:
            await write_bytes(store, key, data)
        assert recorder.batches == 1
    final = f"{prefix}{key}"
    temp = f"temp-id-{{{final}}}"
    expire_temp, expire = (
        ([["EXPIRE", temp, "100"]], [["EXPIRE", final, "100"]]) if ttl_s else ([], [])
    )
    assert seen == [
        ["SETRANGE", temp, "0", "small"],
        *expire_temp,
        ["STRLEN", temp],
        ["RENAME", temp, final],
        *expire,
    ]


async def test_a_large_blob_is_checked_before_it_is_put_in_place():
    key, data = blob(250_000)
    data = bytes(1000) + data[1000:]
    prefix = f"large-{os.getpid()}:"
    async with open_redis(prefix=prefix, max_chunk_uploads=2, new_id=lambda: "id") as store:
        async with watched() as seen:
            await store.put(key, PiecesSource.split(data, 65_536))
        assert await read_bytes(store, key) == data
    temp = f"temp-id-{{{prefix}{key}}}"
    assert [[command[0], *command[1:3]] for command in seen] == [
        ["SETRANGE", temp, "0"],
        ["SETRANGE", temp, "65536"],
        ["STRLEN", temp],
        ["SETRANGE", temp, "131072"],
        ["SETRANGE", temp, "196608"],
        ["STRLEN", temp],
        ["GETRANGE", temp, "1000"],
        ["RENAME", temp, f"{prefix}{key}"],
    ]


async def test_a_thousand_digests_are_looked_up_in_one_round_trip():
    here = [blob(10, seed)[0] for seed in range(3)]
    recorder = Recorder()
    client = standard(shared_redis().endpoint, dialing(recorder=recorder))
    async with open_redis(client) as store:
        for seed in range(3):
            await write_bytes(store, *blob(10, seed))
        recorder.batches = 0
        asked = [*here, *(blob(20, seed)[0] for seed in range(997))]
        assert await store.has(asked) == [10, 10, 10, *[None] * 997]
        assert recorder.batches == 1


async def test_what_is_put_is_published():
    key, data = blob(10)
    prefix = fresh_prefix()
    with shared_redis().raw() as raw, raw.pubsub() as listener:
        listener.subscribe("puts")
        assert listener.get_message(timeout=60)["type"] == "subscribe"
        async with open_redis(prefix=prefix, channel="puts") as store:
            await write_bytes(store, key, data)
        assert listener.get_message(timeout=60)["data"] == f"{prefix}{key}".encode()


async def test_key_ttl_s_lets_values_expire():
    key, data = blob(10)
    prefix = fresh_prefix()
    async with open_redis(prefix=prefix, key_ttl_s=100_000) as store:
        for put in (data, data * 20_000):
            await store.put(key, PiecesSource.split(put, 65_536))
            with shared_redis().raw() as raw:
                assert 99_000 < raw.ttl(f"{prefix}{key}") <= 100_000


async def test_calls_at_the_same_moment_share_a_connection():
    recorder = Recorder()
    client = standard(shared_redis().endpoint, dialing(connections=1, recorder=recorder))
    blobs = [blob(1000, seed) for seed in range(50)]

    def connections() -> set[str]:
        with shared_redis().raw() as raw:
            return {each["id"] for each in raw.client_list() if each["name"] == "nativelink"}

    # Of others, which the server may not have missed yet.
    before = connections()
    async with open_redis(client) as store:
        async with asyncio.TaskGroup() as tasks:
            for key, data in blobs:
                tasks.create_task(write_bytes(store, key, data))
        assert len(connections() - before) == 1
        assert await store.has([key for key, _ in blobs]) == [1000] * 50


async def test_a_value_larger_than_redis_holds_is_refused_with_the_limit():
    async with open_redis() as store:
        size = 512 * 1024 * 1024 + 1
        source = BytesSource(b"")
        source.size = size
        error = await error_of(store.put(Digest("a" * 64, size), source))
    assert error.code is Code.INVALID_ARGUMENT
    assert "536870912" in error.message


# A blob with a hole


@pytest.mark.parametrize("lose_at", [1, 2, 3])
async def test_a_temporary_key_that_is_evicted_meanwhile_never_becomes_a_blob(lose_at: int):
    key, data = blob(400_000)
    prefix = fresh_prefix()

    class Losing(PiecesSource):
        pieces = 0

        async def read(self) -> Any:
            self.pieces += 1
            if self.pieces == lose_at + 1:
                # Everything so far was sent: a window is one chunk.
                with shared_redis().raw() as raw:
                    for name in names(raw, prefix):
                        raw.delete(name)
            return await super().read()

    pieces = [data[start : start + 100_000] for start in range(0, 400_000, 100_000)]
    async with open_redis(prefix=prefix, read_chunk_size=50_000, max_chunk_uploads=1) as store:
        error = await error_of(store.put(key, Losing(*pieces)))
        assert error.code is Code.UNAVAILABLE
        assert await store.has([key]) == [None]
        with shared_redis().raw() as raw:
            assert names(raw, prefix) == set()


# Removals


async def test_an_existence_cache_forgets_what_redis_removes():
    (first, data), (second, other) = blob(10, 1), blob(10, 2)
    prefix = fresh_prefix()
    async with open_redis(prefix=prefix) as store:
        cache = ExistenceCacheStore(
            store, eviction=EvictionPolicy(), clock=FakeClock(), removals=store.removals
        )
        removed: list[StoreKey | None] = []
        store.removals.on_removed(removed.append)
        await wait_until(lambda: None in removed)
        removed.clear()
        await write_bytes(cache, first, data)
        await write_bytes(cache, second, other)
        with shared_redis().raw() as raw:
            await wait_until(lambda: raw.pubsub_numsub("__keyevent@0__:evicted")[0][1] >= 1)
            raw.delete("somebody else's")
            raw.pexpire(f"{prefix}{first}", 1)
            raw.delete(f"{prefix}{second}")
        await wait_until(lambda: {first, second} <= set(removed))
        assert await cache.has([first, second]) == [None, None]
        assert set(removed) == {first, second}


async def test_a_server_that_tells_nothing_is_warned_of(caplog: pytest.LogCaptureFixture):
    with RedisServer() as server:
        async with open_redis(standard(server.endpoint)) as store:
            with caplog.at_level(logging.WARNING):
                store.removals.on_removed(lambda key: None)
                await wait_until(lambda: bool(caplog.records))
    assert "notify-keyspace-events is ''" in caplog.text


# A full server


async def test_a_full_redis_that_may_evict_is_a_cache():
    with RedisServer("--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru") as server:
        async with open_redis(standard(server.endpoint)) as store:
            blobs = [blob(50_000, seed) for seed in range(150)]
            for key, data in blobs:
                await write_bytes(store, key, data)
            sizes = await store.has([key for key, _ in blobs])
            assert sizes[-1] == 50_000
            assert sizes.count(None) > 50
            whole = 0
            for (key, data), size in zip(blobs, sizes, strict=True):
                try:
                    read = await read_bytes(store, key)
                except NativeLinkError as error:
                    # Answers take memory as well, so that more may leave for them.
                    if error.code is not Code.NOT_FOUND:
                        raise
                else:
                    assert (size, read) == (50_000, data)
                    whole += 1
            assert whole > 10


async def test_a_full_redis_that_may_not_evict_refuses_puts_and_goes_on_reading():
    with RedisServer("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        async with open_redis(standard(server.endpoint)) as store:
            kept = blob(100_000)
            await write_bytes(store, *kept)
            error = await error_of(_fill(store, blob(3_000_000)[1]))
            assert error.code is Code.RESOURCE_EXHAUSTED
            assert await read_bytes(store, kept[0]) == kept[1]


async def _fill(store: RedisStore, data: bytes) -> None:
    for seed in range(5):
        await write_bytes(store, Digest(f"{seed:064}", len(data)), data)


# A server that fails


async def test_a_server_that_is_down_is_unavailable_and_never_empty():
    key, data = blob(10)
    async with open_redis(standard(Endpoint("127.0.0.1", 1))) as store:
        for work in (store.has([key]), read_bytes(store, key), write_bytes(store, key, data)):
            error = await error_of(work)
            assert error.code is Code.UNAVAILABLE
            assert "Redis at 127.0.0.1:1 cannot be reached" in error.message
        assert (await error_of(store.check())).code is Code.UNAVAILABLE


@pytest.mark.slow
async def test_no_call_waits_for_ever_for_a_server_that_hangs():
    key, data = blob(10)
    with RedisServer() as server:
        async with open_redis(standard(server.endpoint)) as store:
            await write_bytes(store, key, data)
            time = PassingTime()
            server.process.send_signal(signal.SIGSTOP)
            try:
                for work in (
                    store.has([key]),
                    read_bytes(store, key),
                    write_bytes(store, key, data),
                ):
                    error = await time.outlast(error_of(work))
                    assert error.code is Code.UNAVAILABLE
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert await read_bytes(store, key) == data
            await store.check()


async def test_a_server_that_comes_back_within_the_tries_is_not_noticed():
    key, data = blob(10)
    recorder = Recorder()
    with RedisServer() as server:
        again = asyncio.Event()

        async def pause(_seconds: float) -> None:
            await again.wait()
            await asyncio.to_thread(server.wait_ready)

        client = StandardClient(
            server.endpoint,
            dialing(recorder=recorder),
            retry=Retry(5, 0.1, sleep=pause),
            max_in_flight=500,
        )
        async with open_redis(client) as store:
            await write_bytes(store, key, data)
            server.kill()
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(write_bytes(store, key, data))
                await asyncio.sleep(0)
                server.start(ready=False)
                again.set()
            assert writing.result() == 10
            assert await read_bytes(store, key) == data
    assert recorder.reconnects == 1


async def test_user_password_and_database_are_used():
    key, data = blob(10)
    acl = ("--user", "default", "off", *["--user", "farm", "on", ">secret", "~*", "&*", "+@all"])
    with RedisServer(*acl) as server:
        how = dialing(Login("farm", "secret", 3))
        async with open_redis(standard(server.endpoint, how), prefix="") as store:
            await write_bytes(store, key, data)
            assert await read_bytes(store, key) == data
        with server.raw(username="farm", password="secret", db=3) as raw:
            assert raw.keys() == [str(key).encode()]
        for login in (Login(), Login("farm", "wrong")):
            async with open_redis(standard(server.endpoint, dialing(login))) as store:
                error = await error_of(store.has([key]))
                assert error.code is Code.PERMISSION_DENIED
                assert "secret" not in error.message
                assert "wrong" not in error.message


async def test_a_user_who_may_not_write_is_refused():
    key, data = blob(10)
    acl = ["--user", "default", "on", "nopass", "~*", "&*", "+@read", "+@connection"]
    with RedisServer(*acl) as server:
        async with open_redis(standard(server.endpoint)) as store:
            assert (await error_of(write_bytes(store, key, data))).code is Code.PERMISSION_DENIED
            assert await store.has([key]) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_connections_that_break_anywhere_lose_and_invent_nothing(seed: int):
    chance = random.Random(seed)
    blobs = [blob(size, size) for size in (1, 1000, 70_000, 300_000)]
    done = 0
    codes: set[Code] = set()
    acknowledged: set[Digest] = set()
    async with CuttingProxy(shared_redis().endpoint, seed=seed) as proxy:
        client = standard(proxy.endpoint, dialing(connections=2))
        async with open_redis(client, read_chunk_size=20_000, max_chunk_uploads=3) as store:

            async def step() -> None:
                nonlocal codes, done
                key, data = chance.choice(blobs)
                was_there = key in acknowledged
                try:
                    if chance.random() < 0.4:
                        assert await store.put(key, PiecesSource.split(data, 9_000)) == len(data)
                        acknowledged.add(key)
                    elif chance.random() < 0.5:
                        (size,) = await store.has([key])
                        assert size == len(data) or (size is None and not was_there)
                    else:
                        assert await read_bytes(store, key) == data
                    done += 1
                except NativeLinkError as error:
                    expected = (
                        {Code.UNAVAILABLE} if was_there else {Code.UNAVAILABLE, Code.NOT_FOUND}
                    )
                    codes |= {error.code} - expected

            async def steps() -> None:
                for _ in range(25):
                    await step()

            async with asyncio.timeout(300), asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(steps())
    assert proxy.cuts > 20
    assert codes == set()
    assert done > 50
