"""A kept directory shown to an action as if it were its own (overlayfs).

What the action reads comes from the kept directory, what it writes goes to one of its own beside
it: the kept one never changes, whoever the action runs as. A mount takes the time of some ten
links, however large the directory is.

It needs CAP_SYS_ADMIN, and an upper directory that is no overlay itself.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from nativelink.worker.hands.place import add_directories

__all__ = ["scratch_of", "show", "upper_of"]

_MODE: Final = 0o755
#: `volatile`: what is unmounted is thrown away, so nothing need reach the disk before (Linux 5.10).
#: `redirect_dir`: directories of the kept tree can be renamed, as they could be if they were links.
_OPTIONS: Final = "volatile,redirect_dir=on,index=off,metacopy=off"

_libc: Final = ctypes.CDLL(None, use_errno=True)


def upper_of(into: Path) -> Path:
    """Where what is written below `into` really is."""
    return into.with_name(f"{into.name}.upper")


def scratch_of(into: Path) -> Path:
    """A directory that the kernel uses."""
    return into.with_name(f"{into.name}.scratch")


def show(kept: str, into: str, additions: list[str], behind_links: list[str]) -> None:
    """Mount a kept directory at `into` and make further directories in it.

    Args:
        kept: what to show; its path has no comma, colon or backslash.
        into: where, an empty directory if it is there. `{into}.upper` and `{into}.scratch` are
            made beside it; removing the directory that holds all three unmounts it.
        additions: see `place.Plan`.
        behind_links: likewise.

    Raises:
        OSError: EPERM where mounting is not allowed, for one; then nothing is mounted.
    """
    upper, scratch = upper_of(Path(into)), scratch_of(Path(into))
    Path(into).mkdir(_MODE, exist_ok=True)
    for path in (upper, scratch):
        path.mkdir(_MODE)
    # What is mounted has the mode and the times of the upper directory.
    root = Path(kept).stat()
    upper.chmod(root.st_mode & 0o777)
    options = f"lowerdir={kept},upperdir={upper},workdir={scratch},{_OPTIONS}"
    if _libc.mount(b"overlay", os.fsencode(into), b"overlay", 0, os.fsencode(options)):
        code = ctypes.get_errno()
        raise OSError(code, f"mounting an overlay: {os.strerror(code)}", into)
    root_fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        add_directories(root_fd, additions, behind_links)
        os.utime(root_fd, ns=(root.st_atime_ns, root.st_mtime_ns))
    finally:
        os.close(root_fd)
