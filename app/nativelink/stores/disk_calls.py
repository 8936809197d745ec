"""System calls of files: how their errors are told, and the few that `os` lacks."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk

__all__ = ["disk_error", "start_writeback", "syncfs", "wait_writeback", "write_all"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})
_BUSY: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

#: IOV_MAX of Linux is 1024.
_MAX_BUFFERS: Final = 1024


def disk_error(error: OSError, what: str) -> NativeLinkError:
    """What a client is told about a failed system call.

    A full disk or quota is RESOURCE_EXHAUSTED, so clients back off and try again; a lack of
    descriptors or memory is UNAVAILABLE; anything else is INTERNAL.
    """
    if error.errno in _FULL:
        code = Code.RESOURCE_EXHAUSTED
    elif error.errno in _BUSY:
        code = Code.UNAVAILABLE
    else:
        code = Code.INTERNAL
    return NativeLinkError(code, f"{what}: {error.strerror or error}")


def write_all(fd: int, chunks: Sequence[Chunk]) -> int:
    """Write all chunks at the file's position; returns the number of bytes.

    Raises:
        OSError: the disk is full, for one; part of the data may have been written.
    """
    size = sum(map(len, chunks))
    left: Sequence[Chunk] = chunks
    if len(chunks) > _MAX_BUFFERS:
        left = (b"".join(chunks),)
    written = os.writev(fd, left)
    while written < size:
        # Rare: a signal or an almost full disk cut the call short.
        rest = memoryview(b"".join(left))[written:]
        size -= written
        left = (rest,)
        written = os.writev(fd, left)
    return sum(map(len, chunks))


_libc: Final = ctypes.CDLL(None, use_errno=True)
_syncfs: Final = getattr(_libc, "syncfs", None)
_sync_file_range: Final = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

_RANGE_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE
_RANGE_WRITE_AND_WAIT: Final = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER


def syncfs(fd: int) -> bool:
    """Make everything written to the filesystem of `fd` so far durable: one call for all files.

    Linux reports errors of any file since 5.8; the caller must then ask file by file.

    Returns:
        False if this platform has no such call; nothing was done then.

    Raises:
        OSError: something could not be written.
    """
    if _syncfs is None:
        return False
    if _syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True


def start_writeback(fd: int, offset: int = 0, length: int = 0) -> None:
    """Ask the kernel to begin writing a range (0 = to the end) to the disk; a hint."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _RANGE_WRITE)


def wait_writeback(fd: int, offset: int = 0, length: int = 0) -> None:
    """Wait until a range (0 = to the end) is no longer dirty in the page cache; no durability.

    Where the filesystem has no such call, nothing happens.

    Raises:
        OSError: the range could not be written. Linux tells so once per open file: a later `fsync`
            of this descriptor would report nothing.
    """
    if _sync_file_range is None:
        return
    if _sync_file_range(fd, offset, length, _RANGE_WRITE_AND_WAIT) != 0:
        code = ctypes.get_errno()
        if code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code))
