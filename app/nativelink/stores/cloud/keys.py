"""Names of objects."""

from __future__ import annotations

import re
from typing import Final, Literal, overload

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import invalid_argument

__all__ = ["Keys"]

#: obstore normalizes names, and refuses some; names that would not stay as they are are refused
#: here, so that no two keys meet in one object.
_POSSIBLE: Final = re.compile(
    r"(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]+(/(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]+)*"
)


class Keys:
    r"""Object names as NativeLink v1.6.6 makes them: prefix and key, nothing in between.

    Args:
        prefix: put before every key.
        google: as in its Google store: each `\` is a `/`, and leading `/` are dropped.

    Attributes:
        prefix: put before every key.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a prefix that no object's name can begin with.
    """

    def __init__(self, prefix: str = "", *, google: bool = False) -> None:
        if google:
            prefix = prefix.replace("\\", "/").lstrip("/")
        self.prefix = prefix
        self._google = google
        if not _POSSIBLE.fullmatch(f"{prefix}x"):
            raise invalid_argument(
                f"key_prefix {prefix!r} is not possible: it cannot begin with '/', and between "
                "two '/' there must be something that is neither '.' nor '..' and has no control "
                "characters"
            )

    @overload
    def path(self, key: StoreKey, *, must_be_possible: Literal[True]) -> str: ...

    @overload
    def path(self, key: StoreKey) -> str | None: ...

    def path(self, key: StoreKey, *, must_be_possible: bool = False) -> str | None:
        """The name of a key's object; None if no object can have it.

        Raises:
            NativeLinkError: INVALID_ARGUMENT instead, if `must_be_possible`.
        """
        if isinstance(key, Digest):
            return f"{self.prefix}{key.hash}-{key.size_bytes}"
        path = f"{self.prefix}{key}"
        if self._google:
            path = path.replace("\\", "/").lstrip("/")
        if _POSSIBLE.fullmatch(path):
            return path
        if must_be_possible:
            raise invalid_argument(
                f"{key!r} cannot be the name of an object: empty, '.' and '..' segments and "
                "control characters are not allowed"
            )
        return None
