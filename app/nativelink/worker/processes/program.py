"""Finding the program of an action and starting it, or saying why not."""

# pathlib would be a good part of these small processes' memory.
# ruff: noqa: PTH109, PTH110, PTH112, PTH113, PTH118, PTH123

from __future__ import annotations

import errno
import os

from nativelink.core.errors import (
    NativeLinkError,
    invalid_argument,
    not_found,
    permission_denied,
    unavailable,
)

__all__ = ["start"]

#: What this machine lacks now and may have again; all else is the request's fault.
_PASSING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})
#: Bytes of a file that are read to see its `#!` line; the kernel reads no more (binfmt_script).
_HEAD_BYTES = 256


def _search(program: bytes, path: bytes | None) -> bytes:
    """The file that execvpe(3) would run for a name without a slash.

    Without a PATH in the environment that is `/bin` and `/usr/bin`, as in the C library.
    """
    directories = (b"/bin:/usr/bin" if path is None else path).split(b":")
    forbidden: bytes | None = None
    for directory in directories:
        # An empty entry is the working directory (POSIX.1-2017, 8.3).
        file = os.path.join(directory or b".", program)
        if os.access(file, os.X_OK) and not os.path.isdir(file):
            return file
        if forbidden is None and os.path.isfile(file):
            forbidden = file
    name = os.fsdecode(program)
    if forbidden is not None:
        raise permission_denied(
            f"{name}: permission denied: {os.fsdecode(forbidden)} is not executable"
        )
    searched = os.fsdecode(b":".join(directories))
    where = "its PATH" if path is not None else "the default PATH, for it sets none"
    raise not_found(
        f"{name}: command not found: the action's arguments begin with {name!r}, and no such "
        f"program is in {where} ({searched})"
    )


def _interpreter(file: bytes) -> str:
    """What a script's first line names, empty if it is no script."""
    try:
        with open(file, "rb", buffering=0) as script:
            head = script.read(_HEAD_BYTES)
    except OSError:
        return ""
    if not head.startswith(b"#!"):
        return ""
    return os.fsdecode(head[2:].split(b"\n", 1)[0].strip().split(b" ", 1)[0])


def _explained(error: OSError, program: bytes, file: bytes) -> NativeLinkError:
    """Why exec of `file` failed, in words for whoever wrote the action."""
    name = os.fsdecode(program)
    if error.errno in _PASSING:
        return unavailable(f"{name}: this machine cannot start a process now: {error.strerror}")
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        if not os.path.exists(file):
            place = "" if program.startswith(b"/") else f" in {os.getcwd()}"
            return not_found(f"{name}: command not found: no such file{place}")
        if interpreter := _interpreter(file):
            return not_found(f"{name}: its first line names {interpreter!r}, which does not exist")
        return not_found(f"{name}: the dynamic loader that this program needs does not exist")
    if error.errno in {errno.EACCES, errno.EPERM}:
        what = "it is a directory" if os.path.isdir(file) else "it is not executable"
        return permission_denied(f"{name}: permission denied: {what}")
    if error.errno == errno.ENOEXEC:
        return invalid_argument(
            f"{name}: exec format error: neither a program for this machine nor a script that "
            "begins with a #! line"
        )
    if error.errno == errno.E2BIG:
        return invalid_argument(
            f"{name}: arguments and environment are longer than this machine allows"
        )
    return invalid_argument(f"{name}: cannot be executed: {error.strerror}")


def start(arguments: list[bytes], variables: list[bytes], stdio: tuple[int, int, int]) -> int:
    """Start a program in the current directory, in a session of its own.

    Args:
        arguments: argv, not empty. The program is found as execvpe(3) does, in the PATH of
            `variables`, but a file without a `#!` line is not given to a shell.
        variables: its whole environment, NAME=value.
        stdio: its descriptors 0, 1 and 2. It gets no other, for ours close on exec.

    Returns:
        Its pid, of a child of this process.

    Raises:
        NativeLinkError: NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT or UNAVAILABLE, in words
            for whoever wrote the action.
    """
    environment: dict[bytes, bytes] = {}
    for variable in variables:
        name, _, value = variable.partition(b"=")
        environment[name] = value
    program = arguments[0]
    if not program:
        raise not_found("the action's first argument, its program, is empty")
    file = program if b"/" in program else _search(program, environment.get(b"PATH"))
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in enumerate(stdio)]
    try:
        return os.posix_spawn(file, arguments, environment, file_actions=actions, setsid=True)
    except OSError as error:
        raise _explained(error, program, file) from None
