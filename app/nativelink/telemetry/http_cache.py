"""What the HTTP cache answers, as a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nativelink.core.errors import Code
from nativelink.telemetry.meter import Definition, Kind, Registry

__all__ = ["HTTP_CACHE_CATALOGUE", "HttpCacheRecorder"]

HTTP_REQUEST_DURATION: Final = Definition(
    "http.server.request.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the head of a request to the HTTP cache to the end of its answer. GET with 200 is a "
    "hit, with 404 a miss; 499 is a client that went away.",
    ("http.route", "http.request.method", "http.response.status_code"),
    (
        0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
        1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    ),
)  # fmt: skip

HTTP_CACHE_CATALOGUE: Final = (HTTP_REQUEST_DURATION,)

#: What clients make up must not become a label.
_METHODS: Final = frozenset(
    {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PROPFIND", "MKCOL"}
)
_GONE: Final = 499


class HttpCacheRecorder:
    """Hears of every request that is over (`services/http/routes.py`).

    Args:
        registry: where the metric is.
        status_of: the status that a code becomes.
    """

    def __init__(self, registry: Registry, *, status_of: Callable[[Code], int]) -> None:
        self._duration = registry.histogram(HTTP_REQUEST_DURATION)
        self._status_of = status_of

    def ended(self, route: str, method: str, outcome: int | Code, seconds: float, /) -> None:
        """One request is over, with a status, or with the code of its error."""
        status = int(outcome)
        if isinstance(outcome, Code):
            status = _GONE if outcome is Code.CANCELLED else self._status_of(outcome)
        name = method if method in _METHODS else "_OTHER"
        self._duration.bind(route, name, status).record(seconds)
