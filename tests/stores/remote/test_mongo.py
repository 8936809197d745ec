"""`experimental_mongo`: documents, limits, and a server that is not there."""

from __future__ import annotations

import asyncio
import random

import bson
import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource
from nativelink.stores.remote.mongo import MAX_DOCUMENT_BYTES, MongoStore
from nativelink.stores.remote.redis_address import Endpoint
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import PiecesSource
from nativelink.testing.store_contract import RecordingSink
from tests.errors import error_of
from tests.stores.remote.mongo_server import (
    fresh_collection,
    open_mongo,
    raw_collection,
    shared_mongo,
)
from tests.stores.remote.redis_proxy import CuttingProxy

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


async def test_a_document_is_what_nativelink_writes():
    name = fresh_collection()
    async with open_mongo(name, key_prefix="cas:") as store:
        await write_bytes(store, DIGEST, BLOB)
        assert await store.has([DIGEST]) == [len(BLOB)]
    with raw_collection(name) as raw:
        (document,) = raw.find()
        assert document == {"_id": f"cas:{DIGEST}", "data": BLOB, "size": len(BLOB)}
        assert isinstance(document["size"], bson.int64.Int64)
        assert [("size", 1)] in [list(each["key"].items()) for each in raw.list_indexes()]


async def test_the_largest_blob_that_fits_is_kept_and_the_next_one_refused_with_the_limit():
    async with open_mongo() as store:
        limit = MAX_DOCUMENT_BYTES - 1024 - len("k")
        data = random.Random(0).randbytes(limit)
        assert await store.put("k", PiecesSource.split(data, 1_000_000)) == limit
        assert await read_bytes(store, "k") == data
        for source in (
            PiecesSource.split(data + b"x", 1_000_000),
            PiecesSource.split(data + b"x", 1_000_000, announced=True),
        ):
            error = await error_of(store.put("k", source))
            assert error.code is Code.INVALID_ARGUMENT
            assert str(limit) in error.message
        assert await store.has(["k"]) == [limit]


def test_a_document_of_the_largest_blob_fits_into_mongodb():
    name = "n" * 100
    size = MAX_DOCUMENT_BYTES - 1024 - len(name)
    document = {"_id": name, "data": bson.Binary(bytes(size)), "size": bson.Int64(size)}
    assert len(bson.encode(document)) <= MAX_DOCUMENT_BYTES


async def test_readers_are_given_pieces():
    data = random.Random(1).randbytes(10_000)
    async with open_mongo(read_chunk_size=4_000) as store:
        await write_bytes(store, "k", data)
        sink = RecordingSink()
        await store.get("k", sink)
        assert [len(piece) for piece in sink.pieces] == [4_000, 4_000, 2_000]
        assert sink.data == data


async def test_requests_beyond_the_permits_wait():
    async with open_mongo(max_requests=1) as store:
        async with asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(store.put(f"k{number}", BytesSource(b"value")))
        assert await store.has([f"k{number}" for number in range(10)]) == [5] * 10


@pytest.mark.slow
async def test_a_server_that_is_down_is_unavailable_and_never_empty():
    async with MongoStore(
        "mongodb://127.0.0.1:1",
        database="d",
        collection="c",
        connect_timeout_s=0.05,
        command_timeout_s=0.05,
    ) as store:
        assert (await error_of(store.has([DIGEST]))).code is Code.UNAVAILABLE
        assert (await error_of(read_bytes(store, DIGEST))).code is Code.UNAVAILABLE
        assert (await error_of(write_bytes(store, DIGEST, BLOB))).code is Code.UNAVAILABLE
        assert (await error_of(store.check())).code is Code.UNAVAILABLE


@pytest.mark.slow
async def test_connections_that_break_anywhere_are_not_noticed():
    blobs = {digest: data for data in (random.Random(n).randbytes(20_000) for n in range(6))
             for digest in [DigestFunction.SHA256.digest_of(data)]}  # fmt: skip
    upstream = Endpoint("127.0.0.1", shared_mongo().port)
    async with (
        CuttingProxy(upstream, seed=1) as proxy,
        MongoStore(
            f"mongodb://127.0.0.1:{proxy.endpoint.port}",
            database="nativelink",
            collection=fresh_collection(),
            command_timeout_s=60,
        ) as store,
    ):
        for digest, data in blobs.items():
            await write_bytes(store, digest, data)
        assert await store.has(list(blobs)) == [20_000] * len(blobs)
        for digest, data in blobs.items():
            assert await read_bytes(store, digest) == data
        assert proxy.cuts > 3


def test_a_connection_string_that_is_none_is_refused():
    with pytest.raises(NativeLinkError, match="malformed connection_string") as caught:
        MongoStore("http://x", database="d", collection="c")
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "address", ["mongodb://user:pa/secret@host/db", "mongodb://user:12/secret@host:27017/db"]
)
def test_a_password_that_was_not_escaped_is_not_told(address: str):
    with pytest.raises(NativeLinkError, match="malformed connection_string") as caught:
        MongoStore(address, database="d", collection="c")
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__


async def test_absent_is_not_found():
    async with open_mongo() as store:
        assert (await error_of(read_bytes(store, Digest("a" * 64, 1)))).code is Code.NOT_FOUND
