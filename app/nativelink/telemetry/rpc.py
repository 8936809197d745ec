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
_log: Final = logging.getLogger("nativelink.access")


class RpcRecorder:
    """`rpc.server.duration` of every method.

    A method's cells are made beforehand, so a call costs two look-ups, a bisection and two
    additions: a few per cent of the cheapest call there is.

    Args:
        registry: where the histogram is.
        paths: `/package.Service/Method` of every method that is served; calls of others are
            counted together, as what a client makes up must not become a label.
    """

    def __init__(self, registry: Registry, paths: Iterable[str]) -> None:
        self._histogram = registry.histogram(RPC_SERVER_DURATION)
        self._cells = {path: _cells(self._histogram, path) for path in paths}
        self._unknown = _cells(self._histogram, "/unknown/unknown")

    def call_ended(self, method_path: str, code: Code, seconds: float, /) -> None:
        """Count a call."""
        cell = self._cells.get(method_path, self._unknown)[code]
        # `cell.record(seconds)` without the price of calling it.
        cell.counts[bisect_left(_BOUNDS, seconds)] += 1
        cell.sum += seconds


class LoggingRpcRecorder(RpcRecorder):
    """Writes the access log too: one line per call at debug level."""

    def call_ended(self, method_path: str, code: Code, seconds: float, /) -> None:
        super().call_ended(method_path, code, seconds)
        _log.debug("%s %s %.6f s", method_path, code.name, seconds)


def _cells(histogram: Histogram, path: str) -> list[HistogramCell]:
    service, _, name = path.strip("/").rpartition("/")
    return [histogram.bind(service, name, int(code)) for code in Code]
