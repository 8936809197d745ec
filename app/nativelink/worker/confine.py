"""No name from a client, and no link that an action left, leads out of the action's directory.

Names are checked as text before anything is done with them (`check_path`, which
looks at each part with `core.names.check_name`). Text is
not enough once an action has run, or an input is a symbolic link: a directory on the way may be a
link to anywhere. So what an action left is opened with `open_beneath`, which follows links, but
only as long as they stay below a directory that we hold open. The kernel does that in one call
(openat2 with RESOLVE_BENEATH, Linux 5.6), so nothing can be swapped meanwhile; where it is
missing or forbidden, a walk does it that opens one component at a time and never follows a link
that it has not read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Final

from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.core.names import check_name

__all__ = [
    "check_path",
    "make_directories_beneath",
    "open_beneath",
    "open_child",
    "open_entry",
    "output_place",
]

_MAX_PATH_BYTES: Final = 4095  # PATH_MAX of Linux without its NUL
#: As many as the kernel follows (MAXSYMLINKS).
_MAX_LINKS: Final = 40
#: How often the kernel is asked again when a rename elsewhere may have confused it.
_TRIES: Final = 16

_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
#: No such call, or a sandbox that has not heard of it.
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})


class _OpenHow(ctypes.Structure):
    """The kernel's `struct open_how`."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)


def check_path(what: str, path: str, *, may_climb: bool = False) -> None:
    """Refuse a path that is not plainly below the directory that it is relative to.

    The empty path is that directory itself.

    Args:
        what: the path's role, for the message.
        path: as the client gave it.
        may_climb: whether `..` is allowed; where it leads is checked by `output_place`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an absolute path, one with `..`, with an empty
            component, with a NUL byte, or one that is too long.
    """
    if not path:
        return
    problem = ""
    if path.startswith("/"):
        problem = "is absolute"
    elif len(path.encode()) > _MAX_PATH_BYTES:
        problem = f"is longer than {_MAX_PATH_BYTES} bytes"
    else:
        for component in path.split("/"):
            if component == "." or (may_climb and component == ".."):
                continue
            if problem := check_name(component):
                problem = f"has a component that {problem}"
                break
    if problem:
        raise invalid_argument(
            f"{what} {path[:200]!r} {problem}; a path below the action's working directory is "
            "allowed, with single slashes between its components"
        )


def output_place(working_directory: str, path: str) -> str:
    """Where an output is, relative to the input root; empty for the input root itself.

    An output may stand beside the working directory, as BuildStream has it, whose commands run in
    `buildstream/project/element` and leave their result in `../../../buildstream-install`. The
    `..` are taken out of the text, so no link on the way decides where they lead.

    Args:
        working_directory: of the command.
        path: relative to it.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if the path leads out of the input root.
    """
    place: list[str] = []
    for component in f"{working_directory}/{path}".split("/"):
        if component == "..":
            if not place:
                raise invalid_argument(
                    f"output path {path[:200]!r} leads out of the input root; one in it is "
                    "allowed, relative to the action's working directory"
                )
            place.pop()
        elif component not in ("", "."):
            place.append(component)
    return "/".join(place)


def open_beneath(root_fd: int, path: str, flags: int) -> int:
    """Open what a path leads to, if that is below a directory.

    Symbolic links are followed, the last one too unless `flags` has O_NOFOLLOW, and `..` is, as
    long as every step stays below; absolute links never do.

    Args:
        root_fd: the directory, which may be an O_PATH descriptor.
        path: relative to it.
        flags: of `os.open`, without O_CREAT; O_CLOEXEC is added.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if the path leads out.
        OSError: as of `os.open`, for instance FileNotFoundError.
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    fd = _open_by_kernel(root_fd, path, flags | os.O_CLOEXEC, resolve)
    return _Walk(root_fd, path).open(flags | os.O_CLOEXEC) if fd is None else fd


def make_directories_beneath(root_fd: int, path: str, mode: int) -> None:
    """Make a directory and its parents, following links as `open_beneath` does.

    Raises:
        NativeLinkError: INVALID_ARGUMENT if the path leads out.
        OSError: a part of it is no directory, or leads nowhere, for instance.
    """
    fd = os.dup(root_fd)
    try:
        reached = ""
        for name in path.split("/"):
            reached = f"{reached}/{name}" if reached else name
            try:
                os.mkdir(name, mode, dir_fd=fd)
                # The umask of this process may take permissions away.
                os.chmod(name, mode, dir_fd=fd)
            except FileExistsError:
                pass
            following = open_beneath(root_fd, reached, os.O_PATH | os.O_DIRECTORY)
            os.close(fd)
            fd = following
    finally:
        os.close(fd)


def open_child(fd: int, name: str, flags: int) -> int:
    """Open a directory in a directory, if it is neither a link nor a mount.

    Raises:
        OSError: EXDEV for a mount; otherwise as of `os.open`.
    """
    return open_entry(fd, name, flags | os.O_DIRECTORY)


def open_entry(fd: int, name: str, flags: int) -> int:
    """Open what is in a directory, if it is neither a link nor a mount.

    Raises:
        OSError: EXDEV for a mount; otherwise as of `os.open`.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_XDEV
    try:
        child = _open_by_kernel(fd, name, flags, resolve)
    except NativeLinkError:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name) from None
    if child is None:
        child = os.open(name, flags, dir_fd=fd)
        try:
            is_mount = _mount_of(child) != _mount_of(fd)
        except BaseException:
            os.close(child)
            raise
        if is_mount:
            os.close(child)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return child


def _mount_of(fd: int) -> str:
    """The mount that something was opened through; its device, if the kernel does not tell.

    See proc_pid_fdinfo(5).
    """
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    except OSError:
        lines = []
    device = f"device {os.fstat(fd).st_dev}"
    return next((line for line in lines if line.startswith("mnt_id:")), device)


def _open_by_kernel(root_fd: int, path: str, flags: int, resolve: int) -> int | None:
    """Open what a path leads to with one call; None if this kernel does not do it."""
    how = _OpenHow(flags, 0, resolve)
    name = os.fsencode(path)
    code = 0
    for _ in range(_TRIES):
        fd = int(_libc.syscall(_OPENAT2, root_fd, name, ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    if code in _UNSUPPORTED or code == errno.EAGAIN:
        return None
    if code == errno.EXDEV:
        raise _leads_out(path)
    raise OSError(code, os.strerror(code), path)


class _Walk:
    """A path resolved one component at a time."""

    def __init__(self, root_fd: int, path: str) -> None:
        self._root_fd = root_fd
        self._path = path
        #: The directories on the way from the root, each opened below the one before it.
        self._opened: list[int] = []
        self._left = _components(path)
        self._links = 0

    def open(self, flags: int) -> int:
        """See `open_beneath`."""
        if self._path.startswith("/"):
            raise _leads_out(self._path)
        try:
            while len(self._left) > 1:
                self._step(self._left.pop(0))
            name = self._left[0]
            while self._is_link(name, flags):
                while len(self._left) > 1:
                    self._step(self._left.pop(0))
                name = self._left[0]
            if name == "..":
                self._step(name)
                name = "."
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=self._directory)
        finally:
            for fd in self._opened:
                os.close(fd)

    @property
    def _directory(self) -> int:
        return self._opened[-1] if self._opened else self._root_fd

    def _step(self, name: str) -> None:
        """Go into a directory, or up."""
        if name == ".":
            return
        if name == "..":
            if not self._opened:
                raise _leads_out(self._path)
            os.close(self._opened.pop())
            return
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                self._left[:0] = self._follow(fd)
                return
            if not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._path)
            self._opened.append(fd)
            fd = -1
        finally:
            if fd >= 0:
                os.close(fd)

    def _is_link(self, name: str, flags: int) -> bool:
        """Whether the last component is a link to be followed; what is left is its target then."""
        if flags & os.O_NOFOLLOW or name in {".", ".."}:
            return False
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                return False
            self._left = self._follow(fd)
            return True
        finally:
            os.close(fd)

    def _follow(self, fd: int) -> list[str]:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        target = os.readlink("", dir_fd=fd)
        if target.startswith("/"):
            raise _leads_out(self._path)
        return _components(target)


def _components(path: str) -> list[str]:
    """At least one; a slash at the end asks for a directory, as "." does."""
    found = [name for name in path.split("/") if name]
    if path.endswith("/") or not found:
        found.append(".")
    return found


def _leads_out(path: str) -> NativeLinkError:
    return invalid_argument(
        f"{path[:200]!r} leads out of the action's directory, by a symbolic link or by '..'; "
        "nothing outside of it is looked at"
    )
