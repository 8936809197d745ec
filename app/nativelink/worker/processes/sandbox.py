"""Namespaces around the actions of a slot.

A slot enters its namespaces once, when it is made, and stays: making them costs as much as several
processes. It is init of its own pid namespace, so its end is the end of everything in it.
What an action could leave behind is made anew, or proven clean, for each action:

- processes: all others of the pid namespace are killed;
- System V and POSIX message queues, semaphores, shared memory: a new ipc namespace, and a new
  `/dev/shm` if something was left in it;
- connections and ports in use: the network namespace is kept only if no socket is left in it, not
  even one in TIME_WAIT;
- mounts and host name: an action cannot change them, for it has no capabilities, as root neither;
- other actions' directories: under the mounts that hide them is one directory, the action's own.

Having no capabilities means too that an action that runs as root respects the modes of files.
"""

# pathlib would be a good part of these small processes' memory.
# ruff: noqa: PTH102, PTH106, PTH112, PTH123, PTH208

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct

from nativelink.core.errors import unavailable
from nativelink.worker.processes.system import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    die_with_parent,
    drop_capabilities,
    mount,
    sethostname,
    unmount,
    unshare,
)

__all__ = ["Sandbox"]

_HOSTNAME = b"nativelink"
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
#: struct ifreq: a name of 16 bytes and, among others, flags; 40 bytes in all.
_IFREQ = struct.Struct("16sH22x")
_READ_ONLY = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
#: Where POSIX shared memory and semaphores are (shm_overview(7)).
_SHARED = b"/dev/shm"
_COVER = b"mode=0755,size=1m"


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Sandbox:
    """The namespaces of one slot.

    Attributes:
        writable: where the slot, and only it, can write to what is protected; empty if nothing is.
    """

    def __init__(self, *, hidden: list[bytes], protected: bytes, network: bool) -> None:
        """Nothing is done before `enter`.

        Args:
            hidden: absolute paths of directories; of each, an action sees only its own directory,
                if that is below it. None of them is below another.
            protected: a directory that actions can only read; empty for none.
            network: whether actions share the host's network.
        """
        self.writable = ""
        self._hidden = hidden
        self._protected = protected
        self._network = network
        #: For each hidden directory: what is hidden, and the writable side of what hides it.
        self._covers: list[tuple[bytes, int, int]] = []
        #: What `admit` made, to be undone by `dismiss`.
        self._bound: bytes = b""
        self._made: list[bytes] = []

    def enter(self, parent: socket.socket) -> None:
        """Go on as init of new namespaces; the process that called goes away.

        Args:
            parent: where the pid of the new process is told, as four bytes in host order; then a
                byte is awaited, which says that the caller's end has been noticed.

        Raises:
            NativeLinkError: UNAVAILABLE with what the host has to allow.
        """
        uid, gid = os.geteuid(), os.getegid()
        flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
        step = "creating namespaces"
        try:
            unshare(flags | (0 if self._network else CLONE_NEWNET))
            step = "mapping the user into a user namespace"
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{uid} {uid} 1")
            _write("/proc/self/gid_map", f"{gid} {gid} 1")
            pid = os.fork()
            if pid:
                parent.sendall(struct.pack("=i", pid))
                os._exit(0)
            if not parent.recv(1):
                os._exit(0)
            parent.close()
            die_with_parent(signal.SIGKILL)
            step = "mounting /proc in namespaces"
            _mount_proc()
            for directory in self._hidden:
                step = f"hiding {os.fsdecode(directory)} from actions"
                self._hide(directory)
            if self._protected:
                step = f"protecting {os.fsdecode(self._protected)} from actions"
                self._protect()
            step = "mounting /dev/shm in namespaces"
            _mount_shared()
            step = "setting up namespaces"
            sethostname(_HOSTNAME)
            if not self._network:
                _raise_loopback()
            drop_capabilities()
        except OSError as error:
            raise unavailable(f"{step}: {error.strerror}. {_advice(error)}") from None

    def _hide(self, directory: bytes) -> None:
        below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount(b"tmpfs", directory, b"tmpfs", MS_NOSUID | MS_NODEV, _COVER)
        cover = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # What actions see is the same tmpfs once more, which they cannot write to.
        mount(directory, directory, b"", MS_BIND)
        mount(b"none", directory, b"", _READ_ONLY)
        self._covers.append((directory, below, cover))

    def _protect(self) -> None:
        directory = self._protected
        below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount(directory, directory, b"", MS_BIND | MS_REC)
        mount(b"none", directory, b"", _READ_ONLY | MS_NOEXEC)
        self.writable = f"/proc/self/fd/{below}"

    def admit(self, action_directory: bytes) -> None:
        """Prepare for an action.

        Raises:
            NativeLinkError: UNAVAILABLE if the kernel refuses what it allowed before.
        """
        try:
            unshare(CLONE_NEWIPC)
            if not self._network and not _network_is_clean():
                unshare(CLONE_NEWNET)
                _raise_loopback()
            for directory, below, cover in self._covers:
                if action_directory.startswith(directory + b"/"):
                    self._bind(
                        action_directory, action_directory[len(directory) + 1 :], below, cover
                    )
        except OSError as error:
            self.dismiss()
            raise unavailable(
                f"cannot prepare namespaces for an action: {error.strerror}. {_advice(error)}"
            ) from None

    def _bind(self, visible: bytes, name: bytes, below: int, cover: int) -> None:
        path = b"/proc/self/fd/%d" % cover
        for component in name.split(b"/"):
            path += b"/" + component
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            self._made.append(path)
        mount(b"/proc/self/fd/%d/%s" % (below, name), visible, b"", MS_BIND | MS_REC)
        self._bound = visible

    def dismiss(self) -> None:
        """Forget the last action, of which no process is left."""
        if self._bound:
            unmount(self._bound)
            self._bound = b""
        while self._made:
            os.rmdir(self._made.pop())
        if os.path.isdir(_SHARED) and os.listdir(_SHARED):
            unmount(_SHARED)
            _mount_shared()


def _mount_proc() -> None:
    """Show the processes of this namespace, and nothing that could be changed for others."""
    # Mounts of the host go on appearing here, but nothing that is mounted here appears there.
    mount(b"none", b"/", b"", MS_REC | MS_SLAVE)
    mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # The kernel's settings ask for no capability if root writes to them.
    mount(b"/proc/sys", b"/proc/sys", b"", MS_BIND | MS_REC)
    mount(b"none", b"/proc/sys", b"", _READ_ONLY | MS_NOEXEC)


def _mount_shared() -> None:
    """Have shared memory of one's own, where there is any."""
    if os.path.isdir(_SHARED):
        mount(b"tmpfs", _SHARED, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777")


def _raise_loopback() -> None:
    """Let 127.0.0.1 and ::1 work in a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        _, flags = _IFREQ.unpack(answer)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


def _network_is_clean() -> bool:
    """Whether no socket of an earlier action is left in the network namespace.

    The kernel's summary (proc(5), /proc/net/sockstat) counts those in TIME_WAIT too, which no
    process has.
    """
    for path, kinds in (
        ("/proc/self/net/sockstat", ("TCP:", "UDP:", "UDPLITE:", "RAW:")),
        ("/proc/self/net/sockstat6", ("TCP6:", "UDP6:", "UDPLITE6:", "RAW6:")),
    ):
        for line in _read(path).splitlines():
            kind, *words = line.split()
            counts = dict(zip(words[::2], words[1::2], strict=False))
            # The count of orphans is that of the whole machine; those of here are in use too.
            if kind in kinds and not counts.get("inuse", "0") == counts.get("tw", "0") == "0":
                return False
    return True


def _advice(error: OSError) -> str:
    """What an operator can do about a refusal."""
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        setting = "kernel.unprivileged_userns_clone=1"
        return f"Allow it with sysctl {setting}, or set use_namespaces to false"
    for kind in ("user", "pid", "mnt", "ipc", "uts", "net"):
        setting = f"user.max_{kind}_namespaces"
        if _read(f"/proc/sys/{setting.replace('.', '/')}") == "0":
            return f"Allow it with sysctl {setting}=10000, or set use_namespaces to false"
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "Allow it with sysctl kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor "
            "profile for this program that has `userns,`, or set use_namespaces to false"
        )
    if error.errno == errno.ENOSPC:
        return "A limit of /proc/sys/user is used up: raise it, or set use_namespaces to false"
    return (
        "In a container this needs --security-opt seccomp=unconfined --security-opt "
        "apparmor=unconfined --security-opt systempaths=unconfined (Docker) or procMount: Unmasked "
        "(Kubernetes); on a host, user namespaces enabled in the kernel; or set use_namespaces to "
        "false"
    )
