"""Calls counted by method and code: the recorder that the transport calls once per call."""

from __future__ import annotations

from collections.abc import Callable

from nativelink.telemetry.meter import HistogramCell, Registry
from nativelink.telemetry.metrics import RPC_SERVER_DURATION

__all__ = ["RpcRecorder"]


class RpcRecorder:
    """`rpc.server.duration` of every method.

    A method's cells are looked up once, so a call costs a list index and `HistogramCell.record`.
    """

    def __init__(self, registry: Registry) -> None:
        self._histogram = registry.histogram(RPC_SERVER_DURATION)

    def method(self, path: str) -> Callable[[int, float], None]:
        """The function that takes a finished call's code and its duration in seconds.

        Args:
            path: `/package.Service/Method` of a method that is served; what a client makes up
                must not become a label.
        """
        service, _, name = path.strip("/").rpartition("/")
        histogram = self._histogram
        cells: dict[int, HistogramCell] = {}

        def record(code: int, duration_s: float) -> None:
            cell = cells.get(code)
            if cell is None:
                cell = cells[code] = histogram.bind(service, name, int(code))
            cell.record(duration_s)

        return record
