"""Nothing wrong gets in, whatever the backend is."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from nativelink.core.digest import Digest, DigestFunction, digest_function
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.memory import MemoryStore
from nativelink.stores.store import Store
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore, FakeClock, PiecesSource

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
DATA = random.Random(1).randbytes(300_000)


def verify(backend: Store, *, size: bool = True, hash_: bool = True) -> VerifyStore:
    return VerifyStore(backend, verify_size=size, verify_hash=hash_, default_function=SHA256)


def changed(data: bytes, position: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :]


def files_below(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file()]


Opener = Callable[[Path], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def memory(_path: Path) -> AsyncIterator[Store]:
    yield MemoryStore(eviction=EvictionPolicy(), clock=FakeClock())


@asynccontextmanager
async def filesystem(path: Path) -> AsyncIterator[Store]:
    async with FilesystemStore(
        content_path=path / "content",
        temp_path=path / "temp",
        eviction=EvictionPolicy(),
        clock=FakeClock(),
    ) as store:
        yield store


@pytest.mark.parametrize("backend", [memory, filesystem])
@pytest.mark.parametrize("function", DigestFunction)
@pytest.mark.parametrize("pieces", [7_000, 150_000, 1_000_000])
async def test_a_mismatch_leaves_nothing_in_the_backend(
    tmp_path: Path, backend: Opener, function: DigestFunction, pieces: int
):
    digest = function.digest_of(DATA)
    wrong = {
        "first byte": changed(DATA, 0),
        "last byte": changed(DATA, len(DATA) - 1),
        "too short": DATA[:-1],
        "too long": DATA + b"x",
        "empty": b"",
    }
    digest_function.set(function)
    async with backend(tmp_path) as inner:
        store = verify(inner)
        for data in wrong.values():
            for announced in (False, True):
                with pytest.raises(NativeLinkError) as caught:
                    await store.put(digest, PiecesSource.split(data, pieces, announced=announced))
                assert caught.value.code is Code.INVALID_ARGUMENT
                assert str(digest) in caught.value.message
                assert await inner.has([digest]) == [None]
        assert files_below(tmp_path) == []
        assert await store.put(digest, PiecesSource.split(DATA, pieces)) == len(DATA)
        assert await inner.has([digest]) == [len(DATA)]


async def test_a_mismatch_leaves_the_blob_that_was_there():
    store = verify(DictStore())
    digest = SHA256.digest_of(DATA)
    await store.put(digest, BytesSource(DATA))
    with pytest.raises(NativeLinkError):
        await store.put(digest, BytesSource(changed(DATA, 5)))
    sink = BytesSink()
    await store.get(digest, sink)
    assert sink.getvalue() == DATA


async def test_the_request_says_which_function_it_is():
    store = verify(DictStore())
    sha, blake = SHA256.digest_of(DATA), BLAKE3.digest_of(DATA)
    await store.put(sha, BytesSource(DATA))
    with pytest.raises(NativeLinkError, match="SHA256"):
        await store.put(blake, BytesSource(DATA))
    token = digest_function.set(BLAKE3)
    await store.put(blake, BytesSource(DATA))
    with pytest.raises(NativeLinkError, match="BLAKE3"):
        await store.put(sha, BytesSource(DATA))
    digest_function.reset(token)
    await store.put(sha, BytesSource(DATA))


async def test_a_size_that_is_announced_wrongly_is_refused_before_anything_is_read():
    class Unread(BytesSource):
        async def read(self):
            raise AssertionError("nothing is to be read")

    with pytest.raises(NativeLinkError, match="299999 bytes were sent"):
        await verify(DictStore()).put(SHA256.digest_of(DATA), Unread(DATA[1:]))


async def test_what_is_too_long_is_noticed_as_soon_as_it_is():
    source = PiecesSource.split(b"x" * 1_000_000, 1_000)
    digest = Digest(SHA256.digest_of(b"").hash, 10_000)
    with pytest.raises(NativeLinkError, match="or more"):
        await verify(DictStore()).put(digest, source)
    assert len(source._pieces) == 1_000 - 11


async def test_only_what_is_asked_for_is_checked():
    digest = SHA256.digest_of(DATA)
    await verify(DictStore(), hash_=False).put(digest, BytesSource(changed(DATA, 7)))
    with pytest.raises(NativeLinkError):
        await verify(DictStore(), hash_=False).put(digest, BytesSource(DATA[1:]))
    other = Digest(digest.hash, 5)
    await verify(DictStore(), size=False).put(other, BytesSource(DATA))
    with pytest.raises(NativeLinkError):
        await verify(DictStore(), size=False).put(digest, BytesSource(changed(DATA, 7)))
    await verify(DictStore(), size=False, hash_=False).put(other, BytesSource(b"anything"))


@pytest.mark.parametrize("function", DigestFunction)
async def test_large_pieces_are_hashed_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, function: DigestFunction
):
    """Both ways give the same answer, on machines with one CPU or many."""
    data = DATA * 8
    digest = function.digest_of(data)
    digest_function.set(function)
    for cpus in (1, 2):
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid, cpus=cpus: set(range(cpus)))
        store = verify(DictStore())
        await store.put(digest, PiecesSource.split(data, 700_000))
        with pytest.raises(NativeLinkError):
            await store.put(digest, PiecesSource.split(changed(data, 5), 700_000))


async def test_bytes_under_the_name_of_the_empty_blob_are_refused():
    store = verify(DictStore(), size=False, hash_=False)
    with pytest.raises(NativeLinkError):
        await store.put(BLAKE3.digest_of(b""), BytesSource(b"something"))
