"""Looking whether a file is there, without failing where one may not look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath

from nativelink.config.problems import Path, Problem, warning

__all__ = ["exists", "missing_file"]


def exists(file: FilePath) -> bool:
    """Whether there is anything at `file`; true where that cannot be found out."""
    try:
        return file.exists()
    except OSError:
        return True


def missing_file(path: Path, name: str | None) -> Iterator[Problem]:
    """A warning at `path` if it names a file that is not there.

    Not an error: a configuration may be checked on another machine than it is for.
    """
    if name is not None and not exists(FilePath(name)):
        yield warning(path, f"there is no file {name} here")
