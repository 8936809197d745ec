"""`/ac/` and `/cache/`: entries whose content is the client's business."""

from __future__ import annotations

from collections.abc import AsyncIterator
from xml.etree import ElementTree

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.action_cache import MAX_RESULT_BYTES
from nativelink.services.http.instance import HttpCacheInstance
from nativelink.services.http.names import raw_key
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore, FakeClock
from tests.services.http.web import Cache, web

ACTION = b"an Action, as Bazel uploads it"
DIGEST = DigestFunction.SHA256.digest_of(ACTION)
RAW = b"\xff\xfe no ActionResult at all"
RESULT = pb.ActionResult(exit_code=3, stdout_raw=b"hello").SerializeToString()
OTHER = pb.ActionResult(exit_code=4).SerializeToString()
PATH = f"/ac/{DIGEST.hash}"


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    cas, ac = DictStore(), DictStore(chunk_size=64 * 1024)
    async with web({"": HttpCacheInstance("", ac, cas)}) as ask:
        yield Cache(ask, cas, ac)


async def test_an_entry_is_whatever_was_put(cache: Cache) -> None:
    assert (await cache.ask.get(PATH)).status == 404
    assert (await cache.ask.put(PATH, RAW)).status == 200
    answer = await cache.ask.get(PATH)
    assert (answer.status, answer.body) == (200, RAW)
    assert "etag" not in answer.headers
    assert cache.ac.blobs == {raw_key(DIGEST.hash): RAW}
    head = await cache.ask.head(PATH)
    assert (head.status, head.headers["content-length"]) == (200, str(len(RAW)))


@pytest.mark.parametrize("size", ["", "-0"])
async def test_the_empty_hash_names_an_entry_like_any_other(cache: Cache, size: str) -> None:
    path = f"/ac/{DigestFunction.SHA256.digest_of(b'').hash}{size}"
    assert (await cache.ask.get(path)).status == 404
    for body in (RAW, RESULT):
        assert (await cache.ask.put(path, body)).status == 200
        assert (await cache.ask.get(path)).body == body


async def test_a_newer_entry_takes_the_place_of_an_older_one(cache: Cache) -> None:
    for body in (RAW, RESULT, b""):
        assert (await cache.ask.put(PATH, body)).status == 200
        assert (await cache.ask.get(PATH)).body == body


async def test_a_large_entry_is_streamed_with_its_length(cache: Cache) -> None:
    large = bytes(range(256)) * 8192
    assert (await cache.ask.put(PATH, large)).status == 200
    answer = await cache.ask.get(PATH)
    assert (answer.headers["content-length"], answer.body) == (str(len(large)), large)
    part = await cache.ask.get(PATH, range="bytes=1000000-1000003")
    assert (part.status, part.body) == (206, large[1_000_000:1_000_004])


async def test_a_result_of_an_action_that_is_known_is_grpcs_too(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", ACTION)
    assert (await cache.ask.put(PATH, RESULT)).status == 200
    assert cache.ac.blobs[DIGEST] == RESULT
    assert (await cache.ask.get(PATH)).body == RESULT
    cache.ac.blobs[DIGEST] = OTHER
    assert (await cache.ask.get(PATH)).body == OTHER


async def test_what_is_no_result_stays_out_of_grpcs_way(cache: Cache) -> None:
    await cache.ask.put(f"/cas/{DIGEST.hash}", ACTION)
    too_large = RESULT + bytes(MAX_RESULT_BYTES)
    for body in (RAW, b"", too_large):
        assert (await cache.ask.put(PATH, body)).status == 200
        assert DIGEST not in cache.ac.blobs
        assert (await cache.ask.get(PATH)).body == body
    chunks = [too_large[start : start + 999_999] for start in range(0, len(too_large), 999_999)]
    assert (await cache.ask.ask("PUT", PATH, chunks=chunks)).status == 200
    assert cache.ac.blobs[raw_key(DIGEST.hash)] == too_large


async def test_the_url_may_name_grpcs_very_entry(cache: Cache) -> None:
    assert (await cache.ask.put(f"/ac/{DIGEST}", RESULT)).status == 200
    assert cache.ac.blobs == {DIGEST: RESULT}
    assert (await cache.ask.get(f"/ac/{DIGEST}")).body == RESULT


async def test_what_grpc_stored_is_found_by_hash_where_the_store_knows_it() -> None:
    ac = MemoryStore(eviction=EvictionPolicy(), clock=FakeClock())
    async with web({"": HttpCacheInstance("", ac, ac_finder=ac)}) as ask:
        assert (await ask.get(PATH)).status == 404
        await write_bytes(ac, DIGEST, RESULT)
        assert (await ask.get(PATH)).body == RESULT
        # And replaced where it is, so that nobody is told an older one.
        assert (await ask.put(PATH, OTHER)).status == 200
        assert await read_bytes(ac, DIGEST) == OTHER
        assert (await ask.get(PATH)).body == OTHER


async def test_an_incomplete_result_falls_back_to_what_was_put_as_it_is(cache: Cache) -> None:
    await cache.ask.put(PATH, RAW)
    await cache.ask.put(f"/cas/{DIGEST.hash}", ACTION)
    assert (await cache.ask.get(PATH)).body == RAW
    assert (await cache.ask.head(PATH)).headers["content-length"] == str(len(RAW))


async def test_a_store_that_takes_digests_alone_serves_what_bazel_needs() -> None:
    class DigestsOnly(DictStore):
        async def put(self, key: object, source: object) -> int:
            if not isinstance(key, Digest):
                raise NativeLinkError(Code.INVALID_ARGUMENT, "no digest")
            return await super().put(key, source)

    async with web({"": HttpCacheInstance("", DigestsOnly(), DictStore())}) as ask:
        assert (await ask.put(f"/cas/{DIGEST.hash}", ACTION)).status == 200
        assert (await ask.get(f"/cas/{DIGEST.hash}")).body == ACTION
        assert (await ask.put(PATH, RESULT)).status == 200
        assert (await ask.get(PATH)).body == RESULT
        assert (await ask.put(f"/ac/{'0' * 64}", RAW)).status == 400


async def test_a_backend_that_cannot_be_asked_is_503_and_no_miss() -> None:
    class Down(DictStore):
        async def get(self, *_arguments: object, **_options: object) -> None:
            raise NativeLinkError(Code.UNAVAILABLE, "the database is away")

        async def has(self, _keys: object) -> list[int | None]:
            raise NativeLinkError(Code.UNAVAILABLE, "the database is away")

    async with web({"": HttpCacheInstance("", Down(), Down())}) as ask:
        for path in (PATH, f"/cas/{DIGEST.hash}", f"/cas/{DIGEST}", "/cache/x"):
            answer = await ask.get(path)
            assert (answer.status, answer.text) == (503, "the database is away\n")
            assert (await ask.head(path)).status == 503


async def test_a_large_entry_is_compressed_for_who_takes_it(cache: Cache) -> None:
    large = b"line after line\n" * 100_000
    await cache.ask.put(PATH, large)
    answer = await cache.ask.get(PATH, accept_encoding="zstd")
    assert answer.headers["content-encoding"] == "zstd"
    assert len(answer.body) < len(large) // 10
    assert (await cache.ask.put("/cache/x", answer.body, content_encoding="zstd")).status == 200
    assert (await cache.ask.get("/cache/x")).body == large


async def test_a_path_is_a_key(cache: Cache) -> None:
    for path in ("/cache/0123456789abcdef", "/cache/ccache/4d/12", "/cache/ccache/4d12"):
        assert (await cache.ask.get(path)).status == 404
        assert (await cache.ask.put(path, path.encode())).status == 200
    for path in ("/cache/0123456789abcdef", "/cache/ccache/4d/12", "/cache/ccache/4d12"):
        assert (await cache.ask.get(path)).text == path
        assert (await cache.ask.head(path)).headers["content-length"] == str(len(path))
    assert all(isinstance(key, str) and "/" not in key for key in cache.ac.blobs)


@pytest.mark.parametrize("path", ["/cache/", "/cache/a/../b", "/cache/" + "x" * 1025, "/cache/a/"])
async def test_a_path_that_is_no_key_is_400(cache: Cache, path: str) -> None:
    assert (await cache.ask.put(path, b"x")).status == 400
    assert (await cache.ask.get(path)).status == 400
    assert not cache.ac.blobs


async def test_the_longest_paths_fit_into_a_file_name(cache: Cache) -> None:
    assert (await cache.ask.put("/cache/" + "x" * 1024, b"x")).status == 200
    (key,) = cache.ac.blobs
    assert len(str(key)) <= 255


async def test_deleting_is_not_offered(cache: Cache) -> None:
    answer = await cache.ask.ask("DELETE", "/cache/x")
    assert answer.status == 405
    assert "PUT" in answer.headers["allow"]


async def test_webdav_finds_files_and_any_folder(cache: Cache) -> None:
    await cache.ask.put("/cache/s/a/file", b"12345")
    answer = await cache.ask.ask("PROPFIND", "/cache/s/a/file", b"", depth="0")
    assert answer.status == 207
    found = ElementTree.fromstring(answer.body)
    assert found.findtext(".//{DAV:}href") == "/cache/s/a/file"
    assert found.findtext(".//{DAV:}getcontentlength") == "5"
    assert found.find(".//{DAV:}collection") is None
    folder = await cache.ask.ask("PROPFIND", "/cache/s/never/", b"", depth="0")
    assert ElementTree.fromstring(folder.body).find(".//{DAV:}collection") is not None
    assert (await cache.ask.ask("PROPFIND", "/cache/s/nothing", b"")).status == 404
    assert (await cache.ask.ask("MKCOL", "/cache/s/new/")).status == 201
    options = await cache.ask.ask("OPTIONS", "/cache/")
    assert (options.status, options.headers["dav"]) == (204, "1")
    assert "content-length" not in options.headers


async def test_a_path_cannot_break_out_of_the_xml(cache: Cache) -> None:
    answer = await cache.ask.ask("PROPFIND", "/cache/&amp;<x>/", b"")
    assert ElementTree.fromstring(answer.body).findtext(".//{DAV:}href") == "/cache/&amp;<x>/"
