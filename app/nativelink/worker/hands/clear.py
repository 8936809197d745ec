"""An action's directory made as it was before its inputs came, but for the directories in it.

To be given to an action that needs the same directories. They are kept, and nothing else: no file
has to be proven to be what it was.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final

from nativelink.worker.as_made import is_empty_stream, is_marked, is_new_directory
from nativelink.worker.confine import open_entry

__all__ = ["clear"]

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY


def clear(path: str, kept: Collection[str], streams: Collection[str]) -> bool:
    """Remove all files and links below a directory, and keep certain directories.

    Args:
        path: the action's directory.
        kept: directories below it, relative to it, with all their parents.
        streams: files in it that may stay where they are empty.

    Returns:
        False if it is not the same but for files and links: a directory more or less, one that
        was changed, or one that became larger. Some files may be removed then.

    Raises:
        OSError: something is in the way, or cannot be removed.
    """
    inside: dict[str, set[str]] = {"": set()}
    for each in kept:
        parent, _, name = each.rpartition("/")
        inside.setdefault(parent, set()).add(name)
    parent, _, name = path.rpartition("/")
    parent_fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_entry(parent_fd, name, _OPEN)
    finally:
        os.close(parent_fd)
    return _clear(fd, "", inside, streams)


def _clear(
    fd: int, path: str, inside: Mapping[str, Collection[str]], streams: Collection[str]
) -> bool:
    """Clear an open directory, and close it."""
    try:
        if not is_new_directory(os.fstat(fd)) or is_marked(fd):
            return False
        names = inside.get(path, ())
        found = 0
        with os.scandir(fd) as entries:
            # Some file systems pass over names if others go while they are read.
            everything = list(entries)
        for entry in everything:
            name = entry.name
            if name in names:
                below = f"{path}/{name}" if path else name
                if not _clear(open_entry(fd, name, _OPEN), below, inside, streams):
                    return False
                found += 1
            elif entry.is_dir(follow_symlinks=False):
                return False
            elif path or name not in streams or not _is_empty_stream(fd, name):
                os.unlink(name, dir_fd=fd)
        os.utime(fd)
        return found == len(names)
    finally:
        os.close(fd)


def _is_empty_stream(parent_fd: int, name: str) -> bool:
    if not is_empty_stream(os.lstat(name, dir_fd=parent_fd)):
        return False
    fd = open_entry(parent_fd, name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if is_marked(fd):
            return False
        os.utime(fd)
        return True
    finally:
        os.close(fd)
