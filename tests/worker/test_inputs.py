"""Inputs on the disk: what is there, what it costs the CAS, and what an action can do to it."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.streams import Sink
from nativelink.stores.store import has_one, read_bytes
from tests.worker.input_farm import Farm, opened
from tests.worker.input_trees import File, Link, Tree, blob, put_tree


@pytest.fixture
async def farm(tmp_path: Path) -> AsyncIterator[Farm]:
    async with opened(tmp_path) as farm:
        yield farm


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


TREE: Tree = {
    "file": b"file",
    "program": File(b"program", is_executable=True),
    "empty": b"",
    "empty program": File(b"", is_executable=True),
    "link": Link("sub/file"),
    "dangling": Link("/nowhere/at/all"),
    "sub": {"file": b"another", "deep": {"same": b"file"}, "void": {}},
}


# What is there.


@pytest.mark.parametrize("many", [False, True])
async def test_a_tree_is_put_in_place_with_real_modes(farm: Farm, many: bool) -> None:
    """Small trees are made on the event loop, large ones by a hand."""
    more = {f"{number}": b"%d" % number for number in range(100 if many else 0)}
    staged = await farm.stage({**TREE, "more": more})
    root = farm.root / "action"
    for path, data, permissions in (
        ("file", b"file", 0o444),
        ("program", b"program", 0o555),
        ("empty", b"", 0o444),
        ("empty program", b"", 0o555),
        ("sub/file", b"another", 0o444),
        ("sub/deep/same", b"file", 0o444),
    ):
        assert (root / path).read_bytes() == data
        assert mode(root / path) == permissions
    for path in ("", "sub", "sub/deep", "sub/void", "more"):
        assert mode(root / path) == 0o755
    assert os.readlink(root / "link") == "sub/file"  # noqa: PTH115 - exactly what is stored
    assert os.readlink(root / "dangling") == "/nowhere/at/all"  # noqa: PTH115 - likewise
    assert len(names(root / "more")) == len(more)
    assert (root / "file").stat().st_ino == (root / "sub" / "deep" / "same").stat().st_ino
    assert (root / "file").stat().st_ino == stored(farm, b"file").stat().st_ino
    assert await staged.modified() == ()
    await staged.release()
    await farm.stager.remove(root)
    assert not there(root)
    assert farm.leased == 0
    assert await farm.fast.has([blob(b"file")]) == [4]


@pytest.mark.parametrize("many", [False, True])
async def test_a_tree_is_put_in_place_where_its_directories_are_left(
    farm: Farm, many: bool
) -> None:
    more = {f"{number}": b"%d" % number for number in range(100 if many else 0)}
    digest = await put_tree(farm.backend, {**TREE, "more": more})
    action, needed = farm.root / "7", ["sub/out", "out/deep"]
    action.mkdir(0o755)
    staged = await farm.stager.stage(digest, action / "work", directories=needed)
    await staged.release()
    (action / "work/out/deep/left").write_text("left")
    was = contents(action / "work")
    assert staged.inside is not None

    kept = ["work", *(f"work/{path}" for path in staged.inside)]
    assert await farm.stager.clear(action, kept, ())
    assert contents(action / "work") == dict.fromkeys(staged.inside, 0o755)
    again = await farm.stager.stage(digest, action / "work", directories=needed, is_furnished=True)

    assert again.inside == staged.inside
    del was["out/deep/left"]
    assert contents(action / "work") == was
    await again.release()


async def test_which_directories_there_are_is_not_said_of_trees_that_may_change(farm: Farm) -> None:
    through_a_link = await farm.stage(TREE | {"way": Link("sub")}, "a", directories=["way/out"])
    digest = await put_tree(farm.backend, TREE)
    movable = await farm.stager.stage(digest, farm.root / "c", directories=(), movable=True)

    assert [each.inside for each in (through_a_link, movable)] == [None, None]
    for staged in (through_a_link, movable):
        await staged.release()


def contents(root: Path) -> dict[str, int]:
    """Paths of everything below a directory, with the modes."""
    return {str(path.relative_to(root)): mode(path) for path in root.rglob("*")}


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def there(path: Path) -> bool:
    return os.path.lexists(path)


def stored(farm: Farm, data: bytes, *, executable: bool = False) -> Path:
    files = farm.fast.files
    directory = files.executable_directory if executable else files.directory
    return directory / str(blob(data))


async def test_files_with_properties_are_copies_of_their_own(farm: Farm) -> None:
    data = b"same bytes"
    staged = await farm.stage(
        {
            "plain": data,
            "mode": File(data, mode=0o640),
            "mode program": File(data, mode=0o640, is_executable=True),
            "setuid": File(data, mode=0o4755),
            "time": File(data, mtime_s=1_000_000),
            "time program": File(data, mtime_s=1_000_000, is_executable=True),
        }
    )
    root = farm.root / "action"
    for name, permissions in (
        ("plain", 0o444),
        ("mode", 0o640),
        ("mode program", 0o751),
        ("setuid", 0o755),
        ("time", 0o444),
        ("time program", 0o555),
    ):
        assert (root / name).read_bytes() == data
        assert mode(root / name) == permissions
        assert ((root / name).stat().st_nlink > 1) == (name == "plain")
    assert (root / "time").stat().st_mtime == 1_000_000
    assert await staged.modified() == ()


async def test_directories_for_outputs_are_there(farm: Farm) -> None:
    await farm.stage(
        {"in": {"x": b"x"}},
        directories=["", "in/out", "new/deep/er", "new/deep", "./new/./other"],
    )
    root = farm.root / "action"
    for path in ("in/out", "new/deep/er", "new/other"):
        assert mode(root / path) == 0o755
    assert (root / "in" / "x").read_bytes() == b"x"


async def test_a_directory_for_outputs_cannot_be_a_file_of_the_tree(farm: Farm) -> None:
    error = await farm.refusal({"in": {"x": b"x"}}, directories=["in/x/out"])
    assert error.code is Code.INVALID_ARGUMENT
    assert "'in/x' is a file" in error.message


async def test_directories_for_outputs_are_not_made_outside_through_a_link(farm: Farm) -> None:
    outside = farm.root / "outside"
    outside.mkdir()
    await farm.stage(
        {"out": Link(str(outside)), "up": Link("../outside"), "real": {}, "inside": Link("real")},
        directories=["out/new", "up/new", "inside/new"],
    )
    assert names(outside) == []
    assert (farm.root / "action" / "real" / "new").is_dir()


async def test_the_same_tree_is_staged_side_by_side(farm: Farm) -> None:
    root = await put_tree(farm.backend, TREE)
    staged = await run_all(
        farm.stager.stage(root, farm.root / f"a{number}", directories=()) for number in range(10)
    )
    for number in range(10):
        assert (farm.root / f"a{number}" / "sub" / "deep" / "same").read_bytes() == b"file"
    for each in staged:
        assert await each.modified() == ()
        await each.release()
        await each.release()
    assert farm.leased == 0


# What is fetched.


async def test_each_blob_is_fetched_once_and_asked_for_in_one_call(farm: Farm) -> None:
    files: Tree = {f"{number}": b"%d" % (number % 50) for number in range(100)}
    await farm.stage({"sub": files})
    assert farm.slow.calls["has"] == 1
    assert farm.slow.calls["get"] == 52
    await farm.stage({"sub": files}, "again")
    assert farm.slow.calls == {"has": 1, "get": 52}


async def test_every_missing_file_is_named_at_once(farm: Farm) -> None:
    lost = [b"lost %d" % number for number in range(5)]
    error = await farm.refusal(
        {"there": b"there", "sub": {f"{data!r}": File(data, stored=False) for data in lost}}
    )
    assert error.code is Code.FAILED_PRECONDITION
    assert set(error.details) == {MissingBlob(blob(data)) for data in lost}
    assert not there(farm.root / "action")


async def test_files_that_leave_the_cas_while_they_are_fetched_are_missing(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await put_tree(farm.backend, {"a": b"a", "b": b"b", "c": b"c"})
    has = farm.slow.has

    async def lie(keys: Sequence[Any]) -> list[int | None]:
        sizes = await has(keys)
        for data in (b"a", b"c"):
            farm.backend.blobs.pop(blob(data), None)
        return sizes

    monkeypatch.setattr(farm.slow, "has", lie)
    with pytest.raises(NativeLinkError) as caught:
        await farm.stager.stage(digest, farm.root / "action", directories=())
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert set(caught.value.details) == {MissingBlob(blob(b"a")), MissingBlob(blob(b"c"))}
    assert farm.leased == 0


async def test_a_store_that_is_down_is_unavailable(farm: Farm) -> None:
    digest = await put_tree(farm.backend, TREE)
    farm.slow.go_down()
    with pytest.raises(NativeLinkError) as caught:
        await farm.stager.stage(digest, farm.root / "action", directories=())
    assert caught.value.code is Code.UNAVAILABLE
    assert farm.leased == 0


async def test_inputs_in_use_are_not_evicted(tmp_path: Path) -> None:
    async with opened(tmp_path, max_count=5) as farm:
        staged = await farm.stage({f"{number}": b"in use %d" % number for number in range(4)})
        other = await farm.stage({f"{number}": b"other %d" % number for number in range(8)}, "b")
        assert None not in await farm.fast.has([blob(b"in use %d" % number) for number in range(4)])
        await staged.release()
        await other.release()
        assert farm.leased == 0


@pytest.mark.parametrize("limit", [{"max_bytes": 8192}, {"max_count": 1}])
async def test_files_that_the_fast_side_cannot_keep_go_straight_to_the_action(
    tmp_path: Path, limit: dict[str, int]
) -> None:
    large = bytes(range(256)) * 1000
    async with opened(tmp_path, **limit) as farm:
        staged = await farm.stage(
            {"large": File(large, is_executable=True), "again": {"large": large}, "small": b"x"}
        )
        root = farm.root / "action"
        assert (root / "large").read_bytes() == large
        assert (root / "again" / "large").read_bytes() == large
        assert mode(root / "large") == 0o555
        assert mode(root / "again" / "large") == 0o444
        assert (root / "small").read_bytes() == b"x"
        await staged.release()
        assert farm.leased == 0


async def test_a_blob_of_the_wrong_size_is_no_input(tmp_path: Path) -> None:
    large = bytes(10_000)
    async with opened(tmp_path, max_bytes=8192) as farm:
        digest = await put_tree(farm.backend, {"large": large})
        farm.backend.blobs[blob(large)] = large[:-1]
        with pytest.raises(NativeLinkError) as caught:
            await farm.stager.stage(digest, farm.root / "action", directories=())
        assert caught.value.code is Code.DATA_LOSS


@pytest.mark.parametrize("is_furnished", [False, True])
async def test_a_file_that_is_lost_between_lease_and_link_is_fetched_again(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, is_furnished: bool
) -> None:
    digest = await put_tree(farm.backend, {"file": b"file"})
    lose = [True]
    files = farm.fast.files
    lease = files.lease

    async def lease_and_lose(keys: Sequence[Digest]) -> Any:
        found = await lease(keys)
        if found != [None] and lose:
            lose.pop()
            stored(farm, b"file").unlink()
        return found

    monkeypatch.setattr(files, "lease", lease_and_lose)
    into = farm.root / "action"
    if is_furnished:
        (into / "out").mkdir(parents=True)
    staged = await farm.stager.stage(digest, into, directories=["out"], is_furnished=is_furnished)
    assert (into / "file").read_bytes() == b"file"
    assert (into / "out").is_dir()
    await staged.release()
    assert farm.leased == 0


async def test_what_is_not_there_is_not_clear(farm: Farm) -> None:
    assert not await farm.stager.clear(farm.root / "gone", ["work"], ())


async def test_cancelled_staging_leases_nothing(farm: Farm) -> None:
    digest = await put_tree(farm.backend, TREE)
    waiting = asyncio.Event()

    async def hold(key: Any, sink: Sink, **range_: Any) -> None:
        if key == blob(b"another"):
            waiting.set()
            await asyncio.Event().wait()
        await farm.backend.get(key, sink, **range_)

    farm.slow.get = hold

    async def stop() -> None:
        await waiting.wait()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        await run_all([farm.stager.stage(digest, farm.root / "action", directories=()), stop()])
    assert farm.leased == 0


# What an action can do to it.


ATTACKS = {
    "append": "echo x >> input",
    "chmod and write": "chmod u+w input && echo written > input",
    "truncate": "chmod u+w input; : > input",
    "same size": "chmod u+w input; printf INPUT | dd of=input conv=notrunc status=none",
    "by another name": "chmod u+w input; ln input other; echo x >> other; rm other",
    "through a descriptor": "chmod u+w input; exec 3<>input; printf IN >&3",
}
HARMLESS = {
    "sed in place": "sed -i s/input/output/ input",
    "replace": "rm -f input; echo other > input",
    "rename": "mv input moved",
    "link": "ln input other",
    "read": "cat input > /dev/null",
}


def run(script: str, directory: Path) -> None:
    # As root no permission stands in the way; an owner gives it to himself.
    subprocess.run(["/bin/sh", "-ec", script], cwd=directory, check=True)


@pytest.mark.parametrize("is_executable", [False, True])
@pytest.mark.parametrize("script", ATTACKS.values(), ids=ATTACKS.keys())
async def test_an_action_that_writes_to_its_input_does_not_damage_the_cas(
    farm: Farm, script: str, is_executable: bool
) -> None:
    tree: Tree = {"sub": {"input": File(b"input", is_executable=is_executable)}, "other": b"other"}
    staged, bystander = await farm.stage(tree), await farm.stage(tree, "bystander")
    run(script, farm.root / "action" / "sub")
    # Nobody gets those bytes, from the first moment on.
    assert await read_bytes(farm.cas, blob(b"input")) == b"input"
    assert list(await staged.modified()) == ["sub/input"]
    assert list(await bystander.modified()) == ["sub/input"]
    await staged.release()
    await bystander.release()
    # The next run gets the input as it was, and may write to it: it is a copy.
    again = await farm.stage(tree, "again")
    sub = farm.root / "again" / "sub"
    assert (sub / "input").read_bytes() == b"input"
    assert mode(sub / "input") == (0o555 if is_executable else 0o444)
    run(script, sub)
    assert await again.modified() == ()
    assert await read_bytes(farm.cas, blob(b"input")) == b"input"
    assert await read_bytes(farm.fast, blob(b"other")) == b"other"


@pytest.mark.parametrize("script", HARMLESS.values(), ids=HARMLESS.keys())
async def test_an_action_may_replace_its_input(farm: Farm, script: str) -> None:
    staged = await farm.stage({"input": b"input"})
    run(script, farm.root / "action")
    assert await staged.modified() == ()
    assert stored(farm, b"input").read_bytes() == b"input"
    assert mode(stored(farm, b"input")) == 0o444
    await staged.release()
    await farm.stager.remove(farm.root / "action")
    assert await has_one(farm.fast, blob(b"input")) == 5


@pytest.mark.parametrize("script", ATTACKS.values(), ids=ATTACKS.keys())
async def test_what_an_action_did_before_the_worker_was_killed_is_found_at_the_next_start(
    tmp_path: Path, script: str
) -> None:
    tree: Tree = {"sub": {"input": b"input", "intact": b"other"}}
    (tmp_path / "work").mkdir()
    async with opened(tmp_path) as farm:
        await farm.stage(tree, "work/killed")
        await farm.stage(tree, "work/killed too")
    run(script, tmp_path / "work" / "killed" / "sub")
    async with opened(tmp_path) as farm:
        await farm.stager.recover(tmp_path / "work")
        assert names(tmp_path / "work") == []
        assert await farm.fast.has([blob(b"input"), blob(b"other")]) == [None, 5]
        farm.backend.blobs[blob(b"input")] = b"input"
        assert await read_bytes(farm.cas, blob(b"input")) == b"input"


async def test_nothing_is_given_up_after_a_worker_was_killed_if_nothing_was_changed(
    tmp_path: Path,
) -> None:
    (tmp_path / "work").mkdir()
    async with opened(tmp_path) as farm:
        await farm.stage(TREE, "work/killed")
        kept = set(names(tmp_path / "content" / "d"))
    async with opened(tmp_path) as farm:
        await farm.stager.recover(tmp_path / "work")
        assert set(names(tmp_path / "content" / "d")) == kept
        assert names(tmp_path / "work") == []


async def test_whatever_an_action_leaves_is_removed(farm: Farm) -> None:
    staged = await farm.stage(TREE)
    root = farm.root / "action"
    run(
        "mkdir -p a/b; for i in $(seq 200); do echo > a/b/$i; done; chmod 0 a/b a; chmod 555 sub; "
        "mkfifo pipe; ln -s /etc etc",
        root,
    )
    await staged.release()
    await farm.stager.remove(root)
    assert not there(root)


@pytest.mark.slow
async def test_50_000_files_are_staged_and_removed(farm: Farm) -> None:
    tree: Tree = {
        f"d{directory}": {f"file_{number}": b"%d" % (number % 10) for number in range(100)}
        for directory in range(500)
    }
    staged = await farm.stage(tree)
    assert sum(len(files) for _, _, files in os.walk(farm.root / "action")) == 50_000
    assert await staged.modified() == ()
    await staged.release()
    await farm.stager.remove(farm.root / "action")
    assert not there(farm.root / "action")
