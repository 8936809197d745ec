"""Nothing that a client or an action can name is outside of the action's directory."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.names import check_name
from nativelink.worker import confine
from nativelink.worker.confine import (
    check_path,
    make_directories_beneath,
    open_beneath,
    open_child,
    output_place,
)


@pytest.fixture(params=["by the kernel", "by walking"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by walking":
        monkeypatch.setattr(confine, "_OPENAT2", -1)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, way: str) -> Iterator[int]:
    """A descriptor of `tmp_path/root`, beside which there is a secret."""
    assert way
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "file").write_text("ours")
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(root: int, path: str) -> str:
    fd = open_beneath(root, path, os.O_RDONLY)
    with os.fdopen(fd) as file:
        return file.read()


def refusal(root: int, path: str, flags: int = os.O_RDONLY) -> str:
    with pytest.raises(NativeLinkError) as caught:
        os.close(open_beneath(root, path, flags))
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def inode(root: int, path: str) -> int:
    """Of what a path names, a link itself if it is one."""
    fd = open_beneath(root, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def failure(root: int, path: str, flags: int = os.O_RDONLY) -> int | None:
    with pytest.raises(OSError) as caught:
        os.close(open_beneath(root, path, flags))
    return caught.value.errno


# Text.


@pytest.mark.parametrize(
    "path", ["", "a", "a/b", "./a", "a/./b", "..a", "a..", "...", "ä/\N{SNOWMAN}"]
)
def test_paths_below_are_allowed(path: str) -> None:
    check_path("output path", path)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/etc/passwd", "is absolute"),
        ("..", "'..'"),
        ("a/../b", "'..'"),
        ("a/..", "'..'"),
        ("a//b", "is empty"),
        ("a/", "is empty"),
        ("a\0b", "NUL"),
        ("a" * 256, "longer than 255 bytes"),
        ("ä" * 128, "longer than 255 bytes"),
        ("a/" * 2047 + "bc", "longer than 4095 bytes"),
    ],
)
def test_other_paths_are_refused_naming_what_is_wrong(path: str, problem: str) -> None:
    with pytest.raises(NativeLinkError) as caught:
        check_path("output path", path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(f"output path {path[:200]!r}")
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("working_directory", "path", "place"),
    [
        ("", "a/b", "a/b"),
        ("w/d", "a", "w/d/a"),
        ("w/d", "../../a/b", "a/b"),
        ("w/d", "../a", "w/a"),
        ("w/./d/", "./x/../a/", "w/d/a"),
        ("w", "..", ""),
        ("", "", ""),
    ],
)
def test_an_output_may_stand_anywhere_in_the_input_root(
    working_directory: str, path: str, place: str
) -> None:
    check_path("output path", path.rstrip("/"), may_climb=True)
    assert output_place(working_directory, path) == place


@pytest.mark.parametrize(
    ("working_directory", "path"), [("", ".."), ("w", "../.."), ("w", "a/../../../w/a")]
)
def test_an_output_outside_of_the_input_root_is_refused(working_directory: str, path: str) -> None:
    with pytest.raises(NativeLinkError) as caught:
        output_place(working_directory, path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert repr(path) in caught.value.message


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", "a" * 256])
def test_names_that_no_file_can_have_are_found(name: str) -> None:
    assert check_name(name)


@pytest.mark.parametrize("name", ["a", "..a", "a" * 255, "ä" * 127, " ", "\n"])
def test_other_names_are_fine(name: str) -> None:
    assert check_name(name) == ""


# Paths on the disk.


def test_what_is_inside_is_opened(root: int, tmp_path: Path) -> None:
    assert read(root, "file") == "ours"
    assert read(root, "a/b/../../file") == "ours"
    assert read(root, "./file") == "ours"
    assert inode(root, "a/b") == (tmp_path / "root" / "a" / "b").stat().st_ino
    for itself in (".", "a/..", "a/b/../.."):
        assert inode(root, itself) == (tmp_path / "root").stat().st_ino


def test_links_that_stay_inside_are_followed(root: int, tmp_path: Path) -> None:
    inside = tmp_path / "root"
    (inside / "a" / "up").symlink_to("../file")
    (inside / "to_up").symlink_to("a/up")
    (inside / "to_a").symlink_to("a")
    (inside / "to_a_slash").symlink_to("a/")
    for path in ("a/up", "to_up", "to_a/up", "to_a_slash/up", "to_a/b/../up"):
        assert read(root, path) == "ours"


def test_the_last_link_is_not_followed_if_it_is_not_to_be(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "out").symlink_to("/etc/passwd")
    assert inode(root, "out") == (tmp_path / "root" / "out").lstat().st_ino
    assert failure(root, "out", os.O_RDONLY | os.O_NOFOLLOW) == errno.ELOOP


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../secret", "a/../../secret", "/", "..", "/proc/self/root/etc/passwd"],
)
def test_links_that_lead_out_are_refused(root: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "root" / "out").symlink_to(target)
    (tmp_path / "root" / "a" / "again").symlink_to("../out")
    for path in ("out", "a/again", "a/../out"):
        assert "leads out" in refusal(root, path)
    assert "leads out" in refusal(root, "out/passwd", os.O_PATH)


@pytest.mark.parametrize("path", ["..", "../secret", "a/../../secret", "/etc/passwd", "/"])
def test_paths_that_lead_out_are_refused(root: int, path: str) -> None:
    assert "leads out" in refusal(root, path)


def test_a_parent_that_became_a_link_to_etc_is_refused(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "a" / "b").rmdir()
    (tmp_path / "root" / "a" / "b").symlink_to("/etc")
    assert "leads out" in refusal(root, "a/b/passwd")


def test_a_directory_moved_out_while_it_is_walked_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk keeps what it opened; the parent of that is never asked of the disk again."""
    monkeypatch.setattr(confine, "_OPENAT2", -1)
    inside = tmp_path / "root"
    (inside / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").write_text("secret")
    (inside / "file").write_text("ours")
    open_ = os.open

    def swap(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        fd = open_(path, flags, dir_fd=dir_fd)
        if path == "b":
            (inside / "a" / "b").rename(tmp_path / "b")
        return fd

    root_fd = os.open(inside, os.O_PATH)
    monkeypatch.setattr(os, "open", swap)
    try:
        assert read(root_fd, "a/b/../../file") == "ours"
    finally:
        os.close(root_fd)


def test_what_is_not_there_is_an_ordinary_error(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "dangling").symlink_to("nothing")
    (tmp_path / "root" / "loop").symlink_to("loop")
    assert failure(root, "nothing") == errno.ENOENT
    assert failure(root, "nothing/below") == errno.ENOENT
    assert failure(root, "file/below") == errno.ENOTDIR
    assert failure(root, "dangling") == errno.ENOENT
    assert failure(root, "loop") == errno.ELOOP
    assert failure(root, "file", os.O_RDONLY | os.O_DIRECTORY) == errno.ENOTDIR


def descriptors(folder: Path) -> list[str]:
    """What is open here, whatever threads of other tests open and close meanwhile."""
    opened = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            opened.append(str(each.readlink()))
    return sorted(path for path in opened if path.startswith(str(folder)))


def test_descriptors_are_closed(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "out").symlink_to("a/../../secret")
    before = descriptors(tmp_path)
    assert before
    refusal(root, "a/b/../../out")
    failure(root, "a/b/nothing")
    os.close(open_beneath(root, "a/b", os.O_PATH))
    assert descriptors(tmp_path) == before


def test_directories_are_made_inside_only(root: int, tmp_path: Path) -> None:
    inside = tmp_path / "root"
    (inside / "to_a").symlink_to("a")
    (inside / "out").symlink_to(tmp_path)
    make_directories_beneath(root, "to_a/new/deep", 0o755)
    assert (inside / "a" / "new" / "deep").is_dir()
    make_directories_beneath(root, "to_a/new/deep", 0o755)
    with pytest.raises(NativeLinkError):
        make_directories_beneath(root, "out/new", 0o755)
    assert not (tmp_path / "new").exists()


def test_a_child_is_no_link(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "out").symlink_to("a")
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    try:
        os.close(open_child(fd, "a", os.O_RDONLY))
        with pytest.raises(OSError) as caught:
            open_child(fd, "out", os.O_RDONLY)
        assert caught.value.errno in {errno.ENOTDIR, errno.ELOOP}
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.usefixtures("way")
def test_a_mount_of_the_same_device_is_not_opened(tmp_path: Path) -> None:
    host, action = tmp_path / "host", tmp_path / "action"
    for path in (host, action / "out"):
        path.mkdir(parents=True)
    subprocess.run(["mount", "--bind", host, action / "out"], check=True)
    fd = os.open(action, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="cross-device"):
            open_child(fd, "out", os.O_RDONLY)
    finally:
        os.close(fd)
        subprocess.run(["umount", action / "out"], check=True)


def test_where_the_kernel_does_not_tell_mounts_devices_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confine, "_OPENAT2", -1)
    (tmp_path / "below").mkdir()
    fds = [os.open(path, os.O_RDONLY) for path in (tmp_path, "/")]
    try:
        monkeypatch.setattr(Path, "read_text", lambda *_: "flags:\t0100000\n")
        os.close(open_child(fds[0], "below", os.O_RDONLY))
        with pytest.raises(OSError, match="cross-device"):
            open_child(fds[1], "proc", os.O_RDONLY)
    finally:
        for fd in fds:
            os.close(fd)
