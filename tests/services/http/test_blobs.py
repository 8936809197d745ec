"""`/cas/`: blobs, named by their hash."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.http import bodies
from nativelink.services.http.instance import HttpCacheInstance
from nativelink.services.http.names import size_key
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from tests.services.http.web import Cache, parse, web

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

BLOB = b"a blob of some lines\n" * 100
DIGEST = DigestFunction.SHA256.digest_of(BLOB)
LARGE = bytes(range(256)) * 8192  # 2 MiB
LARGE_DIGEST = DigestFunction.SHA256.digest_of(LARGE)


def verified(store: DictStore) -> VerifyStore:
    return VerifyStore(
        store, verify_size=True, verify_hash=True, default_function=DigestFunction.SHA256
    )


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    cas, ac = DictStore(chunk_size=64 * 1024), DictStore()
    async with web({"": HttpCacheInstance("", ac, verified(cas))}) as ask:
        yield Cache(ask, cas, ac)


async def test_a_blob_comes_back(cache: Cache) -> None:
    assert (await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)).status == 200
    assert cache.cas.blobs == {DIGEST: BLOB}
    answer = await cache.ask.get(f"/cas/{DIGEST.hash}")
    assert (answer.status, answer.body) == (200, BLOB)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["etag"] == f'"{DIGEST.hash}"'
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_absent_blob_is_404_in_one_line(cache: Cache) -> None:
    answer = await cache.ask.get(f"/cas/{DIGEST.hash}")
    assert (answer.status, answer.text) == (404, f"blob {DIGEST.hash} is not here\n")
    assert (await cache.ask.head(f"/cas/{DIGEST.hash}")).status == 404


async def test_a_blob_that_was_evicted_is_404_though_its_size_is_known(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    del cache.cas.blobs[DIGEST]
    assert (await cache.ask.get(f"/cas/{DIGEST.hash}")).status == 404
    assert (await cache.ask.head(f"/cas/{DIGEST.hash}")).status == 404
    assert (await cache.ask.get(f"/cas/{DIGEST.hash}", range="bytes=0-1")).status == 404


async def test_head_tells_the_size(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    answer = await cache.ask.head(f"/cas/{DIGEST.hash}")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(BLOB)))


async def test_another_process_finds_what_this_one_took(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    assert cache.ac.blobs == {size_key(DIGEST.hash): str(len(BLOB)).encode()}
    async with web({"x": HttpCacheInstance("x", cache.ac, cache.cas)}) as other:
        assert (await other.get(f"/x/cas/{DIGEST.hash}")).body == BLOB


async def test_what_grpc_stored_is_found_by_hash_and_size(cache: Cache) -> None:
    cache.cas.blobs[DIGEST] = BLOB
    assert (await cache.ask.get(f"/cas/{DIGEST.hash}")).status == 404
    assert (await cache.ask.get(f"/cas/{DIGEST}")).body == BLOB


async def test_what_grpc_stored_is_found_by_hash_where_the_store_knows_it() -> None:
    cas = MemoryStore(eviction=EvictionPolicy(), clock=FakeClock())
    ac = DictStore()
    instance = HttpCacheInstance("", ac, verified_memory(cas), cas_finder=cas)
    async with web({"": instance}) as ask:
        assert (await ask.get(f"/cas/{DIGEST.hash}")).status == 404
        assert (await ask.put(f"/cas/{LARGE_DIGEST.hash}", LARGE)).status == 200
        await cas.put(DIGEST, _Source(BLOB))
        assert (await ask.get(f"/cas/{DIGEST.hash}")).body == BLOB
        assert (await ask.get(f"/cas/{LARGE_DIGEST.hash}")).body == LARGE
    assert not ac.blobs


def verified_memory(store: MemoryStore) -> VerifyStore:
    return VerifyStore(
        store, verify_size=True, verify_hash=True, default_function=DigestFunction.SHA256
    )


class _Source:
    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self._data = data

    async def read(self) -> bytes:
        data, self._data = self._data, b""
        return data


async def test_bytes_with_another_hash_are_refused_and_nothing_is_kept(cache: Cache) -> None:
    answer = await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB[:-1] + b"x")
    assert answer.status == 400
    assert "hash" in answer.text
    assert answer.text.count("\n") == 1
    assert not cache.cas.blobs
    assert not cache.ac.blobs


async def test_bytes_of_another_size_than_the_url_says_are_refused(cache: Cache) -> None:
    assert (await cache.ask.put(f"/cas/{DIGEST.hash}-5", BLOB)).status == 400
    assert (await cache.ask.put(f"/cas/{DIGEST}", BLOB)).status == 200


async def test_a_chunked_upload_is_taken_whatever_its_length(cache: Cache) -> None:
    for digest, blob in ((DIGEST, BLOB), (LARGE_DIGEST, LARGE)):
        parts = [blob[start : start + 100_000] for start in range(0, len(blob), 100_000)]
        path = f"/cas/{digest.hash}"
        assert (await cache.ask.ask("PUT", path, chunks=parts)).status == 200
        assert cache.cas.blobs[digest] == blob
    wrong = await cache.ask.ask("PUT", f"/cas/{'0' * 64}", chunks=[LARGE])
    assert wrong.status == 400
    assert len(cache.cas.blobs) == 2


async def test_an_upload_that_breaks_off_leaves_nothing(cache: Cache) -> None:
    async with cache.ask.connected() as (_, writer):
        head = f"PUT /cas/{LARGE_DIGEST.hash} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(LARGE)}"
        writer.write(f"{head}\r\n\r\n".encode() + LARGE[:1_000_000])
        await writer.drain()
    await wait_until(lambda: not cache.ask.server.statistics().connections)
    assert not cache.cas.blobs
    assert not cache.ac.blobs


async def test_an_upload_of_what_is_there_is_read_and_dropped(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    cache.cas.blobs[DIGEST] = b"untouched"
    assert (await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)).status == 200
    assert cache.cas.blobs[DIGEST] == b"untouched"


async def test_the_body_is_asked_for_where_the_client_waits_for_that(cache: Cache) -> None:
    async with cache.ask.connected() as (reader, writer):
        writer.write(
            f"PUT /cas/{DIGEST.hash} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BLOB)}\r\n"
            "expect: 100-continue\r\nconnection: close\r\n\r\n".encode()
        )
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(BLOB)
        assert parse(await reader.read()).status == 200
    assert cache.cas.blobs == {DIGEST: BLOB}


async def test_the_empty_blob_is_always_there(cache: Cache) -> None:
    empty = DigestFunction.SHA256.digest_of(b"")
    answer = await cache.ask.get(f"/cas/{empty.hash}")
    assert (answer.status, answer.body) == (200, b"")
    assert (await cache.ask.put(f"/cas/{empty.hash}", b"")).status == 200


async def test_blake3_is_spoken_where_the_url_says_so(cache: Cache) -> None:
    digest = DigestFunction.BLAKE3.digest_of(BLOB)
    assert (await cache.ask.put(f"/cas/{digest.hash}", BLOB)).status == 400
    assert (await cache.ask.put(f"/cas/blake3/{digest.hash}", BLOB)).status == 200
    assert (await cache.ask.get(f"/cas/{digest.hash}")).body == BLOB


@pytest.mark.parametrize(
    ("wanted", "part", "said"),
    [
        ("bytes=5-9", BLOB[5:10], f"bytes 5-9/{len(BLOB)}"),
        ("bytes=-3", BLOB[-3:], f"bytes {len(BLOB) - 3}-{len(BLOB) - 1}/{len(BLOB)}"),
        ("bytes=2000-9999", BLOB[2000:], f"bytes 2000-{len(BLOB) - 1}/{len(BLOB)}"),
    ],
)
async def test_a_part_is_a_part(cache: Cache, wanted: str, part: bytes, said: str) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    answer = await cache.ask.get(f"/cas/{DIGEST.hash}", range=wanted, accept_encoding="zstd")
    assert (answer.status, answer.body) == (206, part)
    assert answer.headers["content-range"] == said
    assert "content-encoding" not in answer.headers


async def test_a_part_behind_the_end_is_416(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    answer = await cache.ask.get(f"/cas/{DIGEST.hash}", range=f"bytes={len(BLOB)}-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(BLOB)}")


@pytest.mark.parametrize("kept", [None, b"short"])
async def test_a_part_of_what_went_meanwhile_is_a_miss(kept: bytes | None) -> None:
    class Forgetful(DictStore):
        async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
            return [len(BLOB) for _ in keys]

    cas = Forgetful()
    if kept is not None:
        cas.blobs[DIGEST] = kept
    async with web({"": HttpCacheInstance("", DictStore(), cas)}) as ask:
        answer = await ask.get(f"/cas/{DIGEST}", range="bytes=100-199")
    assert (answer.status, "is not here" in answer.text) == (404, True)


async def test_a_part_of_another_version_is_the_whole(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    path = f"/cas/{DIGEST.hash}"
    assert (await cache.ask.get(path, range="bytes=0-1", if_range='"other"')).status == 200
    mine = await cache.ask.get(path, range="bytes=0-1", if_range=f'"{DIGEST.hash}"')
    assert mine.status == 206


@pytest.mark.parametrize("tag", [f'"{DIGEST.hash}"', f'"x", W/"{DIGEST.hash}"', "*"])
async def test_who_has_the_blob_is_told_so(cache: Cache, tag: str) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    assert (await cache.ask.get(f"/cas/{DIGEST.hash}", if_none_match=tag)).status == 304
    assert (await cache.ask.get(f"/cas/{DIGEST.hash}", if_none_match='"y"')).status == 200


@pytest.mark.parametrize("blob", [BLOB, LARGE])
async def test_a_client_that_takes_zstd_gets_it(cache: Cache, blob: bytes) -> None:
    digest = DigestFunction.SHA256.digest_of(blob)
    await cache.ask.put(f"/cas/{digest.hash}", blob)
    answer = await cache.ask.get(f"/cas/{digest.hash}", accept_encoding="gzip, zstd;q=0.5")
    assert (answer.status, answer.headers["content-encoding"]) == (200, "zstd")
    assert zstd.decompress(answer.body) == blob
    assert len(answer.body) < len(blob)
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["etag"].startswith("W/")


@pytest.mark.parametrize("accepted", ["gzip", "zstd;q=0", "zstd; q=0.0", "identity", "x-zstd"])
async def test_a_client_that_does_not_take_zstd_gets_none(cache: Cache, accepted: str) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    answer = await cache.ask.get(f"/cas/{DIGEST.hash}", accept_encoding=accepted)
    assert (answer.body, answer.headers.get("content-encoding")) == (BLOB, None)


async def test_a_small_blob_is_not_compressed(cache: Cache) -> None:
    small = DigestFunction.SHA256.digest_of(b"small")
    await cache.ask.put(f"/cas/{small.hash}", b"small")
    assert (await cache.ask.get(f"/cas/{small.hash}", accept_encoding="zstd")).body == b"small"


async def test_a_compressed_upload_is_stored_plain(cache: Cache) -> None:
    for digest, blob in ((DIGEST, BLOB), (LARGE_DIGEST, LARGE)):
        packed = zstd.compress(blob[:1000]) + zstd.compress(blob[1000:])
        path = f"/cas/{digest.hash}"
        assert (await cache.ask.put(path, packed, content_encoding="zstd")).status == 200
        assert cache.cas.blobs[digest] == blob
        del cache.cas.blobs[digest]
        sized = await cache.ask.put(f"/cas/{digest}", packed, content_encoding="zstd")
        assert sized.status == 200
        assert cache.cas.blobs[digest] == blob


async def test_other_encodings_are_415(cache: Cache) -> None:
    answer = await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB, content_encoding="br")
    assert answer.status == 415
    assert "zstd" in answer.text
    assert not cache.cas.blobs


@pytest.mark.parametrize("packed", [b"no zstd at all", zstd.compress(BLOB)[:-8]])
async def test_a_compressed_body_that_is_none_or_breaks_off_is_400(
    cache: Cache, packed: bytes
) -> None:
    answer = await cache.ask.put(f"/cas/{DIGEST.hash}", packed, content_encoding="zstd")
    assert answer.status == 400
    assert not cache.cas.blobs


async def test_a_bomb_ends_at_the_size_that_the_url_says(cache: Cache) -> None:
    bomb = zstd.compress(bytes(64 * 1024**2))
    answer = await cache.ask.put(f"/cas/{DIGEST}", bomb, content_encoding="zstd")
    assert answer.status == 400
    assert not cache.cas.blobs


async def test_many_frames_with_nothing_in_them_are_refused(cache: Cache) -> None:
    frames = zstd.compress(b"") * 200
    answer = await cache.ask.put(f"/cas/{DIGEST.hash}", frames, content_encoding="zstd")
    assert (answer.status, "frames" in answer.text) == (400, True)


@pytest.mark.parametrize("path", ["/cas/xyz", "/cas/", "/cas/../ac/0", f"/cas/{DIGEST.hash}/x"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
async def test_what_is_no_hash_is_400(cache: Cache, path: str, method: str) -> None:
    assert (await cache.ask.ask(method, path, b"")).status == 400
    assert not cache.cas.blobs


@pytest.mark.parametrize("method", ["DELETE", "POST", "PATCH", "PROPFIND"])
async def test_other_methods_are_405(cache: Cache, method: str) -> None:
    answer = await cache.ask.ask(method, f"/cas/{DIGEST.hash}", b"")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PUT")


async def test_a_read_only_cache_refuses_before_the_body_comes() -> None:
    cas, ac = DictStore(), DictStore()
    async with web({"": HttpCacheInstance("", ac, cas, read_only=True)}) as ask:
        for path in (f"/cas/{DIGEST.hash}", f"/ac/{DIGEST.hash}", "/cache/x", "/v8/artifacts/x"):
            answer = await ask.raw(
                f"PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"
                "expect: 100-continue\r\n\r\n".encode()
            )
            assert answer.status == 403
            assert "read-only" in answer.text
        cas.blobs[DIGEST] = BLOB
        assert (await ask.get(f"/cas/{DIGEST}")).status == 200
    assert not ac.blobs


async def test_a_page_in_a_browser_cannot_write(cache: Cache) -> None:
    for method, path in (("PUT", f"/cas/{DIGEST.hash}"), ("POST", "/v8/artifacts/events")):
        answer = await cache.ask.ask(method, path, BLOB, origin="http://elsewhere")
        assert answer.status == 403
    assert not cache.cas.blobs
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    read = await cache.ask.get(f"/cas/{DIGEST.hash}", origin="http://elsewhere")
    assert (read.status, "access-control-allow-origin" in read.headers) == (200, False)


async def test_a_full_disk_is_507() -> None:
    class Full(DictStore):
        async def put(self, key: object, source: object) -> int:
            raise NativeLinkError(Code.RESOURCE_EXHAUSTED, "no space left on device")

    async with web({"": HttpCacheInstance("", DictStore(), Full())}) as ask:
        answer = await ask.put(f"/cas/{DIGEST.hash}", BLOB)
    assert (answer.status, answer.text) == (507, "no space left on device\n")


async def test_a_server_without_a_cas_says_so() -> None:
    async with web({"": HttpCacheInstance("", DictStore())}) as ask:
        assert (await ask.get(f"/cas/{DIGEST.hash}")).status == 404
        assert (await ask.put(f"/cas/{DIGEST.hash}", BLOB)).status == 404


async def test_instances_are_prefixes_with_slashes_and_the_longest_counts() -> None:
    one, two, three = DictStore(), DictStore(), DictStore()
    instances = {
        "": HttpCacheInstance("", DictStore(), one),
        "a/b": HttpCacheInstance("a/b", DictStore(), two),
        "cas": HttpCacheInstance("cas", DictStore(), three),
    }
    async with web(instances) as ask:
        for prefix, store in (("", one), ("/a/b", two), ("/cas", three)):
            assert (await ask.put(f"{prefix}/cas/{DIGEST.hash}", BLOB)).status == 200
            assert store.blobs == {DIGEST: BLOB}
        assert (await ask.get(f"/a/cas/{DIGEST.hash}")).status == 404


async def test_a_listener_that_asks_who_sends_asks_here_too() -> None:
    async with web(
        {"": HttpCacheInstance("", DictStore(), DictStore())}, requires_identity=True
    ) as ask:
        assert (await ask.get(f"/cas/{DIGEST.hash}")).status == 400
        found = await ask.get(f"/cas/{DIGEST.hash}", baggage="enduser.id=me")
        assert found.status == 404


async def test_a_blob_that_the_store_cuts_short_is_cut_off(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{LARGE_DIGEST.hash}", LARGE)
    cache.cas.blobs[LARGE_DIGEST] = LARGE[:-1]
    async with cache.ask.connected() as (reader, writer):
        writer.write(f"GET /cas/{LARGE_DIGEST.hash} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {len(LARGE)}".encode() in head
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(len(LARGE))


@pytest.mark.parametrize("kept", [b"", BLOB[:-1], BLOB + b"more"])
async def test_a_blob_of_another_size_never_looks_whole(cache: Cache, kept: bytes) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", BLOB)
    cache.cas.blobs[DIGEST] = kept
    for accepted in ("zstd", "identity"):
        async with cache.ask.connected() as (reader, writer):
            lines = [f"GET /cas/{DIGEST.hash} HTTP/1.1", "host: x", f"accept-encoding: {accepted}"]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            writer.write_eof()
            data = await reader.read()
        first = data.partition(b"\r\n")[0]
        # An error, or an answer that breaks off: chunks without the last one, or too few bytes.
        if first.startswith(b"HTTP/1.1 200 "):
            head, _, body = data.partition(b"\r\n\r\n")
            if b"content-length" in head:
                assert len(body) < len(BLOB)
            else:
                assert not body.endswith(b"\r\n0\r\n\r\n")
        else:
            assert first.startswith(b"HTTP/1.1 5")


@pytest.mark.parametrize("encoding", ["identity", "zstd"])
async def test_a_body_without_end_does_not_fill_the_disk(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(bodies, "MAX_MEASURED_BYTES", len(LARGE) - 1)
    chunks = [LARGE] if encoding == "identity" else [zstd.compress(LARGE)]
    answer = await cache.ask.ask(
        "PUT", f"/cas/{LARGE_DIGEST.hash}", chunks=chunks, content_encoding=encoding
    )
    assert answer.status == 413
    assert not cache.cas.blobs


async def test_a_part_of_a_value_does_not_take_the_place_of_the_whole(cache: Cache) -> None:
    path = "/cache/ccache/4d/1234"
    await cache.ask.put(path, BLOB)
    for at in (path, f"/ac/{DIGEST.hash}", f"/cas/{DIGEST.hash}"):
        answer = await cache.ask.put(at, BLOB[:10], content_range=f"bytes 0-9/{len(BLOB)}")
        assert answer.status == 400
    assert (await cache.ask.get(path)).body == BLOB
    assert not cache.cas.blobs


async def test_uploads_hold_no_more_than_a_few_pieces() -> None:
    class Slow(DictStore):
        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()
            self.largest = 0

        async def put(self, key: object, source: object) -> int:
            await self.gate.wait()
            size = 0
            while chunk := await source.read():
                size += len(chunk)
                self.largest = max(self.largest, len(chunk))
            return size

    slow = Slow()
    size = 16 * 1024**2
    async with (
        web({"": HttpCacheInstance("", DictStore(), slow)}) as ask,
        ask.connected() as (reader, writer),
    ):
        writer.write(
            f"PUT /cas/{DIGEST.hash} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n"
            "connection: close\r\n\r\n".encode()
        )
        for _ in range(16):
            writer.write(bytes(1024**2))
        for _ in range(50):
            await asyncio.sleep(0)
        assert writer.transport.get_write_buffer_size() > size // 4
        slow.gate.set()
        assert parse(await reader.read()).status == 200
    assert slow.largest <= 1024**2
