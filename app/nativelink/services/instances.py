"""What a service offers, by instance name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from nativelink.core.errors import NativeLinkError, not_found

__all__ = ["Instances"]

T = TypeVar("T")


class Instances(Generic[T]):
    """The instances of one service on one listener. Names may be empty and may contain slashes.

    Args:
        service: what the service is called in error messages.
        by_name: what each instance is served from.
    """

    __slots__ = ("_by_name", "_service")

    def __init__(self, service: str, by_name: Mapping[str, T]) -> None:
        self._service = service
        self._by_name = dict(by_name)

    def get(self, name: str) -> T:
        """What the named instance is served from.

        Raises:
            NativeLinkError: NOT_FOUND, naming the instances that there are.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise self._unknown(name) from None

    def _unknown(self, name: str) -> NativeLinkError:
        names = ", ".join(repr(known) for known in sorted(self._by_name)) or "none"
        return not_found(
            f"no instance {name[:200]!r} of the {self._service} is configured here; "
            f"instances: {names}"
        )
