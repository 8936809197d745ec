"""What an archive may hold, and how it is said that it holds something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nativelink.core.errors import Code, NativeLinkError

__all__ = ["PIECE_BYTES", "ArchiveLimits", "exhausted", "require_fair", "unfit"]

#: Bytes unpacked in one go: half a millisecond of work.
PIECE_BYTES: Final = 256 * 1024
#: Until so much came out, what is unpacked may be any multiple of what is packed.
_FREE_BYTES: Final = 64 * 1024 * 1024
#: Beyond, so many times as much. Sources are packed to a tenth or so, logs to a fiftieth; zeros to
#: a thousandth by gzip, and to a thirty-thousandth by Zstandard.
_MAX_RATIO: Final = 250


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What one archive may cost.

    Attributes:
        max_bytes: unpacked, with names and padding.
        max_entries: files, symlinks and directories, those included that only stand in a path.
            One costs about 300 bytes of memory until the archive is unpacked, if its name and its
            target are short. Those of all have 64 MiB at most.
    """

    max_bytes: int
    max_entries: int


def require_fair(packed_bytes: int, unpacked_bytes: int) -> None:
    """Return if so much may come of so little: of a bomb, not much is ever unpacked.

    Raises:
        NativeLinkError: RESOURCE_EXHAUSTED.
    """
    if unpacked_bytes > max(_FREE_BYTES, packed_bytes * _MAX_RATIO):
        raise exhausted(
            f"{packed_bytes} bytes unpack to {unpacked_bytes} and more: beyond {_FREE_BYTES} "
            f"bytes, {_MAX_RATIO} times as much is allowed"
        )


def unfit(message: str) -> NativeLinkError:
    """The archive cannot become a directory: ABORTED, as for contents of another checksum."""
    return NativeLinkError(Code.ABORTED, message, retryable=False)


def exhausted(message: str) -> NativeLinkError:
    """The archive holds more than is allowed here."""
    return NativeLinkError(Code.RESOURCE_EXHAUSTED, message, retryable=False)
