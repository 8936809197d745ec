"""Administration over HTTP: what this process is, holds and does, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from nativelink.core.rpc import HttpRequest, HttpResponse, HttpRoute

__all__ = ["Report", "admin_route", "landing_route"]

#: Asked anew at every request.
Report = Callable[[], Mapping[str, object]]


def admin_route(report: Report, *, path: str) -> HttpRoute:
    """The administration page.

    Args:
        report: what to show; anything that JSON can hold.
        path: where.
    """

    async def admin(request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponse(405, b"GET is allowed\n", headers={"allow": "GET, HEAD"})
        return HttpResponse(
            200,
            (json.dumps(report(), indent=2) + "\n").encode(),
            content_type="application/json; charset=utf-8",
            headers={"cache-control": "no-store"},
        )

    return HttpRoute(path, admin)


def landing_route(text: str) -> HttpRoute:
    """The page `/`, for a person who opens the port in a browser."""
    body = text.encode()

    async def landing(request: HttpRequest) -> HttpResponse:
        del request
        return HttpResponse(200, body)

    return HttpRoute("/", landing)
