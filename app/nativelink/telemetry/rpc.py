"""Calls counted by method and code: the observer that the transport tells of every call."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from nativelink.core.errors import Code
from nativelink.telemetry.meter import Histogram, HistogramCell, Registry
from nativelink.telemetry.metrics import RPC_SERVER_DURATION

__all__ = ["LoggingRpcRecorder", "RpcRecorder"]

_BOUNDS: Final = RPC_SERVER_DURATION.bounds
_FIRST_BOUND: Final = _BOUNDS[0]
_OK: Final = Code.OK
_log: Final = logging.getLogger("nativelink.access")


class RpcRecorder:
    """`rpc.server.duration` of every method.

    Each cell is made beforehand. The usual call, one that succeeds within the first bucket, costs
    a look-up and two additions (0.1 us), as there are calls that cost 5 us in all.

    Args:
        registry: where the histogram is.
        paths: `/package.Service/Method` of every method that is served; calls of others are
            counted together, as what a client makes up must not become a label.
    """

    __slots__ = ("_cells", "_succeeded", "_unknown")

    def __init__(self, registry: Registry, paths: Iterable[str]) -> None:
        histogram = registry.histogram(RPC_SERVER_DURATION)
        self._cells = {path: _cells(histogram, path) for path in paths}
        self._succeeded = {path: cells[Code.OK] for path, cells in self._cells.items()}
        self._unknown = _cells(histogram, "/unknown/unknown")

    def call_ended(self, method_path: str, code: Code, seconds: float, count: int = 1, /) -> None:
        """Count calls (`transport.environment.CallObserver`)."""
        try:
            if code is _OK:
                cell = self._succeeded[method_path]
            else:
                cell = self._cells[method_path][code]
        except KeyError:
            cell = self._unknown[code]
        # `cell.record(seconds)` without the price of calling it.
        if seconds <= _FIRST_BOUND:
            cell.counts[0] += count
        else:
            cell.counts[bisect_left(_BOUNDS, seconds)] += count
        cell.sum += seconds * count


class LoggingRpcRecorder(RpcRecorder):
    """Writes the access log too: one line per call at debug level."""

    __slots__ = ()

    def call_ended(self, method_path: str, code: Code, seconds: float, count: int = 1, /) -> None:
        super().call_ended(method_path, code, seconds, count)
        for _ in range(count):
            _log.debug("%s %s %.6f s", method_path, code.name, seconds)


def _cells(histogram: Histogram, path: str) -> list[HistogramCell]:
    service, _, name = path.strip("/").rpartition("/")
    return [histogram.bind(service, name, int(code)) for code in Code]
