"""The paths of the HTTP cache, and what each method does there.

    /ac/HASH                   an entry: a result of an action, or whatever a client puts
    /cas/HASH                  a blob, named by its hash
    /cache/ANY/PATH            an entry under a path: ccache, sccache (WebDAV), Gradle
    /v8/artifacts/...          Turborepo

each behind `/INSTANCE` if the instance has a name. GET, HEAD and PUT do what they say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias
from urllib.parse import quote

from nativelink.core.errors import Code, NativeLinkError, failed_precondition
from nativelink.core.rpc import (
    CallContext,
    HttpRequest,
    HttpResponse,
    HttpSink,
    HttpStreamHandler,
    HttpStreamRoute,
    current_call,
)
from nativelink.core.streams import Source
from nativelink.services.http.answers import header
from nativelink.services.http.instance import HttpCacheInstance
from nativelink.services.http.names import HashName, parse_hash_name
from nativelink.services.http.refusal import RefusedError, not_allowed
from nativelink.services.http.turborepo import answer_turborepo
from nativelink.services.http.webdav import METHODS as WEBDAV_METHODS
from nativelink.services.http.webdav import answer_webdav
from nativelink.services.identity import identity

__all__ = ["RequestRecorder", "http_cache_routes"]

#: Takes a request, its body, the sink, and the path below the route's.
_Serve: TypeAlias = Callable[[HttpRequest, Source, HttpSink, str], Awaitable[HttpResponse | None]]
#: Answers GET or HEAD, and takes PUT, of what a hash names.
_Get: TypeAlias = Callable[[HttpRequest, HttpSink, HashName], Awaitable[HttpResponse | None]]
_Put: TypeAlias = Callable[[HttpRequest, Source, HashName], Awaitable[HttpResponse]]

_ALLOWED: Final = "GET, HEAD, PUT"
#: Methods that change nothing. All others carry `Origin` when a browser sends them, whatever page
#: they are from; no build tool does. So a page cannot write into a cache on its reader's machine,
#: not even one whose name was made to point there (DNS rebinding).
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND"})


class RequestRecorder(Protocol):
    """Told of every request that is over."""

    def ended(self, route: str, method: str, outcome: int | Code, seconds: float, /) -> None:
        """`outcome` is the status, or the code of the error that the request ended with."""
        ...


def http_cache_routes(
    instances: Mapping[str, HttpCacheInstance],
    *,
    requires_identity: bool = False,
    recorder: RequestRecorder | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Sequence[HttpStreamRoute]:
    """The routes of one listener.

    Args:
        instances: by name; each is a prefix of paths.
        requires_identity: refuse requests that do not say who sends them, as gRPC calls.
        recorder: see `RequestRecorder`.
        monotonic: seconds, for durations.
    """
    routes: list[HttpStreamRoute] = []
    for name, instance in instances.items():
        prefix = f"/{quote(name)}" if name else ""
        for path, serve in (
            ("/ac", _by_hash(instance.get_entry, instance.put_entry)),
            ("/cas", _by_hash(instance.get_blob, instance.put_blob)),
            ("/cache", _tree(instance)),
            ("/v8/artifacts", _turborepo(instance)),
        ):
            handler = _handler(serve, prefix + path, requires_identity=requires_identity)
            if recorder is not None:
                handler = _recorded(handler, path, recorder, monotonic)
            routes.append(HttpStreamRoute(prefix + path, handler, prefix=True))
    return routes


def _handler(serve: _Serve, path: str, *, requires_identity: bool) -> HttpStreamHandler:
    """What is the same for all of them: who asks, and how refusals are answered."""

    async def handle(request: HttpRequest, body: Source, sink: HttpSink) -> HttpResponse | None:
        call = CallContext(request.path, request.headers, request.peer)
        if requires_identity and not identity(call):
            raise failed_precondition(
                "this server wants to know who sends a request: the header 'baggage' must hold "
                "enduser.id=NAME"
            )
        if request.method not in _SAFE and header(request, b"origin"):
            return HttpResponse(403, b"pages in a browser may not write here\n")
        # Stores that pass requests on look into it; every request has a context of its own.
        current_call.set(call)
        try:
            return await serve(request, body, sink, request.path[len(path) + 1 :])
        except RefusedError as refused:
            return refused.response
        except NativeLinkError as error:
            if error.code is Code.RESOURCE_EXHAUSTED and request.method == "PUT":
                return HttpResponse(507, f"{error.message}\n".encode())
            raise

    return handle


def _recorded(
    handler: HttpStreamHandler,
    route: str,
    recorder: RequestRecorder,
    monotonic: Callable[[], float],
) -> HttpStreamHandler:
    async def handle(request: HttpRequest, body: Source, sink: HttpSink) -> HttpResponse | None:
        began = monotonic()
        watched = _WatchedSink(sink)
        outcome: int | Code = Code.INTERNAL
        try:
            response = await handler(request, body, watched)
            outcome = watched.status if response is None else response.status
        except NativeLinkError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = Code.CANCELLED
            raise
        finally:
            recorder.ended(route, request.method, outcome, monotonic() - began)
        return response

    return handle


class _WatchedSink:
    """A sink that knows which status was begun."""

    __slots__ = ("_sink", "status", "write")

    def __init__(self, sink: HttpSink) -> None:
        self._sink = sink
        self.write = sink.write
        self.status = 0

    def begin(self, response: HttpResponse, length: int | None) -> None:
        self.status = response.status
        self._sink.begin(response, length)


def _by_hash(get: _Get, put: _Put) -> _Serve:
    """What is named by a hash: entries and blobs."""

    async def serve(
        request: HttpRequest, body: Source, sink: HttpSink, rest: str
    ) -> HttpResponse | None:
        if request.method in {"GET", "HEAD"}:
            return await get(request, sink, parse_hash_name(rest))
        if request.method == "PUT":
            return await put(request, body, parse_hash_name(rest))
        raise not_allowed(request.method, _ALLOWED)

    return serve


def _tree(instance: HttpCacheInstance) -> _Serve:
    async def serve(
        request: HttpRequest, body: Source, sink: HttpSink, rest: str
    ) -> HttpResponse | None:
        if request.method in WEBDAV_METHODS:
            return await answer_webdav(request, instance, rest)
        if request.method in {"GET", "HEAD"}:
            return await instance.get_path(request, sink, rest)
        if request.method == "PUT":
            return await instance.put_path(request, body, rest)
        raise not_allowed(request.method, f"{_ALLOWED}, {', '.join(WEBDAV_METHODS)}")

    return serve


def _turborepo(instance: HttpCacheInstance) -> _Serve:
    async def serve(
        request: HttpRequest, body: Source, sink: HttpSink, rest: str
    ) -> HttpResponse | None:
        return await answer_turborepo(request, body, sink, instance, rest)

    return serve
