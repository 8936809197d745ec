"""Whole trees, built once and shown to many."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.stores.disk import DiskLane
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.join.fast_slow import FastSlowStore
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from nativelink.worker import directory_cache
from nativelink.worker.directory_cache import DirectoryCache
from nativelink.worker.directory_message import Directory, FileNode
from nativelink.worker.hands import process
from nativelink.worker.hands.pool import Hands
from nativelink.worker.inputs import InputStager
from nativelink.worker.tree import InputTree, TreeFetcher
from tests.worker.input_trees import File, Link, Tree, blob, put_tree
from tests.worker.test_inputs import ATTACKS, HARMLESS, mode, names, run, there


def tree_of(name: str, size: int = 10) -> InputTree:
    """A tree of one file."""
    root, file = blob(name.encode()), Digest(blob(name.encode()).hash, size)
    directory = Directory(files=(FileNode("file", file, False, None, None),))
    return InputTree(root, {root: directory}, 2, 1)


A, B, C = tree_of("a"), tree_of("b"), tree_of("c")


async def build(path: Path) -> None:
    make(path)


def make(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("data")


@pytest.fixture
async def hands() -> AsyncIterator[Hands]:
    async with Hands(1) as hands:
        yield hands


def kept(root: Path) -> set[str]:
    return set(names(root))


# What is kept. None of this mounts anything.


async def test_a_tree_is_built_once(tmp_path: Path, hands: Hands) -> None:
    cache = DirectoryCache(tmp_path / "root", hands)
    await cache.open()
    built: list[Path] = []

    async def build_and_count(path: Path) -> None:
        built.append(path)
        await build(path)

    first = await cache.lease(A, build_and_count)
    assert await cache.lease(A, build_and_count) is first
    assert len(built) == 1
    assert built[0].name.startswith(".tmp-")
    assert kept(tmp_path / "root") == {str(A.root)}
    assert first.path == tmp_path / "root" / str(A.root)
    assert (cache.statistics.hits, cache.statistics.misses) == (1, 1)


async def test_those_who_want_a_tree_that_is_being_built_wait_for_it(
    tmp_path: Path, hands: Hands
) -> None:
    cache = DirectoryCache(tmp_path / "root", hands)
    await cache.open()
    built = 0

    async def build_slowly(path: Path) -> None:
        nonlocal built
        built += 1
        await asyncio.sleep(0)
        await build(path)

    trees = await run_all(cache.lease(A, build_slowly) for _ in range(5))
    assert built == 1
    assert len(set(trees)) == 1
    assert trees[0].leases == 5


async def test_a_tree_that_cannot_be_built_leaves_nothing_and_the_next_one_tries(
    tmp_path: Path, hands: Hands
) -> None:
    cache = DirectoryCache(tmp_path / "root", hands)
    await cache.open()

    async def fail(path: Path) -> None:
        await build(path)
        await asyncio.sleep(0)
        raise OSError(28, "No space left on device")

    async def attempt(how: Callable[[Path], Awaitable[None]]) -> bool:
        try:
            await cache.lease(A, how)
        except OSError:
            return False
        return True

    assert await run_all([attempt(fail), attempt(fail), attempt(build)]) == [False, False, True]
    assert kept(tmp_path / "root") == {str(A.root)}


async def test_the_least_recently_used_tree_leaves_first(tmp_path: Path, hands: Hands) -> None:
    cache = DirectoryCache(tmp_path / "root", hands, max_entries=2)
    await cache.open()
    for tree in (A, B, A, C):
        await cache.release(await cache.lease(tree, build))
    assert kept(tmp_path / "root") == {str(A.root), str(C.root)}
    assert cache.statistics.evicted == 1
    assert cache.statistics.entries == 2


async def test_trees_leave_by_their_size(tmp_path: Path, hands: Hands) -> None:
    cache = DirectoryCache(tmp_path / "root", hands, max_size_bytes=100)
    await cache.open()
    for tree in (tree_of("1", 60), tree_of("2", 30), tree_of("3", 20)):
        await cache.release(await cache.lease(tree, build))
    assert cache.statistics.size_bytes == 50
    assert len(kept(tmp_path / "root")) == 2


async def test_a_tree_in_use_stays_until_its_release(tmp_path: Path, hands: Hands) -> None:
    cache = DirectoryCache(tmp_path / "root", hands, max_entries=1)
    await cache.open()
    used = await cache.lease(A, build)
    other = await cache.lease(B, build)
    assert kept(tmp_path / "root") == {str(A.root), str(B.root)}
    await cache.release(other)
    assert kept(tmp_path / "root") == {str(A.root)}
    await cache.release(used)
    assert kept(tmp_path / "root") == {str(A.root)}


async def test_nothing_of_an_earlier_process_is_believed(tmp_path: Path, hands: Hands) -> None:
    root = tmp_path / "root"
    for name in (str(A.root), ".tmp-1", ".del-2"):
        (root / name / "deep").mkdir(parents=True)
    await DirectoryCache(root, hands).open()
    assert kept(root) == set()


async def test_where_mounting_is_forbidden_that_is_said_once(
    tmp_path: Path, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    odd = tmp_path / "with,comma"
    assert not await DirectoryCache(odd, hands).open()
    assert "does not let us mount" in caplog.text
    assert kept(odd) == set()


# What is shown.


@asynccontextmanager
async def opened(
    root: Path, hands: Hands, *, small_nodes: int = 0
) -> AsyncIterator[tuple[DictStore, InputStager]]:
    lane = DiskLane("test", threads=2)
    lane.start()
    backend = DictStore()
    fast = FilesystemStore(
        content_path=root / "content",
        temp_path=root / "temp",
        eviction=EvictionPolicy(),
        clock=FakeClock(),
    )
    async with fast:
        await wait_until(lambda: not fast.statistics().scanning)
        cas = FastSlowStore(fast, backend)
        cache = DirectoryCache(root / "cache", hands, max_entries=1)
        if not await cache.open():
            pytest.skip("this machine does not let us mount")
        stager = InputStager(
            cas,
            fast.files,
            hands,
            trees=TreeFetcher(cas),
            lane=lane,
            cache=cache,
            small_nodes=small_nodes,
        )
        yield backend, stager
    await lane.close()


TREE: Tree = {
    "input": b"input",
    "program": File(b"program", is_executable=True),
    "link": Link("sub"),
    "sub": {"file": b"file", "time": File(b"x", mode=0o640, mtime_s=1_000_000)},
}


async def test_a_tree_is_shown_as_it_would_be_linked(tmp_path: Path, hands: Hands) -> None:
    async with opened(tmp_path, hands) as (backend, stager):
        root = await put_tree(backend, TREE)
        action = tmp_path / "action"
        action.mkdir()
        staged = await stager.stage(root, action / "work", directories=["out/deep", "sub/new"])
        work = action / "work"
        assert (work / "link" / "file").read_bytes() == b"file"
        assert mode(work / "input") == 0o444
        assert mode(work / "program") == 0o555
        assert mode(work / "sub" / "time") == 0o640
        assert (work / "sub" / "time").stat().st_mtime == 1_000_000
        for path in ("", "out/deep", "sub/new"):
            assert mode(work / path) == 0o755
        run("echo made > out/deep/er; mv sub renamed; rm input", work)
        assert (work / "renamed" / "file").read_bytes() == b"file"
        assert stager.backing(work / "out" / "deep" / "er") == (
            action / "work.upper" / "out" / "deep" / "er"
        )
        assert stager.backing(work / "program") == work / "program"
        assert stager.backing(action / "stdout") == action / "stdout"
        assert stager.backing(tmp_path / "elsewhere") == tmp_path / "elsewhere"
        assert await staged.modified() == ()
        await staged.release()
        await stager.remove(action)
        assert not there(action)
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()  # noqa: ASYNC240 - no disk
        kept_tree = tmp_path / "cache" / str(root)
        assert sorted(names(kept_tree)) == ["input", "link", "program", "sub"]


async def test_an_output_beside_a_shown_tree_is_moved_into_the_store(
    tmp_path: Path, hands: Hands
) -> None:
    async with opened(tmp_path, hands) as (backend, stager):
        root = await put_tree(backend, TREE)
        (tmp_path / "action").mkdir()
        work = tmp_path / "action" / "work"
        await stager.stage(root, work, directories=["out"])
        run("printf made > out/file", work)
        files = stager._files
        assert not await files.adopt(blob(b"made"), work / "out" / "file")
        assert await files.adopt(blob(b"made"), stager.backing(work / "out" / "file"))
        assert (tmp_path / "content" / "d" / str(blob(b"made"))).read_bytes() == b"made"
        await stager.remove(tmp_path / "action")
        assert not there(tmp_path / "action")


async def test_trees_are_not_shown_to_namespaces_that_would_not_see_them(
    tmp_path: Path, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    lines = {
        False: b"1 0 8:1 / / rw,relatime - ext4 /dev/vda rw",
        True: b"1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw",
    }
    inner = b"2 1 8:1 / /with\\040space rw,relatime master:3 - ext4 /dev/vda rw"
    info = tmp_path / "mountinfo"
    for is_shared, line in lines.items():
        info.write_bytes(line + b"\n" + inner + b"\n")
        assert directory_cache.is_shared(Path("/work"), info) == is_shared
        assert not directory_cache.is_shared(Path("/with space/work"), info)
    info.write_bytes(lines[False])
    cache = DirectoryCache(tmp_path / "cache", hands)
    assert not directory_cache.is_shared(tmp_path, info)
    if not directory_cache.is_shared(tmp_path):
        assert not await cache.open(to_namespaces_from=tmp_path)
        assert "not mounted shared" in caplog.text


@pytest.mark.parametrize("small_nodes", [0, 12])
@pytest.mark.parametrize("script", [*ATTACKS.values(), *HARMLESS.values()])
async def test_what_is_shown_or_copied_cannot_be_damaged(
    tmp_path: Path, hands: Hands, script: str, small_nodes: int
) -> None:
    async with opened(tmp_path, hands, small_nodes=small_nodes) as (backend, stager):
        root = await put_tree(backend, {"input": b"input", "sub": {"input": b"input"}})
        action = tmp_path / "action"
        action.mkdir()
        await stager.stage(root, action / "work", directories=[])
        for directory in (action / "work", action / "work" / "sub"):
            assert (directory / "input").read_bytes() == b"input"
            run(script, directory)
        stored = tmp_path / "content" / "d" / str(blob(b"input"))
        assert stored.read_bytes() == b"input"
        assert mode(stored) == 0o444
        await stager.remove(action)


async def test_a_small_tree_is_copied_instead_of_shown(tmp_path: Path, hands: Hands) -> None:
    async with opened(tmp_path, hands, small_nodes=2) as (backend, stager):
        small = await put_tree(backend, {"file": b"file"})
        long = await put_tree(backend, {"file": b"x" * 65537})
        large = await put_tree(backend, {"file": b"file", "other": b"other"})
        for number, root in enumerate((small, long, large)):
            action = tmp_path / str(number)
            action.mkdir()
            await stager.stage(root, action / "work", directories=[])
            assert (action / "work" / "file").stat().st_nlink == (1 if root == small else 2)
        assert kept(tmp_path / "cache") == {str(long), str(large)}
        for number in range(3):
            await stager.remove(tmp_path / str(number))


async def test_a_tree_that_is_shown_is_not_evicted(tmp_path: Path, hands: Hands) -> None:
    async with opened(tmp_path, hands) as (backend, stager):
        for name in ("one", "two", "three"):
            (tmp_path / name).mkdir()
            root = await put_tree(backend, {"file": name.encode()})
            staged = await stager.stage(root, tmp_path / name / "work", directories=[])
            await staged.release()
        for name in ("one", "two", "three"):
            assert (tmp_path / name / "work" / "file").read_bytes() == name.encode()
            await stager.remove(tmp_path / name)
        assert len(kept(tmp_path / "cache")) == 1


async def test_missing_inputs_are_named_as_without_a_cache(tmp_path: Path, hands: Hands) -> None:
    async with opened(tmp_path, hands) as (backend, stager):
        root = await put_tree(backend, {"lost": File(b"lost", stored=False)})
        (tmp_path / "action").mkdir()
        with pytest.raises(NativeLinkError) as caught:
            await stager.stage(root, tmp_path / "action" / "work", directories=[])
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert caught.value.details == (MissingBlob(blob(b"lost")),)
        assert kept(tmp_path / "cache") == set()


async def test_a_tree_that_cannot_be_shown_now_is_copied(
    tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links beside kept trees would share inodes with what others are shown."""
    async with opened(tmp_path, hands) as (backend, stager):
        root = await put_tree(backend, TREE)
        run_job = hands.run

        async def no_mounts(job: str, *arguments: object, steps: int | None = None) -> None:
            if job == "show":
                Path(str(arguments[1])).mkdir()  # noqa: ASYNC240 - quick
                raise OSError(1, "Operation not permitted")
            await run_job(job, *arguments, steps=steps)

        monkeypatch.setattr(hands, "run", no_mounts)
        (tmp_path / "action").mkdir()
        staged = await stager.stage(root, tmp_path / "action" / "work", directories=["out"])
        for name, permissions in (("input", 0o444), ("program", 0o555)):
            assert (tmp_path / "action" / "work" / name).stat().st_nlink == 1
            assert mode(tmp_path / "action" / "work" / name) == permissions
        # The next action's inputs may be shown again, in a directory with nothing in it.
        assert staged.inside is None
        run("echo x >> input", tmp_path / "action" / "work")
        assert await staged.modified() == ()
        await staged.release()
        await stager.remove(tmp_path / "action")
        assert not there(tmp_path / "action")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
async def test_mounts_of_a_process_that_was_killed_are_removed(
    tmp_path: Path, hands: Hands
) -> None:
    (tmp_path / "kept" / "sub").mkdir(parents=True)
    (tmp_path / "kept" / "sub" / "file").write_text("x")
    (tmp_path / "action").mkdir()
    try:
        process.JOBS["show"](str(tmp_path / "kept"), str(tmp_path / "action" / "work"), [], [])
    except OSError:
        pytest.skip("this machine does not let us mount")
    await hands.run("remove", str(tmp_path / "action"))
    assert not there(tmp_path / "action")
    assert (tmp_path / "kept" / "sub" / "file").exists()
