"""What an action says in its side channel file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.side_channel import said_timeout


@pytest.mark.parametrize(
    ("said", "timed_out"),
    [
        ('{"failure": "timeout"}', True),
        ("{failure: 'timeout'} // as people write it", True),
        ("{}", False),
        ('{"failure": null}', False),
    ],
)
def test_a_failure_is_a_time_out_or_none(tmp_path: Path, said: str, timed_out: bool) -> None:
    path = tmp_path / "side_channel"
    path.write_text(said)

    assert said_timeout(path) is timed_out


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert not said_timeout(tmp_path / "side_channel")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("timeout"),
        lambda path: path.write_text('{"failure": "fire"}'),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        # As deep as no parser goes.
        lambda path: path.write_text("[" * 500),
        # Longer than is parsed in a moment.
        lambda path: path.write_text('{"failure": "timeout"}' + " " * 2000),
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.mkdir(),
        _pipe,
    ],
)
def test_anything_else_is_the_actions_mistake(tmp_path: Path, make: object) -> None:
    path = tmp_path / "side_channel"
    make(path)

    with pytest.raises(NativeLinkError) as error:
        said_timeout(path)

    assert error.value.code == Code.INVALID_ARGUMENT
