"""Directories of actions are used again only if nothing can be seen of the last one."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import pytest

from nativelink.core.clock import SystemClock
from nativelink.core.digest import Digest
from nativelink.worker.directories import (
    ROOT,
    STDERR,
    STDOUT,
    ActionDirectories,
    ActionDirectory,
)
from nativelink.worker.hands.clear import clear

#: No inputs, and no directory that is needed.
BARE = (Digest("0" * 64, 0), frozenset[str]())
#: Inputs in one directory, and another one for the output.
TREE = (Digest("1" * 64, 1), frozenset({"out"}))
INSIDE = ("sub", "out")


class LateClock(SystemClock):
    """The time, some seconds after the files' own."""

    late_s = 0.0

    def time(self) -> float:
        return super().time() + self.late_s


class Place:
    def __init__(self, root: Path, max_spare: int = 2) -> None:
        self.root = root
        self.clock = LateClock()
        self.removed: list[Path] = []
        #: Done before a directory is removed.
        self.before: Callable[[Path], None] = lambda _: None
        self.directories = ActionDirectories(root, self, clock=self.clock, max_spare=max_spare)

    async def remove(self, path: Path) -> None:
        self.before(path)
        self.removed.append(path)
        shutil.rmtree(path)

    def used(self) -> ActionDirectory:
        """A directory in which an action ran that said nothing and made nothing."""
        directory = self.directories.take(BARE)
        directory.root.mkdir(0o755, exist_ok=True)
        for stream in (directory.stdout, directory.stderr):
            stream.touch(0o644)
        return directory

    async def clear(self, directory: Path, kept: Sequence[str], streams: Collection[str]) -> bool:
        return clear(str(directory), kept, streams)

    def built(self) -> ActionDirectory:
        """A directory in which an action had an input, and left an output."""
        directory = self.directories.take(TREE)
        if not directory.is_furnished:
            directory.root.mkdir(0o755)
            for name in INSIDE:
                (directory.root / name).mkdir(0o755)
        directory.inside = INSIDE
        (directory.root / "sub/input").write_text("input")
        (directory.root / "out/output").write_text("output")
        for stream in (directory.stdout, directory.stderr):
            stream.touch(0o644)
        return directory


@pytest.fixture(params=["new", "rested"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """With one spare directory that is taken to have been used at this moment, or long ago."""
    place = Place(tmp_path)
    place.clock.late_s = 10.0 if request.param == "rested" else 0.0
    yield place
    place.directories.close()


async def used_twice(place: Place) -> ActionDirectory:
    """A directory in which nothing was left once, and another action ran."""
    directory = place.used()
    await place.directories.give_back(directory)
    again = place.directories.take(BARE)
    assert again is directory
    wait_for_a_tick(place)
    return again


def wait_for_a_tick(place: Place) -> None:
    """Return when the file system has another time: it may count in ticks of milliseconds."""
    probe = place.root.with_name("probe")
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()


async def test_a_directory_in_which_nothing_was_left_is_used_again(place: Place) -> None:
    directory = await used_twice(place)
    inode = directory.path.stat().st_ino

    await place.directories.give_back(directory)

    assert place.directories.take(BARE).path.stat().st_ino == inode
    assert list(place.root.iterdir()) == [directory.path]
    assert {each.name for each in directory.path.iterdir()} == {ROOT, STDOUT, STDERR}
    assert not place.removed


async def test_nothing_is_written_to_a_directory_in_which_nothing_was_changed(
    place: Place,
) -> None:
    directory = await used_twice(place)
    before = [path.stat().st_ctime_ns for path in (directory.path, directory.root)]

    await place.directories.give_back(directory)

    assert [path.stat().st_ctime_ns for path in (directory.path, directory.root)] == before


def _other_root(path: Path) -> None:
    shutil.rmtree(path / ROOT)
    (path / ROOT).symlink_to("/")


@pytest.mark.parametrize(
    "leave",
    [
        lambda path: (path / ROOT / "file").touch(),
        lambda path: (path / ROOT / "directory").mkdir(),
        lambda path: (path / STDOUT).write_text("said"),
        lambda path: (path / "side_channel").touch(),
        lambda path: (path / "unknown").mkdir(),
        lambda path: path.chmod(0o777),
        lambda path: (path / ROOT).chmod(0o555),
        lambda path: (path / STDERR).chmod(0o600),
        lambda path: os.setxattr(path / ROOT, "user.note", b"kept"),
        lambda path: os.setxattr(path / STDOUT, "user.note", b"kept"),
        lambda path: os.link(path / STDOUT, path.parent / "elsewhere"),
        lambda path: os.chown(path / ROOT, -1, os.getegid() + 1),
        _other_root,
    ],
)
async def test_a_directory_in_which_anything_was_left_is_removed(
    place: Place, leave: Callable[[Path], None]
) -> None:
    directory = await used_twice(place)
    leave(directory.path)

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


async def test_a_directory_that_looks_as_before_is_used_again(place: Place) -> None:
    directory = await used_twice(place)
    os.setxattr(directory.stdout, "user.note", b"passing")
    os.removexattr(directory.stdout, "user.note")

    await place.directories.give_back(directory)

    assert not place.removed


async def test_only_so_many_are_kept(place: Place) -> None:
    directories = [place.used() for _ in range(3)]
    for directory in directories:
        await place.directories.give_back(directory)

    assert place.removed == [directories[0].path]


async def test_what_an_earlier_process_left_is_not_given_out(place: Place) -> None:
    (place.root / "1").mkdir()

    assert place.directories.take(BARE).path == place.root / "2"


def do(*arguments: str | Path) -> None:
    subprocess.run(arguments, check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("name", [".", ROOT, STDOUT])
async def test_a_directory_with_a_mount_of_the_same_file_system_is_removed(
    place: Place, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    # Where the device tells nothing: the next action would run in a directory of the host.
    outside = tmp_path_factory.mktemp("outside")
    (outside / ROOT).mkdir()
    (outside / STDOUT).touch()
    directory = await used_twice(place)
    source = outside / name if name == STDOUT else outside / ROOT / "empty"
    if name != STDOUT:
        source.mkdir(0o755)
    do("mount", "--bind", source, directory.path / name)
    place.before = lambda path: do("umount", path / name)

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
async def test_a_directory_that_is_mounted_on_itself_is_removed(place: Place) -> None:
    # Read-only, say: neither its device nor its inode is another one.
    directory = await used_twice(place)
    do("mount", "--bind", directory.root, directory.root)
    place.before = lambda path: do("umount", path / ROOT)

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


@pytest.mark.skipif(os.geteuid() != 0, reason="sets flags of files")
@pytest.mark.parametrize(
    ("flag", "name"), [("a", ROOT), ("i", STDOUT), ("a", STDERR), ("i", "."), ("A", ROOT)]
)
async def test_a_directory_in_which_something_cannot_be_changed_is_not_used_again(
    place: Place, flag: str, name: str
) -> None:
    directory = await used_twice(place)
    do("chattr", f"+{flag}", directory.path / name)
    place.before = lambda path: do("chattr", f"-{flag}", path / name)

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


async def test_the_times_of_a_directory_that_is_used_again_are_new(place: Place) -> None:
    directory = await used_twice(place)
    changed = (directory.root, directory.stdout, directory.path)
    for each in changed:
        os.utime(each, ns=(1, 1))

    await place.directories.give_back(directory)

    assert place.directories.take(BARE) is directory
    assert all(each.stat().st_mtime_ns > 1 for each in changed)


# Directories with other directories in them.


async def test_a_shape_that_was_seen_before_is_kept_without_its_files(place: Place) -> None:
    seen = place.built()
    directory = place.built()

    await place.directories.give_back(seen)
    await place.directories.give_back(directory)

    assert place.removed == [seen.path]
    again = place.directories.take(TREE)
    assert again is directory
    assert again.is_furnished
    assert {str(path.relative_to(again.path)) for path in again.path.rglob("*")} == {
        *(ROOT, f"{ROOT}/sub", f"{ROOT}/out", STDOUT, STDERR)
    }


async def test_an_action_of_another_shape_gets_another_directory(place: Place) -> None:
    place.built()
    directory = place.built()
    await place.directories.give_back(directory)

    assert place.directories.take((TREE[0], frozenset())).path != directory.path
    assert place.directories.take((BARE[0], TREE[1])).path != directory.path
    assert place.directories.take(BARE).path != directory.path
    assert place.directories.take(TREE).path == directory.path


async def test_a_directory_may_be_kept_again_and_again(place: Place) -> None:
    place.built()
    directory = place.built()
    for _ in range(3):
        await place.directories.give_back(directory)
        assert place.built() is directory

    assert not place.removed


async def test_one_whose_directories_are_not_known_is_removed(place: Place) -> None:
    place.built()
    directory = place.built()
    directory.inside = None

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


async def test_one_that_was_changed_is_removed(place: Place) -> None:
    place.built()
    directory = place.built()
    (directory.root / "sub").chmod(0o777)

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


async def test_what_an_action_without_inputs_left_is_removed_from_its_directory(
    place: Place,
) -> None:
    place.used()
    directory = place.used()
    directory.inside = ()
    (directory.root / "left").touch()

    await place.directories.give_back(directory)

    assert place.used() is directory
    assert not directory.is_furnished
    assert list(directory.root.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
async def test_a_mount_is_found_in_each_of_several_directories(place: Place) -> None:
    # The kernel tells once that something was mounted.
    first = await used_twice(place)
    second = place.used()
    await place.directories.give_back(second)
    second = place.directories.take(BARE)
    do("mount", "--bind", second.root, second.root)
    place.before = lambda path: do("umount", path / ROOT)

    await place.directories.give_back(first)
    await place.directories.give_back(second)

    assert place.removed == [second.path]


async def test_one_whose_processes_may_still_run_is_removed(place: Place) -> None:
    place.built()
    built, bare = place.built(), await used_twice(place)
    for directory in (built, bare):
        directory.is_idle = False
        await place.directories.give_back(directory)

    assert place.removed == [built.path, bare.path]


async def test_one_that_is_changed_while_it_is_spare_is_not_given_out(place: Place) -> None:
    place.built()
    built, bare = place.built(), place.used()
    for directory in (built, bare):
        await place.directories.give_back(directory)
    wait_for_a_tick(place)
    (built.root / "sub/planted").touch()
    (bare.root / "planted").touch()

    others = place.built(), place.used()

    assert not {built, bare} & set(others)
    for other in others:
        await place.directories.give_back(other)
    assert {built.path, bare.path} <= set(place.removed)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
async def test_one_that_is_mounted_on_itself_while_it_is_spare_is_removed(place: Place) -> None:
    directory = await used_twice(place)
    await place.directories.give_back(directory)
    do("mount", "--bind", directory.root, directory.root)
    place.before = lambda path: do("umount", path / ROOT)
    again, other = place.directories.take(BARE), place.used()
    assert again is directory

    # The kernel tells once that something was mounted.
    await place.directories.give_back(other)
    await place.directories.give_back(again)

    assert place.removed == [directory.path]


async def test_one_with_very_many_directories_is_removed(place: Place) -> None:
    place.built()
    directory = place.built()
    directory.inside = [*INSIDE, *(f"more-{number}" for number in range(63))]

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


async def test_actions_that_make_directories_pay_for_it_every_other_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    async def not_clear(directory: Path, *_: object) -> bool:
        tried.append(directory)
        return False

    monkeypatch.setattr(place, "clear", not_clear)
    for _ in range(6):
        await place.directories.give_back(place.built())

    assert len(tried) == 3


async def test_what_goes_wrong_in_clearing_costs_the_directory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bool:
        raise ValueError("broken")

    place.built()
    directory = place.built()
    monkeypatch.setattr(place, "clear", broken)

    await place.directories.give_back(directory)

    assert place.removed == [directory.path]


async def test_nothing_is_left_of_one_whose_clearing_was_cancelled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(*_: object) -> bool:
        raise asyncio.CancelledError

    place.built()
    directory = place.built()
    monkeypatch.setattr(place, "clear", cancelled)

    with pytest.raises(asyncio.CancelledError):
        await place.directories.give_back(directory)

    assert place.removed == [directory.path]


def test_the_mode_of_a_directory_does_not_depend_on_the_umask(place: Place) -> None:
    before = os.umask(0o077)
    try:
        directory = place.directories.take(BARE)
    finally:
        os.umask(before)

    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o755
