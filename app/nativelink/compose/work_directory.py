"""A worker's work directory: one that actions can run in, and nobody else's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from nativelink.core.errors import failed_precondition, invalid_argument
from nativelink.stores.disk_calls import disk_error

__all__ = ["check_work_directory", "claim_work_directory"]


def claim_work_directory(work_directory: Path, device: int) -> int:
    """Make sure that actions can run there, with hard links to the store's files as inputs.

    Returns:
        A descriptor; as long as it is open, nobody else may empty the directory.
    """
    try:
        work_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        claim = os.open(work_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise disk_error(error, f"cannot use work_directory {work_directory}") from error
    try:
        _check(claim, work_directory, device)
    except BaseException:
        os.close(claim)
        raise
    return claim


def check_work_directory(work_directory: Path) -> None:
    """Look whether another process runs actions there, before anything is opened.

    Who starts a configuration a second time by mistake has the first one's stores, too: they empty
    their temporary directories when they open, and with them its uploads under way.

    Raises:
        NativeLinkError: FAILED_PRECONDITION if so.
    """
    try:
        claim = os.open(work_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # Not there yet, or not to be used: that is said when it is claimed.
        return
    try:
        # Shared, so that two who look at once do not take each other for one who runs actions.
        _lock(claim, work_directory, fcntl.LOCK_SH)
    finally:
        os.close(claim)


def _check(claim: int, work_directory: Path, device: int) -> None:
    _lock(claim, work_directory, fcntl.LOCK_EX)
    if os.fstat(claim).st_dev != device:
        raise invalid_argument(
            f"work_directory {work_directory} is on another device than the files of "
            "cas_fast_slow_store, which inputs are hard links to; both must be on one"
        )


def _lock(claim: int, work_directory: Path, how: int) -> None:
    try:
        fcntl.flock(claim, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise failed_precondition(
            f"work_directory {work_directory} is in use by another process; a worker empties it at "
            "its start, so each needs one of its own"
        ) from None
    except OSError as error:
        raise disk_error(error, f"cannot lock work_directory {work_directory}") from error
