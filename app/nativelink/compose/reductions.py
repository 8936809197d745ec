"""What stores that keep less than they are given save."""

from __future__ import annotations

from collections.abc import Callable

from nativelink.telemetry.meter import Observation, Registry
from nativelink.telemetry.metrics import STORE_REDUCTION_IO

__all__ = ["reductions"]


def reductions(registry: Registry, path: str, kind: str) -> Callable[[int, int], None]:
    """Takes the bytes of each blob that is put, and what was stored for it."""
    given = stored = 0

    def report(blob_bytes: int, stored_bytes: int) -> None:
        nonlocal given, stored
        given += blob_bytes
        stored += stored_bytes

    def observe() -> list[Observation]:
        return [((path, kind, "given"), given), ((path, kind, "stored"), stored)]

    registry.observe(STORE_REDUCTION_IO, observe)
    return report
