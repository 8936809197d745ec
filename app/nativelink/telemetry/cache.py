"""Operations of cache_metrics stores, under NativeLink's names."""

from __future__ import annotations

from dataclasses import dataclass

from nativelink.telemetry.meter import CounterCell, HistogramCell, Registry
from nativelink.telemetry.metrics import (
    CACHE_IO,
    CACHE_ITEM_SIZE,
    CACHE_OPERATION_DURATION,
    CACHE_OPERATIONS,
)

__all__ = ["CacheRecorder"]


@dataclass(frozen=True, slots=True)
class _Cells:
    duration: HistogramCell
    operations: CounterCell
    io: CounterCell
    size: HistogramCell


class CacheRecorder:
    """An `OperationRecorder` (`stores/wrap/cache_metrics.py`) for all caches of a process."""

    def __init__(self, registry: Registry) -> None:
        self._duration = registry.histogram(CACHE_OPERATION_DURATION)
        self._operations = registry.counter(CACHE_OPERATIONS)
        self._io = registry.counter(CACHE_IO)
        self._size = registry.histogram(CACHE_ITEM_SIZE)
        self._cells: dict[tuple[str, str, str], _Cells] = {}

    def record(
        self,
        cache_type: str,
        operation: str,
        result: str,
        seconds: float,
        size_bytes: int,
        /,
        *,
        count: int = 1,
    ) -> None:
        """Take one measurement, or one of `count` look-ups that were made together."""
        labels = (cache_type, operation, result)
        cells = self._cells.get(labels)
        if cells is None:
            cells = self._cells[labels] = _Cells(
                self._duration.bind(*labels),
                self._operations.bind(*labels),
                self._io.bind(*labels),
                self._size.bind(*labels),
            )
        cells.duration.record(seconds * 1000)
        cells.operations.add(count)
        if size_bytes:
            cells.io.add(size_bytes)
            cells.size.record(size_bytes)
