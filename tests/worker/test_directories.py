"""Directories of actions are used again only if nothing can be seen of the last one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nativelink.core.clock import SystemClock
from nativelink.worker.directories import (
    ROOT,
    STDERR,
    STDOUT,
    ActionDirectories,
    ActionDirectory,
)


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
        self.directories = ActionDirectories(
            root, self.remove, clock=self.clock, max_spare=max_spare
        )

    async def remove(self, path: Path) -> None:
        self.before(path)
        self.removed.append(path)
        shutil.rmtree(path)

    def used(self) -> ActionDirectory:
        """A directory in which an action ran that said nothing and made nothing."""
        directory = self.directories.take()
        directory.root.mkdir(0o755, exist_ok=True)
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
    again = place.directories.take()
    assert again is directory
    probe = place.root.with_name("probe")
    while True:
        # Until the file system has another time: it may count in ticks of some milliseconds.
        probe.touch()
        if probe.stat().st_ctime_ns > directory.path.stat().st_ctime_ns:
            return again


async def test_a_directory_in_which_nothing_was_left_is_used_again(place: Place) -> None:
    directory = await used_twice(place)
    inode = directory.path.stat().st_ino

    await place.directories.give_back(directory)

    assert place.directories.take().path.stat().st_ino == inode
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

    assert place.removed == [directories[2].path]


async def test_what_an_earlier_process_left_is_not_given_out(place: Place) -> None:
    (place.root / "1").mkdir()

    assert place.directories.take().path == place.root / "2"


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
@pytest.mark.parametrize(("flag", "name"), [("a", ROOT), ("i", STDOUT), ("a", STDERR), ("i", ".")])
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

    assert place.directories.take() is directory
    assert all(each.stat().st_mtime_ns > 1 for each in changed)
