"""What is left of an action's directory for the next action that needs the same directories."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.worker.hands.clear import clear

KEPT = ["work", "work/in", "work/in/deep", "work/out"]
STREAMS = ["stdout", "stderr"]


@pytest.fixture
def action(tmp_path: Path) -> Path:
    """As staging and a command without output leave it."""
    action = tmp_path / "7"
    for path in (".", *KEPT):
        (action / path).mkdir(0o755)
    for name in STREAMS:
        (action / name).touch(0o644)
    return action


def below(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*")}


def cleared(action: Path) -> bool:
    return clear(str(action), KEPT, STREAMS)


def test_files_and_links_go_and_directories_stay(action: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (outside / "blob").write_text("blob")
    os.link(outside / "blob", action / "work/in/deep/input")
    (action / "work/out/left").write_text("left")
    (action / "work/in/link").symlink_to(outside)
    os.mkfifo(action / "work/fifo")
    (action / "side_channel").write_text("{}")

    assert cleared(action)

    assert below(action) == {*KEPT, *STREAMS}
    assert below(outside) == {"kept", "blob"}
    assert (outside / "blob").read_text() == "blob"


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_was_used_is_made_anew(action: Path, name: str) -> None:
    (action / name).write_text("said")

    assert cleared(action)

    assert below(action) == {*KEPT, *STREAMS} - {name}


def test_a_stream_is_one_in_the_directory_itself_only(action: Path) -> None:
    (action / "work/stdout").touch(0o644)

    assert cleared(action)

    assert below(action) == {*KEPT, *STREAMS}


def _replace_by_link(action: Path) -> None:
    (action / "work/out").rmdir()
    (action / "work/out").symlink_to("in")


def _replace_by_file(action: Path) -> None:
    (action / "work/out").rmdir()
    (action / "work/out").touch()


def _set_flag(path: Path, flag: str) -> None:
    subprocess.run(["chattr", f"+{flag}", path], check=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda action: (action / "work/in/made").mkdir(),
        lambda action: (action / "made").mkdir(),
        lambda action: (action / "work/in/deep").rmdir(),
        lambda action: (action / "work/out").chmod(0o700),
        lambda action: action.chmod(0o1777),
        lambda action: os.setxattr(action / "work/in", "user.note", b"kept"),
        lambda action: _set_flag(action / "work/out", "A"),
        lambda action: _set_flag(action / "work/out", "d"),
        _replace_by_link,
        _replace_by_file,
    ],
)
def test_a_directory_that_was_changed_is_not_kept(
    action: Path, change: Callable[[Path], None]
) -> None:
    change(action)

    try:
        is_clear = cleared(action)
    except OSError:
        is_clear = False

    assert not is_clear


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("name", [".", "work", "work/out", "stdout"])
def test_nothing_is_removed_from_a_mount(action: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if name == "stdout":
        outside.touch(0o644)
    else:
        (outside / "host").mkdir(0o755, parents=True)
    target = action / name
    subprocess.run(["mount", "--bind", outside, target], check=True)
    try:
        with pytest.raises(OSError, match=r"link|busy"):
            cleared(action)
        assert outside.is_file() or below(outside) == {"host"}
    finally:
        subprocess.run(["umount", target], check=True)


def test_the_times_of_what_is_kept_are_new(action: Path) -> None:
    for path in (".", *KEPT, *STREAMS):
        os.utime(action / path, ns=(1, 1))

    assert cleared(action)

    assert all((action / path).stat().st_mtime_ns > 1 for path in (".", *KEPT, *STREAMS))


def test_a_directory_that_became_larger_is_not_kept(action: Path) -> None:
    out = action / "work/out"
    for number in range(2000):
        (out / f"a rather long name of file {number}").touch()
    for path in out.iterdir():
        path.unlink()
    larger = out.stat().st_size > out.stat().st_blksize

    # ext4 keeps the blocks, others do not.
    assert cleared(action) != larger


def test_marks_that_everything_has_there_are_no_reason(action: Path) -> None:
    for path in (action.parent, *(action / each for each in (".", *KEPT, *STREAMS))):
        _set_flag(path, "A")
        os.setxattr(path, "user.label", b"usual")

    assert cleared(action)

    os.setxattr(action / "work/in", "user.label", b"another")
    assert not cleared(action)
