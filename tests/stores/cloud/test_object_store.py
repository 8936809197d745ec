"""What a bucket's store does beyond the contract, against moto and through faults."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.retry import Retry
from nativelink.core.streams import BytesSource
from nativelink.stores.cloud.aws import S3Address, StaticCredentials, s3_bucket
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.store import has_one, read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate, injected
from tests.stores.cloud.proxy import Choose, Fault, FaultProxy, faults_between
from tests.stores.cloud.servers import (
    BUCKET,
    CLIENT,
    KEY,
    REGION,
    SECRET,
    Moto,
    Versity,
    fresh_prefix,
    shared,
)

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


def blob(size: int) -> tuple[Digest, bytes]:
    data = random.Random(size).randbytes(size)
    return Digest(hashlib.sha256(data).hexdigest(), size), data


def opened(
    *, port: int | None = None, retry: Retry | None = None, prefix: str = "", **settings: Any
) -> CloudObjectStore:
    bucket = shared(Moto).bucket(port=port, retry=retry or Retry(5, 0.001))
    settings.setdefault("clock", FakeClock())
    return CloudObjectStore(bucket, keys=Keys(prefix or fresh_prefix()), **settings)


@asynccontextmanager
async def behind(
    choose: Choose, **settings: Any
) -> AsyncIterator[tuple[FaultProxy, CloudObjectStore]]:
    async with faults_between(shared(Moto).port, choose) as proxy:
        yield proxy, opened(port=proxy.port, **settings)


def healthy(method: str, target: str) -> Fault:
    return Fault.NONE


@contextmanager
def raises(code: Code) -> Iterator[pytest.ExceptionInfo[NativeLinkError]]:
    with pytest.raises(NativeLinkError) as caught:
        yield caught
    assert caught.value.code is code, caught.value


# Uploads in parts


async def test_a_blob_below_5_mib_is_one_request_and_a_larger_one_goes_in_parts():
    small, large = blob(5 * MIB - 1), blob(12 * MIB)
    async with behind(healthy) as (proxy, store):
        await store.put(small[0], PiecesSource.split(small[1], MIB))
        assert [method for method, _ in proxy.requests] == ["PUT"]
        proxy.requests.clear()
        await store.put(large[0], PiecesSource.split(large[1], MIB))
        parts = [target for method, target in proxy.requests if "partNumber" in target]
        assert len(parts) == 3
        assert await read_bytes(store, large[0]) == large[1]


@pytest.mark.parametrize("fail_at", [5 * MIB, 9 * MIB, 12 * MIB])
async def test_a_failing_source_leaves_no_upload_unfinished(fail_at: int):
    key, data = blob(12 * MIB)
    store = opened()
    error = injected()
    with pytest.raises(NativeLinkError) as caught:
        await store.put(
            key, FaultySource(PiecesSource.split(data, MIB), fail_at=fail_at, error=error)
        )
    assert caught.value is error
    assert shared(Moto).unfinished() == set()
    assert await has_one(store, key) is None


@pytest.mark.parametrize("gate_at", [5 * MIB, 11 * MIB, 12 * MIB])
async def test_a_cancelled_upload_leaves_nothing_unfinished(gate_at: int):
    key, data = blob(12 * MIB)
    store = opened()
    gate = Gate()
    source = FaultySource(PiecesSource.split(data, MIB), gate=gate, gate_at=gate_at)
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(store.put(key, source))
        await wait_until(lambda: gate.waiting == 1)
        putting.cancel()
    assert putting.cancelled()
    assert shared(Moto).unfinished() == set()
    assert await has_one(store, key) is None


async def test_an_upload_whose_part_cannot_be_sent_is_aborted():
    key, data = blob(30 * MIB)

    def choose(method: str, target: str) -> Fault:
        return Fault.ERROR if "partNumber=3" in target else Fault.NONE

    async with behind(choose, retry=Retry(), max_concurrent_parts=1) as (_, store):
        with raises(Code.UNAVAILABLE):
            await store.put(key, PiecesSource.split(data, MIB))
    assert shared(Moto).unfinished() == set()


async def test_parts_that_fail_are_sent_again():
    key, data = blob(12 * MIB)
    turns = count()

    def choose(method: str, target: str) -> Fault:
        if "partNumber" not in target:
            return Fault.NONE
        return (Fault.SLOW_DOWN, Fault.RESET, Fault.NONE)[next(turns) % 3]

    async with behind(choose, retry=Retry(9, 0.001)) as (proxy, store):
        assert await store.put(key, PiecesSource.split(data, MIB)) == len(data)
        assert proxy.happened[Fault.SLOW_DOWN]
        assert await read_bytes(store, key) == data


# Reads


async def test_a_large_read_is_made_of_ranges_in_their_order():
    key, data = blob(23 * MIB)
    async with behind(healthy) as (proxy, store):
        await store.put(key, BytesSource(data))
        proxy.requests.clear()
        assert await read_bytes(store, key) == data
        assert len(proxy.requests) == 12
        assert (
            await read_bytes(store, key, offset=3 * MIB + 1, limit=7 * MIB)
            == (data[3 * MIB + 1 : 10 * MIB + 1])
        )


async def test_a_read_that_breaks_goes_on_where_it_was():
    key, data = blob(9 * MIB)
    turns = count()

    def choose(method: str, target: str) -> Fault:
        return Fault.HALF if method == "GET" and next(turns) % 2 else Fault.NONE

    async with behind(choose) as (proxy, store):
        await store.put(key, BytesSource(data))
        proxy.requests.clear()
        assert await read_bytes(store, key) == data
        broken = proxy.happened[Fault.HALF]
        assert broken
        # Five pieces, and again those that broke, and nothing else.
        assert len(proxy.requests) == 5 + broken


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.SLOW_DOWN, Fault.RESET])
async def test_what_the_provider_cannot_do_now_is_unavailable_and_never_not_found(fault: Fault):
    key, data = blob(1000)
    async with behind(healthy, retry=Retry()) as (proxy, store):
        await store.put(key, BytesSource(data))
        proxy.choose = lambda method, target: fault
        with raises(Code.UNAVAILABLE):
            await store.has([key])
        with raises(Code.UNAVAILABLE):
            await read_bytes(store, key)
        with raises(Code.UNAVAILABLE):
            await store.put(key, BytesSource(data))


async def test_pauses_between_tries_double_and_spread():
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    retry = Retry(4, 0.3, 0.5, random=lambda: 1.0, sleep=sleep)
    async with behind(lambda method, target: Fault.SLOW_DOWN, retry=retry) as (proxy, store):
        with raises(Code.UNAVAILABLE):
            await store.has([blob(1)[0]])
    assert pauses == pytest.approx([0.75, 1.5, 3.0, 6.0])
    assert len(proxy.requests) == 5


async def test_a_body_above_the_retry_buffer_is_sent_only_once():
    key, data = blob(2 * MIB)
    async with faults_between(shared(Moto).port, lambda *_: Fault.SLOW_DOWN) as proxy:
        bucket = shared(Moto).bucket(
            port=proxy.port, retry=Retry(5, 0.001), max_retry_buffer_bytes=MIB
        )
        store = CloudObjectStore(bucket, keys=Keys(), clock=FakeClock())
        with raises(Code.UNAVAILABLE):
            await store.put(key, BytesSource(data))
        assert len(proxy.requests) == 1


# Start-up


async def test_a_bucket_that_works_is_found_to():
    await opened().check()


async def test_a_bucket_that_is_not_there_is_no_miss():
    address = S3Address("no-such-bucket", REGION, f"http://127.0.0.1:{shared(Moto).port}")
    bucket = s3_bucket(
        address, credentials=StaticCredentials(KEY, SECRET), client=CLIENT, retry=Retry()
    )
    store = CloudObjectStore(bucket, keys=Keys(), clock=FakeClock())
    with raises(Code.FAILED_PRECONDITION) as caught:
        await store.check()
    assert "no-such-bucket" in caught.value.message or "127.0.0.1" in caught.value.message
    with raises(Code.FAILED_PRECONDITION):
        await write_bytes(store, "key", b"value")
    with raises(Code.FAILED_PRECONDITION):
        await read_bytes(store, "key")


async def test_a_wrong_key_and_a_wrong_region_are_told_at_once():
    at = f"http://127.0.0.1:{shared(Versity).port}"
    for address, secret in (
        (S3Address(BUCKET, REGION, at), "wrong"),
        (S3Address(BUCKET, "us-west-1", at), SECRET),
    ):
        bucket = s3_bucket(
            address, credentials=StaticCredentials(KEY, secret), client=CLIENT, retry=Retry()
        )
        with pytest.raises(NativeLinkError) as caught:
            await bucket.check()
        assert caught.value.code in (Code.PERMISSION_DENIED, Code.FAILED_PRECONDITION)
        assert "cannot be used" in caught.value.message


async def test_a_forbidden_request_is_no_miss():
    async with behind(lambda method, target: Fault.FORBIDDEN) as (_, store):
        with raises(Code.PERMISSION_DENIED) as caught:
            await store.check()
        assert "s3:ListBucket" in caught.value.message
        with raises(Code.PERMISSION_DENIED):
            await store.has([blob(1)[0]])


# Names


@pytest.mark.parametrize("prefix", ["", "cas", "cas/", "a/b-"])
async def test_prefix_and_key_are_joined_by_nothing(prefix: str):
    key, data = blob(10)
    own = fresh_prefix()
    store = opened(prefix=own + prefix)
    await store.put(key, BytesSource(data))
    assert shared(Moto).names(own) == {f"{own}{prefix}{key.hash}-10"}


@pytest.mark.parametrize("prefix", ["/", "/a", "a//", "../", "a/./"])
def test_a_prefix_that_would_not_stay_as_it_is_is_refused(prefix: str):
    with raises(Code.INVALID_ARGUMENT):
        Keys(prefix)


def test_google_prefixes_lose_their_leading_slashes_and_backslashes():
    keys = Keys("/a\\b/", google=True)
    assert keys.path("x\\y") == "a/b/x/y"


async def test_string_keys_that_no_object_can_have_are_absent_and_cannot_be_put():
    store = opened()
    names: list[StoreKey] = ["a//b", "", "x/", "a/../b", "new\nline"]
    assert await store.has(names) == [None] * len(names)
    for name in names:
        with raises(Code.NOT_FOUND):
            await read_bytes(store, name)
        with raises(Code.INVALID_ARGUMENT):
            await write_bytes(store, name, b"value")


# Age


async def test_an_object_that_is_older_than_it_may_be_is_not_there_and_can_still_be_read():
    key, data = blob(100)
    clock = FakeClock()
    prefix = fresh_prefix()
    store = opened(clock=clock, prefix=prefix, consider_expired_after_s=1000)
    await store.put(key, BytesSource(data))
    found = await shared(Moto).bucket().head(f"{prefix}{key}")
    assert found is not None
    clock.set_time(found.modified + 999)
    assert await has_one(store, key) == 100
    clock.set_time(found.modified + 1000)
    assert await has_one(store, key) is None
    assert await read_bytes(store, key) == data


@pytest.mark.parametrize("server", [Moto, Versity])
async def test_an_old_object_that_is_in_use_is_copied_onto_itself(server: type[Moto]):
    key, data = blob(100)
    clock = FakeClock()
    bucket = shared(server).bucket(retry=Retry(3, 0.001))
    prefix = fresh_prefix()
    async with CloudObjectStore(
        bucket, keys=Keys(prefix), clock=clock, refresh_after_s=500
    ) as store:
        await store.put(key, BytesSource(data))
        before = await bucket.head(f"{prefix}{key}")
        assert before is not None
        clock.set_time(before.modified + 499)
        await has_one(store, key)
        clock.set_time(before.modified + 500)
        assert await has_one(store, key) == 100
        assert await has_one(store, key) == 100
        await wait_until(lambda: bool(store.statistics().refreshed))
        assert await read_bytes(store, key) == data
        copies = bucket.requests["copy", "ok"]
        assert 1 <= copies <= 3
        after = await bucket.head(f"{prefix}{key}")
        assert after is not None
        assert after.modified >= before.modified
