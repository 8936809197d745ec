"""The file through which an action (or the entrypoint around it) says how it failed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import json5

from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["said_timeout"]

#: The parser takes 40 us for a byte, and 200 braces are as deep as it goes.
_MAX_BYTES: Final = 1024
_TIMEOUT: Final = "timeout"


def said_timeout(path: Path) -> bool:
    """Whether the action says that it timed out: `{"failure": "timeout"}` (NativeLink v1.6.6).

    Raises:
        NativeLinkError: INVALID_ARGUMENT if there is something else in the file.
    """
    try:
        # Whatever the action put there: no link is followed, no pipe is waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unclear(str(error)) from error
    try:
        data = os.read(fd, _MAX_BYTES + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        said = json5.loads(data.decode())
        failure = said.get("failure") if isinstance(said, dict) else None
        if not isinstance(said, dict) or failure not in (None, _TIMEOUT):
            raise ValueError(f"{data[:200].decode()!r} was written")
    except (ValueError, RecursionError) as error:
        raise _unclear(str(error)) from error
    return failure == _TIMEOUT


def _unclear(why: str) -> NativeLinkError:
    return invalid_argument(
        f"the side channel file of the action cannot be understood: {why}; expected is "
        '{"failure": "timeout"}'
    )
