"""Directories that one process at a time may use.

The claim is a lock on the directory itself (flock(2)), so nothing is written into it, and it ends
with the process however that ends. Several stores of one process may share a directory: the
configuration reference shows that.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import Final, NewType

from nativelink.core.errors import failed_precondition

__all__ = ["Claim", "claim_directory", "release_directory"]

#: Device and inode of a directory.
Claim = NewType("Claim", tuple[int, int])

_lock: Final = threading.Lock()
#: By claim, the descriptor that holds the lock and how many share it.
_held: Final[dict[Claim, tuple[int, int]]] = {}


def claim_directory(directory: int, name: str) -> Claim:
    """Keep other processes from claiming a directory.

    Where the filesystem has no such locks (NFS), nobody is kept from anything.

    Args:
        directory: a descriptor of it.
        name: what errors call it.

    Returns:
        For `release_directory`.

    Raises:
        NativeLinkError: FAILED_PRECONDITION if another process has it.
    """
    status = os.fstat(directory)
    claim = Claim((status.st_dev, status.st_ino))
    with _lock:
        holder, count = _held.get(claim, (-1, 0))
        if not count:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise failed_precondition(
                    f"{name} is in use by another process: each would remove files of the other; "
                    "stop that one, or give this one directories of its own"
                ) from None
            except OSError:
                pass
            # Another name for the same open directory: the lock stays until both are closed.
            holder = os.dup(directory)
        _held[claim] = holder, count + 1
    return claim


def release_directory(claim: Claim) -> None:
    """Give a directory back; others get it when the last of this process has done so."""
    with _lock:
        holder, count = _held.pop(claim)
        if count > 1:
            _held[claim] = holder, count - 1
        else:
            os.close(holder)
