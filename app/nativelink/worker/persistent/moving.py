"""An action's files, lent to a process whose directory stays where it is."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Final

__all__ = ["move"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def move(source: Path, target: Path, inside: PurePath, *, keep: frozenset[str]) -> None:
    """Move all that is in `source` to `target`, except the directories on the way to `inside`.

    A process that has its working directory at `inside` of either keeps it; only entries of the
    directories on the way are renamed, however many files are below them. No symbolic link is
    followed on the way, so nothing but these directories is touched.

    Args:
        source: a directory.
        target: another one on the same device, laid out alike.
        inside: relative; made in `target` as far as it is missing.
        keep: names in `source` that stay.

    Raises:
        OSError: when everything that had been moved is back; for instance EXDEV or EBUSY for a
            mount, ENOTDIR for a link on the way.
    """
    moved: list[tuple[str, int, int]] = []
    with ExitStack() as opened:

        def enter(name: str | Path, parent: int | None) -> int:
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
            opened.callback(os.close, descriptor)
            return descriptor

        here, there = enter(source, None), enter(target, None)
        try:
            for component in (*inside.parts, ""):
                for name in os.listdir(here):  # noqa: PTH208 a descriptor, not a path
                    if name != component and name not in keep:
                        os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
                        moved.append((name, here, there))
                keep = frozenset()
                if component:
                    try:
                        os.mkdir(component, dir_fd=there)
                    except FileExistsError:
                        pass
                    here, there = enter(component, here), enter(component, there)
        except OSError:
            for name, old, new in reversed(moved):
                os.rename(name, name, src_dir_fd=new, dst_dir_fd=old)
            raise
