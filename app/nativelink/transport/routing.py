"""What is to be done with a request: decided once per request head, then remembered in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from nativelink.core.errors import (
    Code,
    NativeLinkError,
    resource_exhausted,
    unimplemented,
)
from nativelink.core.rpc import HttpRoute, HttpStreamRoute, Method
from nativelink.transport.fields import Field
from nativelink.transport.flow import HeaderBlock, header_block
from nativelink.transport.grpc import parse_timeout
from nativelink.transport.headers import RequestHead
from nativelink.transport.settings import ServerSettings
from nativelink.transport.status import encode_metadata, status_fields

__all__ = ["AnyHttpRoute", "GrpcPlan", "HttpPlan", "Plan", "Refusal", "Router"]

AnyHttpRoute: TypeAlias = HttpRoute | HttpStreamRoute

_OK_FIELD: Final = (b"grpc-status", b"0")
_STATUS_200: Final = (b":status", b"200")
_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")

#: Encoded errors that are kept for the next time: at most 128 x 2 x 200 octets, about 50 KiB, if
#: clients provoke messages that are all different.
_MAX_ERROR_HEADS: Final = 128
_MAX_KEPT_MESSAGE: Final = 200


class GrpcPlan:
    """A gRPC call.

    Attributes:
        unary: neither side streams.
        path: the method's path.
        method: the method.
        metadata: the request's fields.
        timeout_s: seconds from `grpc-timeout`, or None.
        gunzip: whether its messages may be compressed.
        gzip: whether its answers shall be.
        head: the answer's header block.
    """

    __slots__ = (
        "gunzip",
        "gzip",
        "handler",
        "head",
        "metadata",
        "method",
        "parse",
        "path",
        "timeout_s",
        "unary",
    )

    def __init__(self, method: Method, metadata: tuple[Field, ...], head: HeaderBlock) -> None:
        self.unary = not (method.client_streaming or method.server_streaming)
        self.path = method.path
        self.method = method
        self.handler = method.handler
        self.parse = method.parse
        self.metadata = metadata
        self.timeout_s: float | None = None
        self.gunzip = False
        self.gzip = False
        self.head = head


class HttpPlan:
    """A plain HTTP request that has a route."""

    __slots__ = ("path", "query", "route")
    unary = False

    def __init__(self, route: AnyHttpRoute, path: str, query: str) -> None:
        self.route = route
        self.path = path
        self.query = query


class Refusal:
    """An answer that needs no body: a block that ends the stream.

    Attributes:
        path: the gRPC path that was asked for, or "" for plain HTTP.
        code: its status.
    """

    __slots__ = ("block", "code", "path")
    unary = False

    def __init__(self, block: HeaderBlock, path: str, code: Code) -> None:
        self.block = block
        self.path = path
        self.code = code


Plan = GrpcPlan | HttpPlan | Refusal


class Router:
    """All that a listener serves.

    Args:
        methods: gRPC methods; a path may stand there once.
        routes: plain HTTP routes; an exact path goes before a prefix, the longer prefix first.
        settings: the listener's.

    Raises:
        ValueError: two methods or routes for one path.
    """

    def __init__(
        self, methods: Iterable[Method], routes: Iterable[AnyHttpRoute], settings: ServerSettings
    ) -> None:
        self._settings = settings
        self._methods: dict[bytes, Method] = {}
        for method in methods:
            if self._methods.setdefault(method.path.encode(), method) is not method:
                raise ValueError(f"two methods for {method.path}")
        self._exact: dict[str, AnyHttpRoute] = {}
        self._prefixes: list[AnyHttpRoute] = []
        for route in routes:
            if self._exact.setdefault(route.path, route) is not route:
                raise ValueError(f"two routes for {route.path}")
            if route.prefix:
                self._prefixes.append(route)
        self._prefixes.sort(key=lambda route: -len(route.path))
        self._accepted = b"identity,gzip" if settings.accept_gzip else b"identity"
        common: list[Field] = [_STATUS_200, _CONTENT_TYPE]
        if settings.accept_gzip:
            common.append((b"grpc-accept-encoding", self._accepted))
        self._head = header_block(common)
        self._gzip_head = header_block([*common, (b"grpc-encoding", b"gzip")])
        self.ok_trailers: Final = header_block([_OK_FIELD], end_stream=True)
        self._error_heads: dict[tuple[Code, str], HeaderBlock] = {}

    def plan(self, head: RequestHead) -> Plan:
        """What to do with a request."""
        if head.oversized:
            return self._http_refusal(431)
        content_type = b""
        for name, value in head.fields:
            if name == b"content-type":
                content_type = value
                break
        if content_type.startswith(b"application/grpc") and content_type[16:17] in {
            b"",
            b"+",
            b";",
        }:
            return self._grpc_plan(head)
        if head.method == b"CONNECT":
            return self._http_refusal(501)
        path, _, query = head.path.decode("latin-1").partition("?")
        route = self.route(path)
        if route is not None:
            return HttpPlan(route, path, query)
        if head.path in self._methods:
            return self._http_refusal(
                415,
                (b"grpc-status", b"%d" % Code.INVALID_ARGUMENT),
                (b"grpc-message", b"content-type application/grpc is expected here"),
            )
        return self._http_refusal(404)

    def route(self, path: str) -> AnyHttpRoute | None:
        """The route of a plain HTTP path."""
        route = self._exact.get(path)
        if route is None:
            for candidate in self._prefixes:
                if path.startswith(candidate.path) and (
                    candidate.path.endswith("/") or path[len(candidate.path)] == "/"
                ):
                    return candidate
        return route

    def _grpc_plan(self, head: RequestHead) -> Plan:
        path = head.path.decode("latin-1")
        try:
            if head.method != b"POST":
                return self._http_refusal(405, (b"allow", b"POST"))
            method = self._methods.get(head.path)
            if method is None:
                raise unimplemented(f"unknown method {path}")
            return self._call(method, head)
        except NativeLinkError as error:
            return Refusal(self.error_head(error), path, error.code)

    def _call(self, method: Method, head: RequestHead) -> GrpcPlan:
        timeout_s: float | None = None
        gunzip = gzip = False
        for name, value in head.fields:
            if not name.startswith(b"grpc-"):
                continue
            if name == b"grpc-timeout":
                timeout_s = parse_timeout(value)
            elif name == b"grpc-encoding" and value != b"identity":
                if value != b"gzip" or not self._settings.accept_gzip:
                    raise unimplemented(
                        f"grpc-encoding {value[:40].decode('latin-1')}: this listener takes "
                        f"{self._accepted.decode()}"
                    )
                gunzip = True
            elif name == b"grpc-accept-encoding" and self._settings.send_gzip:
                gzip = b"gzip" in [item.strip() for item in value.split(b",")]
        plan = GrpcPlan(method, head.fields, self._gzip_head if gzip else self._head)
        plan.timeout_s = timeout_s
        plan.gunzip = gunzip
        plan.gzip = gzip
        return plan

    def error_head(self, error: NativeLinkError, metadata: Sequence[Field] = ()) -> HeaderBlock:
        """A whole answer in one block ("Trailers-Only") that reports `error`."""
        if metadata or error.details:
            return self._error_head(error, metadata)
        # A cache says "not found" all day, and always in the same words.
        key = (error.code, error.message)
        head = self._error_heads.get(key)
        if head is None:
            head = self._error_head(error, metadata)
            if len(error.message) <= _MAX_KEPT_MESSAGE:
                if len(self._error_heads) >= _MAX_ERROR_HEADS:
                    self._error_heads.clear()
                self._error_heads[key] = head
        return head

    def _error_head(self, error: NativeLinkError, metadata: Sequence[Field]) -> HeaderBlock:
        fields = [_STATUS_200, _CONTENT_TYPE, *status_fields(error), *encode_metadata(metadata)]
        if error.code is Code.UNIMPLEMENTED:
            fields.append((b"grpc-accept-encoding", self._accepted))
        return self._fitting(fields, error)

    def trailers(
        self, error: NativeLinkError | None, metadata: Sequence[Field] = ()
    ) -> HeaderBlock:
        """What follows the last message; `error` None is OK."""
        if error is None:
            if not metadata:
                return self.ok_trailers
            return self._fitting([_OK_FIELD, *encode_metadata(metadata)], None)
        return self._fitting([*status_fields(error), *encode_metadata(metadata)], error)

    @staticmethod
    def _fitting(fields: list[Field], error: NativeLinkError | None) -> HeaderBlock:
        try:
            return header_block(fields, end_stream=True)
        except ValueError:
            # Only a handler's own trailing metadata can be that long.
            failure = error or resource_exhausted("trailing metadata of more than 16 KiB")
            start = fields[:2] if fields[0] == _STATUS_200 else []
            return header_block([*start, *status_fields(failure)], end_stream=True)

    @staticmethod
    def _http_refusal(status: int, *fields: Field) -> Refusal:
        block = header_block(
            [(b":status", b"%d" % status), (b"content-length", b"0"), *fields], end_stream=True
        )
        return Refusal(block, "", Code.UNKNOWN)
