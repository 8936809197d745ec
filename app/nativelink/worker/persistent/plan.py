"""What starts a persistent worker, what it is asked, and who may share it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from nativelink.core.errors import invalid_argument
from nativelink.worker.confine import open_beneath
from nativelink.worker.launch import Launch
from nativelink.worker.persistent.messages import Protocol

__all__ = ["LOG", "Key", "Plan", "expand", "key_of", "plan", "wants_worker"]

#: An argument that names a file of arguments, as Bazel finds them.
_FLAG_FILE: Final = re.compile(r"(?:@|--?flagfile=).+", re.DOTALL)
#: `@repository//package`: a label that begins as a file of arguments does.
_LABEL: Final = re.compile(r"@[^/]*//")
_FLAG: Final = "--persistent_worker"
#: Bytes of an action's files of arguments; those of a large Java target have some hundred thousand.
_MAX_FLAG_FILE_BYTES: Final = 16 << 20
#: What it costs to open one, in bytes.
_FLAG_FILE_COST_BYTES: Final = 4096
#: Files of arguments that name files of arguments: deeper than anybody writes by hand.
_MAX_DEPTH: Final = 10
#: What separates names of files in an argument: `-javaagent:a.jar`, `-cp=a.jar:b.jar`, `a,b`.
_SEPARATORS: Final = re.compile(r"[=:,;\s]+")
#: Files of a tool's runfiles; with more it is not cheap any more to know that it is the same tool.
_MAX_RUNFILES: Final = 20_000

#: Name of a process' stderr in its directory.
LOG: Final = "nativelink-worker.log"

#: Equal for actions that may share a process.
Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How an action is run by a persistent worker.

    Attributes:
        launch: the action's.
        startup: argv of the process.
        flags: the rest of the action's arguments, files of arguments among them.
        protocol: what it speaks.
        key: of the pool, without the tools.
    """

    launch: Launch
    startup: tuple[str, ...]
    flags: tuple[str, ...]
    protocol: Protocol
    key: Key

    def process(self, directory: Path) -> Launch:
        """The launch of a process that stays in `directory`, laid out as the action's own is."""
        launch = self.launch
        inside = launch.working_directory.relative_to(launch.action_directory)
        return replace(
            launch,
            arguments=self.startup,
            working_directory=directory / inside,
            action_directory=directory,
            stdout=directory / LOG,
            stderr=directory / LOG,
        )


def wants_worker(properties: Mapping[str, str]) -> bool:
    """Whether an action with these platform properties asks for a process that stays."""
    return properties.get("supports-workers") == "1"


def plan(launch: Launch, properties: Mapping[str, str]) -> Plan | None:
    """How to run an action by a persistent worker; None if it is not to be run so."""
    if not wants_worker(properties):
        return None
    try:
        protocol = Protocol(properties.get("requires-worker-protocol") or "proto")
    except ValueError:
        return None
    flags = tuple(each for each in launch.arguments if _FLAG_FILE.fullmatch(each))
    if not flags:
        return None
    startup = (*(each for each in launch.arguments if not _FLAG_FILE.fullmatch(each)), _FLAG)
    if startup == (_FLAG,) or not launch.working_directory.is_relative_to(launch.action_directory):
        return None
    key = (
        startup,
        tuple(sorted(launch.environment.items())),
        protocol,
        str(launch.working_directory.relative_to(launch.action_directory)),
        launch.network,
        launch.limits,
        properties.get("persistentWorkerKey", ""),
    )
    return Plan(launch, startup, flags, protocol, key)


def key_of(plan: Plan) -> Key | None:
    """Who may share a process, with the files that it is made of; reads directories.

    Inputs are links to the files of the store, so as long as a tool is the same file it has the
    same content. Files count that the command line of the process names, and their runfiles.

    Returns:
        None if there are too many files to say.
    """
    directory = plan.launch.working_directory
    found: list[tuple[str, int, int, int]] = []
    for argument in plan.startup:
        for name in {argument, *_SEPARATORS.split(argument)}:
            if not name or len(name) > os.pathconf("/", "PC_PATH_MAX"):
                continue
            if (seen := _identity(directory / name)) is None:
                continue
            found.append((name, *seen))
            for path in _files(directory / f"{name}.runfiles"):
                if len(found) >= _MAX_RUNFILES:
                    return None
                if (seen := _identity(path)) is not None:
                    found.append((str(path.relative_to(directory)), *seen))
    return (*plan.key, tuple(sorted(found)))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None  # ValueError: a NUL byte.
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_size


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        for name in names:
            yield Path(parent, name)


def expand(flags: Sequence[str], directory: Path) -> list[str] | None:
    """The arguments of a request: the lines of the files that `flags` name.

    Args:
        flags: `@FILE`, or arguments that are passed on as they are.
        directory: what the names are relative to; nothing outside of it is read.

    Returns:
        None if such a file cannot be read, as the program itself will say.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a name that leads out of the directory, and for files
            of arguments that name each other without an end.
    """
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return list(_Expansion(root).of(flags, 0))
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(root)


class _Expansion:
    """The files of arguments of one action, of which so many bytes are read in all."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._left_bytes = _MAX_FLAG_FILE_BYTES

    def of(self, flags: Sequence[str], depth: int) -> Iterator[str]:
        """The arguments that `flags` stand for."""
        if depth > _MAX_DEPTH:
            raise invalid_argument(
                f"files of arguments name each other more than {_MAX_DEPTH} levels deep"
            )
        for flag in flags:
            if not flag.startswith("@") or flag.startswith("@@") or _LABEL.match(flag):
                yield flag
            else:
                yield from self.of(self._read(flag[1:]).decode().splitlines(), depth + 1)

    def _read(self, name: str) -> bytes:
        # Not to wait for whoever writes into it, should it be a pipe.
        opened = open_beneath(self._root, name, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError(name)
            data = file.read(max(self._left_bytes, 0) + 1)
        # A few short files that name one another often would never come to an end, either.
        self._left_bytes -= len(data) + _FLAG_FILE_COST_BYTES
        if self._left_bytes < 0:
            raise invalid_argument(
                f"the files of arguments up to {name!r} have more than {_MAX_FLAG_FILE_BYTES} "
                f"bytes, each counted with {_FLAG_FILE_COST_BYTES} more"
            )
        return data
