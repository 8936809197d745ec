"""Whatever an action leaves is removed, and nothing else."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.worker.hands.remove import remove_tree


def fill(root: Path) -> Path:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("x")
    (root / "a" / "b" / "read only").write_text("x")
    (root / "a" / "b" / "read only").chmod(0o400)
    (root / "link").symlink_to("/etc/passwd")
    (root / "directory link").symlink_to("/etc")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    return root


def test_everything_is_removed(tmp_path: Path) -> None:
    remove_tree(str(fill(tmp_path / "root")))
    assert list(tmp_path.iterdir()) == []
    assert Path("/etc/passwd").exists()


def test_what_is_not_there_is_removed_already(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "nothing"))


def test_a_file_or_link_in_the_place_of_the_directory_is_removed(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside")
    (tmp_path / "root").symlink_to(outside)
    remove_tree(str(tmp_path / "root"))
    (tmp_path / "file").write_text("x")
    remove_tree(str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == [outside]
    assert (outside / "a" / "b" / "read only").exists()


def test_the_mode_of_a_blob_stays_what_it_is(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text("x")
    blob.chmod(0o444)
    root = fill(tmp_path / "root")
    (root / "a" / "input").hardlink_to(blob)
    (root / "a").chmod(0o555)
    remove_tree(str(root))
    assert blob.stat().st_mode & 0o777 == 0o444
    assert blob.stat().st_nlink == 1


def test_a_tree_deeper_than_there_are_descriptors_and_longer_than_a_path_is_removed(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        child = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=child))
        os.close(fd)
        fd = child
    os.close(fd)
    remove_tree(str(root))
    assert list(tmp_path.iterdir()) == []


def as_nobody(work: Callable[[], None]) -> None:
    """Do something as an ordinary user, in a process of its own."""
    user = pwd.getpwnam("nobody")
    pid = os.fork()
    if not pid:
        try:
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            work()
        except BaseException as error:  # noqa: BLE001 - the parent only sees the exit code
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_an_ordinary_user_removes_directories_made_unwritable(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)
    for parent in [home, *home.parents]:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)

    def work() -> None:
        root = fill(home / "root")
        for path in (root / "a" / "b", root / "a", root):
            path.chmod(0o000)
        remove_tree(str(root))
        assert list(home.iterdir()) == []

    as_nobody(work)


def mounted(kind: str, source: Path, target: Path) -> bool:
    target.mkdir()
    options = {"bind": ["--bind", str(source)], "tmpfs": ["-t", "tmpfs", "none"]}[kind]
    return (
        subprocess.run(
            ["mount", *options, str(target)], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_mount_that_an_action_left_is_taken_away_and_not_emptied(
    tmp_path: Path, kind: str
) -> None:
    precious = fill(tmp_path / "precious")
    root = fill(tmp_path / "root")
    if not mounted(kind, precious, root / "a" / "mount"):
        pytest.skip("this machine does not let us mount")
    remove_tree(str(root))
    assert not root.exists()
    assert (precious / "a" / "b" / "read only").exists()
    assert str(root) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="sets a flag of root's")
def test_what_cannot_be_removed_is_said_and_the_rest_is_removed(tmp_path: Path) -> None:
    root = fill(tmp_path / "root")
    stuck = root / "a" / "b"
    if subprocess.run(["chattr", "+i", str(stuck)], capture_output=True, check=False).returncode:
        pytest.skip("this filesystem has no immutable directories")
    try:
        with pytest.raises(OSError) as caught:
            remove_tree(str(root))
        assert caught.value.errno == errno.EPERM
        assert [path.name for path in root.rglob("*")] == ["a", "b", "read only"]
    finally:
        subprocess.run(["chattr", "-i", str(stuck)], check=True)
    remove_tree(str(root))
    assert not root.exists()
