"""System calls that the standard library of Python 3.11 lacks."""

from __future__ import annotations

import ctypes
import os

__all__ = [
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_SLAVE",
    "become_subreaper",
    "die_with_parent",
    "drop_capabilities",
    "give_up_capabilities",
    "mount",
    "sethostname",
    "unmount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
#: _LINUX_CAPABILITY_VERSION_3: two words for each of three sets.
_CAPABILITY_VERSION = 0x20080522
#: Capabilities of any kernel so far have numbers below this one; unknown ones give EINVAL.
_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.unshare.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def _checked(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def become_subreaper() -> None:
    """From now on, descendants whose parent ends become children of this process."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(number: int) -> None:
    """Get signal `number` when the parent ends; it may have ended already."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def drop_capabilities() -> None:
    """No program that is executed from now on has capabilities; this process keeps its own.

    Raises:
        OSError: EPERM if this process lacks CAP_SETPCAP.
    """
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            return _checked(capability == 0, "prctl(PR_CAPBSET_DROP)")
    return None


def give_up_capabilities() -> None:
    """Neither this process nor what it executes has capabilities, unless it is root.

    A service that is not root gets them as ambient ones, which what it starts inherits.
    """
    _checked(
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl(PR_CAP_AMBIENT)"
    )
    if os.geteuid() != 0:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` (CLONE_NEW...) name for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes = b"") -> None:
    """Mount something."""
    if _libc.mount(source, target, kind, flags, options):
        number = ctypes.get_errno()
        raise OSError(number, f"mount: {os.strerror(number)}", os.fsdecode(target))


def unmount(target: bytes) -> None:
    """Take a mount out of sight; it goes when nobody uses it any more."""
    if _libc.umount2(target, MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, f"umount: {os.strerror(number)}", os.fsdecode(target))


def sethostname(name: bytes) -> None:
    """Name the machine, as far as this UTS namespace goes."""
    _checked(_libc.sethostname(name, len(name)), "sethostname")
