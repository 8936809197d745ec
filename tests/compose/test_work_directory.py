"""Whether a work directory is free is seen without taking it from anybody."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativelink.compose.work_directory import check_work_directory, claim_work_directory
from nativelink.core.errors import Code, NativeLinkError


@contextmanager
def locked(directory: Path, how: int) -> Iterator[None]:
    """A directory that somebody else has locked; locks of two descriptors exclude each other."""
    claim = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(claim, how)
        yield
    finally:
        os.close(claim)


def test_two_processes_that_look_at_the_same_moment_do_not_stop_each_other(tmp_path: Path) -> None:
    with locked(tmp_path, fcntl.LOCK_SH):
        check_work_directory(tmp_path)


def test_a_directory_that_is_claimed_is_seen_to_be(tmp_path: Path) -> None:
    claim = claim_work_directory(tmp_path, tmp_path.stat().st_dev)
    try:
        with pytest.raises(NativeLinkError, match="in use by another process") as caught:
            check_work_directory(tmp_path)
    finally:
        os.close(claim)
    assert caught.value.code is Code.FAILED_PRECONDITION
    check_work_directory(tmp_path)


def test_who_looks_takes_nothing(tmp_path: Path) -> None:
    check_work_directory(tmp_path)
    os.close(claim_work_directory(tmp_path, tmp_path.stat().st_dev))
