"""Names of entries of a directory, which clients choose."""

from __future__ import annotations

from typing import Final

__all__ = ["check_name"]

_MAX_NAME_BYTES: Final = 255  # NAME_MAX of every common filesystem


def check_name(name: str) -> str:
    """What is wrong with the name of an entry of a directory; "" if nothing is."""
    if not name:
        return "is empty"
    if name in {".", ".."}:
        return f"is {name!r}"
    if "/" in name:
        return "contains '/'"
    if "\0" in name:
        return "contains a NUL byte"
    if len(name) > _MAX_NAME_BYTES // 4 and len(name.encode()) > _MAX_NAME_BYTES:
        return f"is longer than {_MAX_NAME_BYTES} bytes"
    return ""
