"""Looking whether a file is there, without failing where one may not look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path as FilePath

from nativelink.config.problems import Path, Problem, error, here
from nativelink.core.certificates import pair_fault

__all__ = ["certificate_pair", "exists", "missing_file"]


def exists(file: FilePath) -> bool:
    """Whether there is anything at `file`; true where that cannot be found out."""
    try:
        return file.exists()
    except OSError:
        return True


def missing_file(path: Path, name: str | None) -> Iterator[Problem]:
    """What is said at `path` if it names a file that is not there.

    Not an error: a configuration may be checked on another machine than it is for.
    """
    if name is not None and not exists(FilePath(name)):
        where = "" if FilePath(name).is_absolute() else f" in {FilePath.cwd()}"
        yield here(path, f"there is no file {name}{where}")


def certificate_pair(path: Path, cert_file: str, key_file: str) -> Iterator[Problem]:
    """An error below `path` if a certificate and its key do not fit; what is said if one is absent.

    What may not be read here cannot be judged: it may be another user's.
    """
    files = {"cert_file": FilePath(cert_file), "key_file": FilePath(key_file)}
    for key, file in files.items():
        yield from missing_file((*path, key), str(file))
    if all(os.access(file, os.R_OK) for file in files.values()):
        fault = pair_fault(*files.values())
        if fault is not None:
            yield error((*path, fault.key), f"{files[fault.key]} {fault.what}")
