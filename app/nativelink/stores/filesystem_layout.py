"""Where the filesystem store keeps what: names and directories, no file contents.

The layout is NativeLink v1.6.6's, byte for byte, so that either program can take over the other's
directories:

- `{content_path}/d/{hash}-{size}` for digests, `{content_path}/s/{key}` for string keys, mode 0444;
- `{temp_path}/d` and `{temp_path}/s` for what is being written. A temporary file is named like its
  digest with the last eight of the hash's 32 bytes replaced by a little-endian counter; a string
  key counts as BLAKE3 of its UTF-8 bytes with its length as size, so all of them land in `d`.

The empty blob has no file.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from itertools import count
from pathlib import Path
from typing import Final

import blake3

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import (
    NativeLinkError,
    failed_precondition,
    invalid_argument,
)
from nativelink.stores.directory_claims import Claim, claim_directory, release_directory

__all__ = ["CONTENT_MODE", "Layout", "parse_digest_name"]

#: Read-only for everyone: files are hard-linked into input roots and must never change.
CONTENT_MODE: Final = 0o444

_MAX_NAME_BYTES: Final = 255  # NAME_MAX of every common filesystem
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NOT_OURS: Final = "; uid {uid}, which runs this, must be able to write there"
_NO_ROOM: Final = "; make room there, or choose another disk"
#: What to do about directories that cannot be used.
_REMEDIES: Final = {
    errno.EACCES: _NOT_OURS,
    errno.EPERM: _NOT_OURS,
    errno.EROFS: "; choose a disk that may be written to",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.ENOTDIR: "; something that is no directory is in the way",
    errno.EEXIST: "; something that is no directory is in the way",
}
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def parse_digest_name(name: str) -> Digest | None:
    """The digest whose file has this name, None if there is no such digest."""
    try:
        digest = Digest.from_string(name)
    except NativeLinkError:
        return None
    # Upper case or leading zeros parse, but are no name under which a blob would be looked up.
    return digest if str(digest) == name else None


class Layout:
    """The directories of one store, held open, and the names in them.

    All calls take names relative to a directory's descriptor, so a store goes on working when a
    directory above it is renamed.

    Attributes:
        digests: descriptor of `{content_path}/d`.
        strings: descriptor of `{content_path}/s`.
        temp: descriptor of `{temp_path}/d`.
        must_chmod: whether new files need a chmod because the umask takes bits of 0444 away.
    """

    __slots__ = (
        "_claims",
        "_numbers",
        "content_path",
        "digests",
        "must_chmod",
        "strings",
        "temp",
        "temp_path",
    )

    def __init__(self, content_path: Path, temp_path: Path) -> None:
        self.content_path = content_path
        self.temp_path = temp_path
        self.digests = self.strings = self.temp = -1
        self.must_chmod = False
        self._claims: list[Claim] = []
        # Starts anywhere, so that no name meets one that an earlier process left behind.
        self._numbers = count(random.getrandbits(62))

    def open(self) -> None:
        """Make the directories, claim them, check their use, and empty the temporary ones.

        Raises:
            NativeLinkError: FAILED_PRECONDITION naming the directory and what is wrong with it.
        """
        try:
            for root in (self.content_path, self.temp_path):
                for name in ("d", "s"):
                    (root / name).mkdir(parents=True, exist_ok=True)
            self.digests = os.open(self.content_path / "d", _DIRECTORY)
            self.strings = os.open(self.content_path / "s", _DIRECTORY)
            self.temp = os.open(self.temp_path / "d", _DIRECTORY)
            if self.content_path.samefile(self.temp_path):
                raise failed_precondition(
                    f"content_path and temp_path are the same directory, {self.content_path}: what "
                    "is in temp_path is removed at every start"
                )
            for directory, root in (
                (self.digests, self.content_path),
                (self.temp, self.temp_path),
            ):
                self._claims.append(claim_directory(directory, str(root)))
            for name in ("d", "s"):
                self._empty(self.temp_path / name)
            self._probe()
        except OSError as error:
            self.close()
            raise failed_precondition(
                f"cannot use content_path {self.content_path} with temp_path {self.temp_path}: "
                f"{_told(error)}"
            ) from error
        except NativeLinkError:
            self.close()
            raise

    def close(self) -> None:
        """Close the directories, for other processes to use."""
        while self._claims:
            release_directory(self._claims.pop())
        for fd in (self.digests, self.strings, self.temp):
            if fd >= 0:
                os.close(fd)
        self.digests = self.strings = self.temp = -1

    def content(self, key: StoreKey) -> tuple[int, str]:
        """The directory and file name of a key's value.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a string that is no plain file name.
        """
        if isinstance(key, Digest):
            return self.digests, f"{key.hash}-{key.size_bytes}"
        if not key or key in {".", ".."} or "/" in key or "\0" in key or _name_bytes(key) is None:
            raise invalid_argument(
                f"key {key[:100]!r} cannot be stored in a file: a name of 1 to {_MAX_NAME_BYTES} "
                "bytes of UTF-8 without '/' is allowed, and neither '.' nor '..'"
            )
        return self.strings, key

    def temp_name(self, key: StoreKey) -> str:
        """A new name in the temporary directory."""
        number = next(self._numbers).to_bytes(8, "little").hex()
        if isinstance(key, Digest):
            return f"{key.hash[:48]}{number}-{key.size_bytes}"
        name = key.encode()
        return f"{blake3.blake3(name).hexdigest()[:48]}{number}-{len(name)}"

    def create_temp(self, name: str) -> int:
        """Create a temporary file, already with its final mode; returns its descriptor.

        Raises:
            OSError: the disk is full, or there are no more descriptors.
        """
        fd = os.open(name, _CREATE, CONTENT_MODE, dir_fd=self.temp)
        if self.must_chmod:
            os.fchmod(fd, CONTENT_MODE)
        return fd

    def discard_temp(self, name: str) -> None:
        """Remove a temporary file if it is still there."""
        try:
            os.unlink(name, dir_fd=self.temp)
        except FileNotFoundError:
            pass

    def publish(self, temp_name: str, key: StoreKey) -> int:
        """Give a temporary file its final name, in place of an older value.

        Returns:
            The directory that holds the name.

        Raises:
            OSError: it could not be renamed.
        """
        directory, name = self.content(key)
        os.rename(temp_name, name, src_dir_fd=self.temp, dst_dir_fd=directory)
        return directory

    def remove(self, key: StoreKey) -> None:
        """Remove a key's file if it is still there.

        Raises:
            OSError: it could not be removed.
        """
        directory, name = self.content(key)
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass

    def size_of(self, key: StoreKey) -> int | None:
        """The size of a key's file, None if there is none."""
        try:
            directory, name = self.content(key)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NativeLinkError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @staticmethod
    def _empty(directory: Path) -> None:
        """Remove the files of uploads that an earlier process did not finish."""
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink()

    def _probe(self) -> None:
        """Do once with an empty file what is done with every blob."""
        name = f"{self.temp_name('probe')}.probe"
        fd = self.create_temp(name)
        try:
            self.must_chmod = stat.S_IMODE(os.fstat(fd).st_mode) != CONTENT_MODE
        finally:
            os.close(fd)
        source = self.temp
        try:
            for directory in (self.digests, self.strings):
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=directory)
                source = directory
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise failed_precondition(
                f"content_path {self.content_path} and temp_path {self.temp_path} must be on one "
                "filesystem: finished files are renamed from one to the other"
            ) from error
        finally:
            os.unlink(name, dir_fd=source)


def _told(error: OSError) -> str:
    """What is wrong with which file, and what may help."""
    # Below an open directory there is only a name, which nobody knows.
    place = f" at {error.filename}" if str(error.filename).startswith("/") else ""
    remedy = _REMEDIES.get(error.errno or 0, "")
    return f"{error.strerror or error}{place}{remedy.format(uid=os.geteuid())}"


def _name_bytes(key: str) -> int | None:
    """The length of a file name, None if it is too long or cannot be written in UTF-8."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return None
    return length if length <= _MAX_NAME_BYTES else None
