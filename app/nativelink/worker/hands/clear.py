"""An action's directory made as it was before its inputs came, but for the directories in it.

To be given to an action that needs the same directories. They are kept, and nothing else: no file
has to be proven to be what it was.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from nativelink.worker.as_made import Marks, is_empty_stream, is_new_directory, marks_of
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
        was changed, or one that stays larger than a new one. Some files may be removed then.

    Raises:
        OSError: something is in the way, or cannot be removed.
    """
    inside: dict[str, set[str]] = {"": set()}
    for each in kept:
        parent, _, name = each.rpartition("/")
        inside.setdefault(parent, set()).add(name)
    parent, _, name = path.rpartition("/")
    parent_fd = os.open(parent, _OPEN | os.O_CLOEXEC)
    try:
        clearing = _Clearing(inside, streams, marks_of(parent_fd))
        return clearing.run(open_entry(parent_fd, name, _OPEN), "")
    finally:
        os.close(parent_fd)


@dataclass(frozen=True, slots=True)
class _Clearing:
    """The clearing of one tree.

    Attributes:
        inside: names of the directories that are kept, by the paths of those that they are in.
        streams: files at the top that may stay.
        usual: marks that everything has that is made there.
    """

    inside: Mapping[str, Collection[str]]
    streams: Collection[str]
    usual: Marks

    def run(self, fd: int, path: str) -> bool:
        """Clear an open directory, and close it."""
        try:
            return self._run(fd, path)
        finally:
            os.close(fd)

    def _run(self, fd: int, path: str) -> bool:
        if not marks_of(fd).are_inherited(self.usual):
            return False
        names = self.inside.get(path, ())
        found = 0
        with os.scandir(fd) as entries:
            # Some file systems pass over names if others go while they are read.
            everything = list(entries)
        for entry in everything:
            name = entry.name
            if name in names:
                if not self.run(open_entry(fd, name, _OPEN), f"{path}/{name}" if path else name):
                    return False
                found += 1
            elif entry.is_dir(follow_symlinks=False):
                return False
            elif path or name not in self.streams or not self._is_empty_stream(fd, name):
                os.unlink(name, dir_fd=fd)
        os.utime(fd)
        return found == len(names) and is_new_directory(os.fstat(fd))

    def _is_empty_stream(self, parent_fd: int, name: str) -> bool:
        if not is_empty_stream(os.lstat(name, dir_fd=parent_fd)):
            return False
        fd = open_entry(parent_fd, name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.utime(fd)
            return marks_of(fd).are_inherited(self.usual)
        finally:
            os.close(fd)
