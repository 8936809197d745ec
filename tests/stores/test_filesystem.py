"""What the filesystem store does beyond the store contract."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import logging
import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import blake3
import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk
from nativelink.stores import disk, filesystem_scan, group_commit
from nativelink.stores.disk import InlineGuard
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.filesystem_layout import Layout
from nativelink.stores.free_space import DiskSpace
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import FakeClock, PiecesSource, wait_until
from nativelink.testing.faults import FaultySource, Gate

#: Below and above what is read in one go.
SMALL, LARGE = 1_000, 700_000


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return Digest(hashlib.sha256(data).hexdigest(), size), data


def make(root: Path, *, clock: FakeClock | None = None, **settings: Any) -> FilesystemStore:
    settings.setdefault("eviction", EvictionPolicy())
    return FilesystemStore(
        content_path=root / "content",
        temp_path=root / "temp",
        clock=clock or FakeClock(),
        **settings,
    )


def path_of(root: Path, key: StoreKey) -> Path:
    return root / "content" / ("d" if isinstance(key, Digest) else "s") / str(key)


def device_of(path: Path) -> int | None:
    return path.stat().st_dev if path.is_dir() else None


def files(root: Path) -> set[str]:
    """Names of all files below a directory."""
    return {path.name for path in root.rglob("*") if path.is_file()}


async def scanned(store: FilesystemStore) -> None:
    await wait_until(lambda: not store.statistics().scanning)


async def code_of(work: Any) -> Code:
    with pytest.raises(NativeLinkError) as caught:
        await work
    return caught.value.code


class Sink:
    """Keeps what comes, and does something at the first piece."""

    def __init__(self, first: Callable[[], object] = lambda: None) -> None:
        self.pieces: list[Chunk] = []
        self._first = first

    async def write(self, chunk: Chunk, /) -> None:
        if not self.pieces:
            self._first()
        self.pieces.append(chunk)


class Held:
    """Stands in for a function that runs in a thread, and holds it up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._gate = threading.Event()
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        self._gate.wait()
        return self._function(*args, **kwargs)

    def release(self) -> None:
        self._gate.set()


@pytest.fixture
def held_scan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The start-up scan does not begin to list before it is released."""
    held = Held(os.scandir)
    monkeypatch.setattr(filesystem_scan, "list_directory", held)
    yield held
    held.release()


@pytest.fixture(params=["quick disk", "slow disk"])
def _disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything on the loop's thread, or nothing."""
    monkeypatch.setattr(InlineGuard, "allowed", request.param == "quick disk")


# Names and modes


async def test_files_are_read_only_for_everyone_whatever_the_umask(tmp_path: Path) -> None:
    older = os.umask(0o077)
    try:
        async with make(tmp_path) as store:
            keys = [blob(size)[0] for size in (SMALL, 2_000_000)]
            for key in keys:
                await write_bytes(store, key, bytes(key.size_bytes))
    finally:
        os.umask(older)
    for key in keys:
        assert stat.S_IMODE(path_of(tmp_path, key).stat().st_mode) == 0o444


def test_a_temporary_file_is_named_after_its_digest_and_a_counter() -> None:
    layout = Layout(Path("content"), Path("temp"))
    key = Digest("ab" * 32, 123)
    first, second = layout.temp_name(key), layout.temp_name(key)
    assert first[:48] == "ab" * 24
    assert first[64:] == "-123"
    numbers = [int.from_bytes(bytes.fromhex(name[48:64]), "little") for name in (first, second)]
    assert numbers[1] == numbers[0] + 1
    text = layout.temp_name("ключ")
    assert text[:48] == blake3.blake3("ключ".encode()).hexdigest()[:48]
    assert text[64:] == "-8"


@pytest.mark.parametrize(
    "key", ["", ".", "..", "a/b", "../d/x", "/etc/passwd", "a\0b", "x" * 256, "ю" * 128, "\ud800"]
)
async def test_a_string_that_is_no_plain_file_name_is_refused(key: str, tmp_path: Path) -> None:
    async with make(tmp_path) as store:
        assert await store.has([key]) == [None]
        await scanned(store)
        assert await store.has([key]) == [None]
        assert await code_of(write_bytes(store, key, b"x")) is Code.INVALID_ARGUMENT
        assert await code_of(read_bytes(store, key)) is Code.INVALID_ARGUMENT
    assert files(tmp_path) == set()


async def test_a_name_of_255_bytes_can_be_stored(tmp_path: Path) -> None:
    key = "ю" * 127 + "x"
    async with make(tmp_path) as store:
        await write_bytes(store, key, b"value")
        assert await read_bytes(store, key) == b"value"
    assert files(tmp_path) == {key}


async def test_content_and_temp_path_must_be_on_one_filesystem(tmp_path: Path) -> None:
    other = Path("/dev/shm")  # the one other filesystem that Linux always has
    if device_of(other) in {None, device_of(tmp_path)}:
        pytest.skip("this machine has one filesystem only")
    temp = other / f"nativelink-test-{os.getpid()}"
    store = FilesystemStore(
        content_path=tmp_path, temp_path=temp, eviction=EvictionPolicy(), clock=FakeClock()
    )
    try:
        with pytest.raises(NativeLinkError, match="must be on one filesystem") as caught:
            await store.__aenter__()
    finally:
        for name in ("d", "s"):
            (temp / name).rmdir()
        temp.rmdir()
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_content_and_temp_path_must_not_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / str(blob(SMALL)[0])).write_bytes(blob(SMALL)[1])
    store = FilesystemStore(
        content_path=tmp_path, temp_path=tmp_path, eviction=EvictionPolicy(), clock=FakeClock()
    )
    with pytest.raises(NativeLinkError, match="the same directory") as caught:
        await store.__aenter__()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert files(tmp_path) == {str(blob(SMALL)[0])}


async def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "content").write_text("a file")
    with pytest.raises(NativeLinkError, match=str(tmp_path / "content")) as caught:
        await make(tmp_path).__aenter__()
    assert caught.value.code is Code.FAILED_PRECONDITION


# Start


async def test_start_up_tidies_its_own_directories_and_leaves_what_is_foreign_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old_layout, data = blob(SMALL)
    content, temp = tmp_path / "content", tmp_path / "temp"
    for directory in ("content/d/subdirectory", "content/s", "content/foreign", "temp/d", "temp/s"):
        (tmp_path / directory).mkdir(parents=True)
    (content / str(old_layout)).write_bytes(data)
    (content / "foreign.txt").write_text("somebody's")
    (content / "foreign" / "file").write_text("somebody's")
    upper = "AB" * 32 + "-3"
    for name in ("garbage", upper, "ab" * 32 + "-03"):
        (content / "d" / name).write_text("abc")
    (content / "s" / "name").write_text("value")
    for name in ("d", "s"):
        (temp / name / "unfinished").write_text("part")
    caplog.set_level(logging.WARNING)
    async with make(tmp_path) as store:
        assert files(temp) == set()
        await scanned(store)
        assert await read_bytes(store, old_layout) == data
        assert await store.has(["name", "garbage", "foreign.txt"]) == [5, None, None]
        assert store.statistics().entries.count == 2
    assert files(content / "d") == {str(old_layout)}
    assert (content / "d" / "subdirectory").is_dir()
    assert files(content / "foreign") == {"file"}
    assert (content / "foreign.txt").exists()
    assert not (content / str(old_layout)).exists()
    assert "foreign, foreign.txt" in caplog.text
    assert "subdirectory" in caplog.text


def aged(root: Path, ages_s: dict[int, tuple[float, float]], now: float) -> list[Digest]:
    """Files of a byte each whose access and modification were so many seconds ago."""
    (root / "content" / "d").mkdir(parents=True)
    keys = []
    for seed, (accessed, modified) in ages_s.items():
        key, data = blob(1, seed)
        key = Digest(f"{seed:064x}", 1)
        path_of(root, key).write_bytes(data)
        os.utime(path_of(root, key), (now - accessed, now - modified))
        keys.append(key)
    return keys


async def test_after_a_restart_the_least_recently_used_file_leaves_first(tmp_path: Path) -> None:
    clock = FakeClock()
    ages = {0: (50.0, 900.0), 1: (10.0, 900.0), 2: (900.0, 30.0), 3: (70.0, 900.0)}
    a, b, c, d = aged(tmp_path, ages, clock.time())
    gone: list[StoreKey] = []
    store = make(tmp_path, clock=clock, eviction=EvictionPolicy(max_count=4))
    store.on_removed(gone.append)
    async with store:
        await scanned(store)
        for seed in range(4):
            await write_bytes(store, f"new {seed}", b"x")
    assert gone == [d, a, c, b]
    assert files(tmp_path) == {f"new {seed}" for seed in range(4)}


async def test_after_a_restart_ages_go_on(tmp_path: Path) -> None:
    clock = FakeClock()
    ages = {0: (50.0, 50.0), 1: (110.0, 110.0), 2: (-500.0, -500.0), 3: (110.0, 90.0)}
    a, _, c, d = aged(tmp_path, ages, clock.time())
    store = make(tmp_path, clock=clock, eviction=EvictionPolicy(max_seconds=100))
    async with store:
        await scanned(store)
        assert await wait_for_files(tmp_path, {str(a), str(c), str(d)})
        clock.advance(40)
        await write_bytes(store, "new", b"x")
        assert await wait_for_files(tmp_path, {str(a), str(c), "new"})
        clock.advance(61)
        assert await store.has([a, c, "new"]) == [None, None, 1]


async def wait_for_files(root: Path, names: set[str]) -> bool:
    await wait_until(lambda: files(root) == names)
    return True


# The scan while serving


async def test_the_store_serves_while_the_scan_runs(tmp_path: Path, held_scan: Held) -> None:
    key, data = blob(SMALL)
    other, other_data = blob(LARGE)
    absent, _ = blob(5)
    path_of(tmp_path, key).parent.mkdir(parents=True)
    path_of(tmp_path, key).write_bytes(data)
    path_of(tmp_path, other).write_bytes(other_data)
    new, new_data = blob(SMALL, 1)
    async with make(tmp_path) as store:
        assert store.statistics().scanning
        assert await store.has([absent, key, new, key, other]) == [
            None, SMALL, None, SMALL, LARGE,
        ]  # fmt: skip
        assert await read_bytes(store, other, offset=5, limit=10) == other_data[5:15]
        assert await code_of(read_bytes(store, absent)) is Code.NOT_FOUND
        await write_bytes(store, new, new_data)
        assert await read_bytes(store, new) == new_data
        assert store.statistics().scanning
        held_scan.release()
        await scanned(store)
        assert store.statistics().entries.count == 3
        assert await store.has([absent, key, new, other]) == [None, SMALL, SMALL, LARGE]


async def test_the_scan_believes_nothing_about_files_that_changed_meanwhile(
    tmp_path: Path, held_scan: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, removed = "replaced", "removed"
    directory = tmp_path / "content" / "s"
    directory.mkdir(parents=True)
    (directory / replaced).write_bytes(b"old")
    (directory / removed).write_bytes(b"old")
    listed = Held(lambda self, runs: hand_over(self, runs))
    hand_over = filesystem_scan.StartupScan._hand_over
    monkeypatch.setattr(
        filesystem_scan.StartupScan, "_hand_over", lambda self, runs: listed(self, runs)
    )
    async with make(tmp_path, eviction=EvictionPolicy(max_count=2)) as store:
        held_scan.release()
        await wait_until(lambda: listed.calls == 1)
        # The thread knows the old files now, and has not told anyone.
        assert await store.has([removed]) == [3]
        await write_bytes(store, replaced, b"a new value")
        await write_bytes(store, "third", b"x")
        assert await wait_for_files(tmp_path, {replaced, "third"})
        listed.release()
        await scanned(store)
        assert await store.has([replaced, removed, "third"]) == [11, None, 1]
        assert await read_bytes(store, replaced) == b"a new value"


async def test_leaving_stops_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(tmp_path, dict.fromkeys(range(30), (1.0, 1.0)), 0.0)
    monkeypatch.setattr(filesystem_scan, "_SLICE", 1)
    before = threading.active_count()
    async with make(tmp_path) as store:
        await wait_until(lambda: store.statistics().entries.count > 2)
    assert store.statistics().entries.count < 30
    assert threading.active_count() == before


async def test_a_directory_that_cannot_be_listed_leaves_the_store_looking_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path: Path) -> Any:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(filesystem_scan, "list_directory", broken)
    (tmp_path / "content" / "s").mkdir(parents=True)
    (tmp_path / "content" / "s" / "name").write_bytes(b"value")
    async with make(tmp_path) as store:
        await wait_until(lambda: "the disk is broken" in caplog.text)
        assert await store.has(["name", "other"]) == [5, None]


# Changes behind the store's back


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("change", ["deleted", "truncated", "emptied", "grown"])
async def test_a_file_that_somebody_changed_is_absent(
    change: str, size: int, tmp_path: Path
) -> None:
    key, data = blob(size)
    gone: list[StoreKey] = []
    store = make(tmp_path)
    store.on_removed(gone.append)
    async with store:
        await scanned(store)
        await write_bytes(store, key, data)
        path = path_of(tmp_path, key)
        path.chmod(0o644)
        if change == "deleted":
            path.unlink()
        else:
            wrong = {"truncated": data[:-1], "emptied": b"", "grown": data + b"x"}[change]
            path.write_bytes(wrong)
        for offset, limit in ((0, None), (10, 5)):
            sink = Sink()
            assert await code_of(store.get(key, sink, offset=offset, limit=limit)) is Code.NOT_FOUND
            assert sink.pieces == []
        assert await store.has([key]) == [None]
        assert gone == [key]
        assert await wait_for_files(tmp_path, set())
        await write_bytes(store, key, data)
        assert await read_bytes(store, key) == data


@pytest.mark.usefixtures("_disk")
async def test_a_file_truncated_while_it_is_read_ends_the_read_with_data_loss(
    tmp_path: Path,
) -> None:
    key, data = blob(3_000_000)
    async with make(tmp_path) as store:
        await write_bytes(store, key, data)
        path = path_of(tmp_path, key)
        path.chmod(0o644)
        sink = Sink(lambda: os.truncate(path, 1_500_000))
        assert await code_of(store.get(key, sink)) is Code.DATA_LOSS
        got = b"".join(sink.pieces)
        assert data.startswith(got)
        assert len(got) < len(data)
        assert await store.has([key]) == [None]


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_value_replaced_while_it_is_opened_is_no_changed_file(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader gets one of the values, whole, and the new one stays."""
    old, new = blob(size)[1], blob(size + 1)[1]
    async with make(tmp_path) as store:
        await write_bytes(store, "key", old)
        async with asyncio.TaskGroup() as tasks:
            reads = [tasks.create_task(read_bytes(store, "key")) for _ in range(20)]
            tasks.create_task(write_bytes(store, "key", new))
            for _ in range(20):
                await asyncio.sleep(0)
                reads.append(tasks.create_task(read_bytes(store, "key")))
        assert {read.result() for read in reads} <= {old, new}
        assert await read_bytes(store, "key") == new


# Values that are there already


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE, 3_000_000])
async def test_an_identical_value_is_not_written_again(size: int, tmp_path: Path) -> None:
    key, data = blob(size)
    async with make(tmp_path) as store:
        await write_bytes(store, key, data)
        inode = path_of(tmp_path, key).stat().st_ino
        assert await store.put(key, PiecesSource.split(data, 100_000)) == size
        assert path_of(tmp_path, key).stat().st_ino == inode
        assert store.statistics().commits.committed == 1
    assert files(tmp_path) == {str(key)}


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [SMALL, LARGE, 3_000_000])
@pytest.mark.parametrize("differs_at", [0, -1])
@pytest.mark.parametrize("announced", [True, False])
async def test_another_value_of_the_same_size_replaces_the_older_one(
    size: int, differs_at: int, announced: bool, tmp_path: Path
) -> None:
    """An action cache's keys are digests of something else than their values."""
    key, data = blob(size)
    other = bytearray(data)
    other[differs_at] ^= 1
    async with make(tmp_path) as store:
        await write_bytes(store, key, data)
        source = PiecesSource.split(bytes(other), 100_000, announced=announced)
        assert await store.put(key, source) == size
        assert await read_bytes(store, key) == other
    assert files(tmp_path) == {str(key)}


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("difference", [-1, -1_500_000, 1])
async def test_a_value_that_begins_like_the_older_one_replaces_it(
    difference: int, tmp_path: Path
) -> None:
    _, data = blob(3_000_001)
    older, newer = data[:3_000_000], data[: 3_000_000 + difference]
    async with make(tmp_path) as store:
        await write_bytes(store, "key", older)
        await store.put("key", PiecesSource.split(newer, 100_000))
        assert await read_bytes(store, "key") == newer


# Eviction


async def test_sizes_count_in_whole_blocks(tmp_path: Path) -> None:
    policy = EvictionPolicy(max_bytes=3 * 512)
    async with make(tmp_path, eviction=policy, block_size=512) as store:
        await write_bytes(store, "a", b"x")
        await write_bytes(store, "b", b"x" * 512)
        assert store.statistics().entries.total_bytes == 1024
        await write_bytes(store, "c", b"x")
        assert await store.has(["a", "b", "c"]) == [None, 512, 1]
        assert await wait_for_files(tmp_path, {"b", "c"})


async def test_a_value_that_would_evict_everything_is_read_and_dropped(tmp_path: Path) -> None:
    gone: list[StoreKey] = []
    store = make(tmp_path, eviction=EvictionPolicy(max_bytes=2_000_000))
    store.on_removed(gone.append)
    async with store:
        await write_bytes(store, "kept", b"x")
        for announced in (True, False):
            for size in (1_999_000, 5_000_000):
                source = PiecesSource.split(bytes(size), 300_000, announced=announced)
                assert await store.put("huge", source) == size
                assert await source.read() == b""
        assert await store.has(["kept", "huge"]) == [1, None]
        assert gone == ["huge"] * 4
    assert files(tmp_path) == {"kept"}


async def test_a_key_put_again_while_its_evicted_file_is_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removal = Held(Layout.remove)
    monkeypatch.setattr(Layout, "remove", lambda self, key: removal(self, key))
    async with make(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, "a", b"old")
        await write_bytes(store, "b", b"x")
        await wait_until(lambda: removal.calls == 1)
        assert await store.has(["a"]) == [None]
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(write_bytes(store, "a", b"newer"))
            # It cannot be published while the old file may still be taken away.
            await wait_until(lambda: store.statistics().commits.cycles > 6)
            assert not putting.done()
            removal.release()
        assert await read_bytes(store, "a") == b"newer"
        assert await wait_for_files(tmp_path, {"a"})


async def test_a_blob_evicted_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    key, data = blob(LARGE)
    gate = Gate()
    async with make(tmp_path, eviction=EvictionPolicy(max_count=1)) as store:
        await write_bytes(store, key, data)

        class Waiting(Sink):
            async def write(self, chunk: Chunk, /) -> None:
                await super().write(chunk)
                await gate.wait()

        sink = Waiting()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(store.get(key, sink))
            await wait_until(lambda: bool(sink.pieces))
            await write_bytes(store, "other", b"x")
            assert await wait_for_files(tmp_path, {"other"})
            gate.open()
        assert b"".join(sink.pieces) == data


# A full disk


def full_after(monkeypatch: pytest.MonkeyPatch, size: int, code: int = errno.ENOSPC) -> None:
    """Writes fail once a call would write more than `size` bytes."""
    write_all = disk.write_all

    def limited(fd: int, chunks: list[Chunk]) -> int:
        if sum(map(len, chunks)) > size:
            os.write(fd, b"".join(chunks)[:size])
            raise OSError(code, os.strerror(code))
        return write_all(fd, chunks)

    monkeypatch.setattr("nativelink.stores.filesystem_write.write_all", limited)


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("size", [1001, 400_000, 3_000_000])
async def test_a_full_disk_fails_the_write_alone(
    size: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 1000, code)
    async with make(tmp_path) as store:
        async with asyncio.TaskGroup() as tasks:
            small = [tasks.create_task(write_bytes(store, f"{n}", b"x")) for n in range(10)]
            big = tasks.create_task(
                code_of(store.put("big", PiecesSource.split(bytes(size), 50_000)))
            )
        assert [task.result() for task in small] == [1] * 10
        assert big.result() is Code.RESOURCE_EXHAUSTED
        assert await store.has(["big"]) == [None]
        assert files(tmp_path) == {f"{n}" for n in range(10)}


@pytest.mark.usefixtures("_disk")
@pytest.mark.parametrize("size", [300_000, 9_000_000])
@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((errno.EIO,), Code.INTERNAL),
        ((errno.ENOSPC,), Code.RESOURCE_EXHAUSTED),
        ((errno.EINVAL, errno.ENOSYS), None),
    ],
)
async def test_what_the_disk_did_not_take_is_told_where_linux_tells_it_once(
    size: int,
    errors: tuple[int, ...],
    code: Code | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = 0

    def sync_file_range(fd: int, offset: int, length: int, flags: int) -> int:
        nonlocal waiting
        if flags == disk._RANGE_WRITE:
            return 0
        ctypes.set_errno(errors[waiting % len(errors)])
        waiting += 1
        return -1

    monkeypatch.setattr(disk, "_sync_file_range", sync_file_range)
    async with make(tmp_path) as store:
        put = store.put("big", PiecesSource.split(bytes(size), 50_000))
        if code is None:
            assert await put == size
        else:
            assert await code_of(put) is code
            assert await store.has(["big"]) == [None]
        assert files(tmp_path) == ({"big"} if code is None else set())
    assert waiting


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of so many bytes."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "none", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize(
    ("small_disk", "size"), [(128 << 10, 200_000), (8 << 20, 9_000_000)], indirect=["small_disk"]
)
async def test_a_really_full_disk_fails_the_write_alone(small_disk: Path, size: int) -> None:
    async with make(small_disk) as store:
        await scanned(store)
        await write_bytes(store, "kept", b"x" * 4096)
        big = PiecesSource.split(bytes(size), 65_536)
        assert await code_of(store.put("big", big)) is Code.RESOURCE_EXHAUSTED
        assert files(small_disk) == {"kept"}
        assert await store.has(["kept", "big"]) == [4096, None]
        # What was written of it is gone, so there is room again.
        await write_bytes(store, "small", bytes(50_000))
        assert await read_bytes(store, "small") == bytes(50_000)


async def test_below_the_low_water_mark_the_oldest_files_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    available = 1 << 30
    monkeypatch.setattr(DiskSpace, "of", lambda fd: DiskSpace(1 << 30, available))
    async with make(tmp_path) as store:
        await scanned(store)
        for n in range(4):
            await write_bytes(store, f"{n}", bytes(20 << 20))
        assert store.statistics().entries.count == 4
        # A tenth of the disk is to be free, 102 MiB; one step of 12 MiB is freed beyond.
        available = 90 << 20
        await write_bytes(store, "last", bytes(20 << 20))
        assert await store.has(["0", "1", "2"]) == [None, None, 20 << 20]
    assert "90 MiB are free" in caplog.text
    assert files(tmp_path) == {"2", "3", "last"}


# Durable before acknowledged


async def test_data_is_synced_before_the_rename_and_the_rename_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = group_commit.DiskSync.sync, Layout.publish

    def recorded_sync(self: Any, fds: Any, directories: Any) -> Any:
        events.append(
            "sync of " + " and ".join(["data"] * bool(fds) + ["names"] * bool(directories))
        )
        return sync(self, fds, directories)

    def recorded_rename(self: Any, name: str, key: StoreKey) -> int:
        events.append(f"rename {key}")
        return rename(self, name, key)

    monkeypatch.setattr(group_commit.DiskSync, "sync", recorded_sync)
    monkeypatch.setattr(Layout, "publish", recorded_rename)
    async with make(tmp_path) as store:
        # New and replaced, alone and with others.
        await scanned(store)
        sizes = count(1)
        for keys in (["a"], ["a"], [f"{number}" for number in range(5)]):
            events.clear()
            size = next(sizes)
            await run_all(write_bytes(store, key, b"x" * size) for key in keys)
            events.append("answer")
            renames = [f"rename {key}" for key in keys]
            assert events == ["sync of data", *renames, "sync of names", "answer"]


async def test_many_uploads_share_few_syncs(tmp_path: Path) -> None:
    async with make(tmp_path) as store:
        async with asyncio.TaskGroup() as tasks:
            for n in range(200):
                tasks.create_task(write_bytes(store, f"{n}", b"x" * n))
        statistics = store.statistics().commits
    assert statistics.committed == 200
    assert statistics.waiting == 0
    assert statistics.cycles <= 6


@pytest.mark.parametrize("size", [SMALL, LARGE, 3_000_000])
async def test_a_put_cancelled_before_its_rename_leaves_nothing(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = Held(group_commit.DiskSync.sync)
    async with make(tmp_path) as store:
        await scanned(store)
        monkeypatch.setattr(
            group_commit.DiskSync, "sync", lambda self, fds, names: sync(self, fds, names)
        )
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(write_bytes(store, "key", bytes(size)))
            other = tasks.create_task(write_bytes(store, "other", b"x"))
            await wait_until(lambda: sync.calls == 1)
            await wait_until(lambda: store.statistics().commits.waiting == 2)
            putting.cancel()
            await wait_until(putting.done)
            assert len(files(tmp_path)) == 1
            sync.release()
        assert putting.cancelled()
        assert other.result() == 1
        assert await store.has(["key", "other"]) == [None, 1]
    assert files(tmp_path) == {"other"}


async def test_a_file_that_cannot_be_synced_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(fd: int) -> bool:
        raise OSError(errno.EIO, "something was lost")

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size == 13:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    real = os.fsync
    async with make(tmp_path) as store:
        monkeypatch.setattr(group_commit, "syncfs", sync)
        monkeypatch.setattr(os, "fsync", fsync)
        async with asyncio.TaskGroup() as tasks:
            good = [tasks.create_task(write_bytes(store, f"{n}", b"x")) for n in range(5)]
            bad = tasks.create_task(code_of(write_bytes(store, "bad", bytes(13))))
        assert [task.result() for task in good] == [1] * 5
        assert bad.result() is Code.RESOURCE_EXHAUSTED
        assert await store.has(["bad"]) == [None]
    assert files(tmp_path) == {f"{n}" for n in range(5)}


async def test_nothing_is_acknowledged_when_the_directory_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with make(tmp_path) as store:
        monkeypatch.setattr(group_commit, "syncfs", lambda fd: False)
        monkeypatch.setattr(os, "fsync", fsync)
        assert await code_of(write_bytes(store, "a", b"x")) is Code.INTERNAL
        monkeypatch.undo()
        await write_bytes(store, "a", b"x")
        assert await read_bytes(store, "a") == b"x"


# Bounds and lifetime


@pytest.mark.parametrize(("allowed", "threads"), [(0, 4), (1, 1), (3, 3), (4, 4), (100, 4)])
async def test_max_concurrent_writes_is_honoured(
    tmp_path: Path, allowed: int, threads: int
) -> None:
    meeting = threading.Barrier(threads)
    async with make(tmp_path, max_concurrent_writes=allowed) as store:
        assert store.statistics().writes.threads == threads
        # As many as are allowed do write at a time: each waits until all of them are there.
        lane = store._writes
        await run_all(lane.run(lambda: meeting.wait(10)) for _ in range(threads))


async def test_uploads_that_stall_keep_nobody_from_writing(tmp_path: Path) -> None:
    gate = Gate()
    data = bytes(3_000_000)
    async with (
        make(tmp_path, max_concurrent_writes=1) as store,
        asyncio.TaskGroup() as tasks,
    ):
        for n in range(3):
            source = FaultySource(PiecesSource.split(data, 500_000), gate=gate, gate_at=2_000_000)
            tasks.create_task(store.put(f"stalled {n}", source))
        await wait_until(lambda: gate.waiting == 3)
        for n in range(3):
            assert await store.put(f"{n}", PiecesSource.split(data, 500_000)) == len(data)
        gate.open()


async def test_leaving_waits_for_commits_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    before = threading.active_count()
    store = make(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        async with store:
            puts = [tasks.create_task(write_bytes(store, f"{n}", b"x")) for n in range(20)]
            await wait_until(lambda: store.statistics().commits.waiting == 20)
        assert files(tmp_path) == {f"{n}" for n in range(20)}
        assert files(tmp_path / "temp") == set()
    assert [put.result() for put in puts] == [1] * 20
    assert threading.active_count() == before


async def test_the_health_check_looks_at_the_directory(tmp_path: Path) -> None:
    async with make(tmp_path) as store:
        await store.check()
        (tmp_path / "content").rename(tmp_path / "elsewhere")
        assert await code_of(store.check()) is Code.UNAVAILABLE


async def test_the_page_cache_is_evicted_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[int] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, start, length, advice: advised.append(advice)
    )
    key, data = blob(LARGE)
    for evict_page_cache in (False, True):
        async with make(
            tmp_path / f"{evict_page_cache}", evict_page_cache=evict_page_cache
        ) as store:
            await write_bytes(store, key, data)
            assert await read_bytes(store, key) == data
        assert advised == [os.POSIX_FADV_DONTNEED] * (2 if evict_page_cache else 0)
