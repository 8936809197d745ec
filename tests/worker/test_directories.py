"""Directories of actions are used again only if nothing can be seen of the last one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.directories import ROOT, STDERR, STDOUT, ActionDirectories


class Place:
    def __init__(self, root: Path, max_spare: int = 2) -> None:
        self.root = root
        self.removed: list[str] = []
        self.directories = ActionDirectories(root, self.remove, max_spare=max_spare)

    async def remove(self, path: Path) -> None:
        self.removed.append(path.name)
        shutil.rmtree(path)

    def used(self, name: str) -> Path:
        """A directory in which an action ran that said nothing and made nothing."""
        path = self.directories.take(name)
        (path / ROOT).mkdir(0o755, exist_ok=True)
        for stream in (STDOUT, STDERR):
            (path / stream).touch(0o644)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_directory_in_which_nothing_was_left_gets_the_next_name(place: Place) -> None:
    first = place.used("first")
    inode = first.stat().st_ino
    await place.directories.give_back(first)

    second = place.directories.take("second")

    assert second.stat().st_ino == inode
    assert [each.name for each in place.root.iterdir()] == ["second"]
    assert {each.name for each in second.iterdir()} == {ROOT, STDOUT, STDERR}
    assert not place.removed


async def test_an_action_that_comes_again_gets_its_name_again(place: Place) -> None:
    await place.directories.give_back(place.used("op"))

    assert place.directories.take("op") == place.root / "op"


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
    path = place.used("op")
    leave(path)

    await place.directories.give_back(path)

    assert place.removed == ["op"]


async def test_only_so_many_are_kept(place: Place) -> None:
    paths = [place.used(name) for name in ("a", "b", "c")]
    for path in paths:
        await place.directories.give_back(path)

    assert place.removed == ["c"]


def test_a_directory_that_is_there_is_not_given_out_twice(place: Place) -> None:
    place.used("op")

    with pytest.raises(NativeLinkError, match="op exists still") as caught:
        place.directories.take("op")
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_a_spare_one_does_not_replace_what_is_there(place: Place) -> None:
    await place.directories.give_back(place.used("spare"))
    (place.root / "op" / ROOT).mkdir(parents=True)

    with pytest.raises(NativeLinkError, match="op exists still"):
        place.directories.take("op")
    # It is lost to nobody: the next action gets it.
    assert place.directories.take("other").is_dir()


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
    path = place.used("op")
    source = outside / name if name == STDOUT else outside / ROOT / "empty"
    if name != STDOUT:
        source.mkdir(0o755)
    do("mount", "--bind", source, path / name)

    async def take_away(path: Path) -> None:
        do("umount", path / name)
        await place.remove(path)

    place.directories = ActionDirectories(place.root, take_away)
    await place.directories.give_back(path)

    assert place.removed == ["op"]


@pytest.mark.skipif(os.geteuid() != 0, reason="sets flags of files")
@pytest.mark.parametrize(("flag", "name"), [("a", ROOT), ("i", STDOUT), ("a", STDERR), ("i", ".")])
async def test_a_directory_in_which_something_cannot_be_changed_is_not_used_again(
    place: Place, flag: str, name: str
) -> None:
    path = place.used("op")
    do("chattr", f"+{flag}", path / name)

    async def make_changeable(path: Path) -> None:
        do("chattr", f"-{flag}", path / name)
        await place.remove(path)

    place.directories = ActionDirectories(place.root, make_changeable)
    await place.directories.give_back(path)

    assert place.removed == ["op"]


async def test_the_times_of_a_directory_that_is_used_again_are_new(place: Place) -> None:
    path = place.used("op")
    for each in (path / ROOT, path / STDOUT, path):
        os.utime(each, ns=(1, 1))

    await place.directories.give_back(path)

    again = place.directories.take("other")
    assert all(each.stat().st_mtime_ns > 1 for each in (again, again / ROOT, again / STDOUT))


async def test_a_spare_one_that_cannot_be_renamed_holds_nobody_up(place: Place) -> None:
    await place.directories.give_back(place.used("spare"))
    (place.root / "spare").rename(place.root / "gone")

    assert place.directories.take("other").is_dir()
