"""Server specs to listeners: what each offers, from which stores, under which names."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from nativelink.compose.environment import Environment
from nativelink.compose.http_cache import cache_routes
from nativelink.compose.listeners import server_settings, tls_settings
from nativelink.compose.pages import Snapshot, page_routes
from nativelink.compose.schedulers import SchedulerBuilder
from nativelink.compose.services import cache_instances, offered, service_methods
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs import Config
from nativelink.config.specs_servers import ServerSpec
from nativelink.core.errors import Code, NativeLinkError, context
from nativelink.core.rpc import Method
from nativelink.services.health import HealthService
from nativelink.services.identity import requiring_identity
from nativelink.services.reflection import ReflectionService
from nativelink.telemetry.metrics import (
    CONNECTIONS,
    CONNECTIONS_ACCEPTED,
    CONNECTIONS_FAILED,
    RPC_ACTIVE,
    TLS_EXPIRY_TIME,
)
from nativelink.telemetry.prometheus import metrics_route
from nativelink.telemetry.rpc import LoggingRpcRecorder, RpcRecorder
from nativelink.transport.server import Server, Statistics, check_address
from nativelink.transport.settings import ServerSettings, TlsSettings

__all__ = ["Listener", "check_addresses", "open_listeners"]

_access_log: Final = logging.getLogger("nativelink.access")


@dataclass(frozen=True, slots=True)
class Listener:
    """An open port.

    Attributes:
        name: the server's name, or its position.
        server: what serves it.
        health: tells gRPC clients that ask; None if nothing speaks gRPC there.
        address: `host:port` that is bound.
        tls: its certificates; None for plain text.
        services: what gRPC offers there, as the configuration calls it.
        instances: names under which the whole cache is there (CAS, ByteStream, capabilities, AC).
        pages: paths of plain HTTP.
        caches: paths below which the HTTP cache is, one for each of its instances.
        methods: what gRPC calls there, for callers in this process.
    """

    name: str
    server: Server
    health: HealthService | None
    address: str
    tls: TlsSettings | None
    services: tuple[str, ...]
    instances: tuple[str, ...]
    pages: tuple[str, ...]
    caches: tuple[str, ...] = ()
    methods: tuple[Method, ...] = ()

    async def drain(self, grace_s: float) -> bool:
        """Take no new calls and let those under way finish.

        Args:
            grace_s: seconds until what is still under way is cancelled.

        Returns:
            Whether everything finished by itself.
        """
        if self.health is not None:
            self.health.drain()
        return await self.server.drain(grace_s)

    @property
    def url(self) -> str:
        """Where it is, as clients write it."""
        if not self.services:
            return f"http://{self.address}"
        return f"{'grpc' if self.tls is None else 'grpcs'}://{self.address}"


def check_addresses(config: Config) -> None:
    """Look whether all ports can be had, before anything is opened.

    Stores empty their temporary directories when they open. Whoever starts a configuration a second
    time by mistake must not do so to the server that runs.

    Raises:
        NativeLinkError: as `open_listeners`, for ports.
    """
    for index, spec in enumerate(config.servers):
        with context(f"servers/{spec.name or index}"):
            settings = server_settings(spec.listener.http)
            with _binding(settings):
                check_address(settings)


async def open_listeners(
    config: Config, stores: StoreBuilder, schedulers: SchedulerBuilder, env: Environment
) -> Sequence[Listener]:
    """Open every port of a configuration; each is closed by `env.lifetimes`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for what cannot be served so, UNAVAILABLE for a port
            that cannot be had.
    """
    listeners: list[Listener] = []

    def snapshot() -> dict[str, object]:
        return {each.name: asdict(each.server.statistics()) for each in listeners}

    for index, spec in enumerate(config.servers):
        name = spec.name or str(index)
        with context(f"servers/{name}"):
            listeners.append(await _open(name, spec, stores, schedulers, env, snapshot))
    prometheus = config.global_.metrics.prometheus
    if prometheus is not None:
        with context("global/metrics/prometheus"):
            settings = ServerSettings(address=prometheus.listen_address)
            route = metrics_route(env.registry)
            server = Server((), (route,), settings=settings, clock=env.clock)
            address = await _start(server, env)
            listeners.append(
                Listener("metrics", server, None, address, None, (), (), (route.path,))
            )
    return listeners


async def _open(
    name: str,
    spec: ServerSpec,
    stores: StoreBuilder,
    schedulers: SchedulerBuilder,
    env: Environment,
    snapshot: Snapshot,
) -> Listener:
    http = spec.listener.http
    settings = server_settings(http)
    tls = None if http.tls is None else tls_settings(http.tls)
    methods = await service_methods(
        spec.services, settings.max_message_bytes, stores, schedulers, env
    )
    health = HealthService(_names(methods))
    methods += health.methods()
    methods += ReflectionService(_names(methods)).methods()
    if spec.experimental_identity_header.required:
        methods = [
            method if method.path.startswith("/grpc.") else requiring_identity(method)
            for method in methods
        ]
    if env.tracer is not None:
        methods = [env.tracer.traced(method) for method in methods]
    services = offered(spec.services)
    instances = cache_instances(spec.services)
    cache = await cache_routes(
        spec.services,
        stores,
        env,
        requires_identity=spec.experimental_identity_header.required,
    )
    cache_paths = [route.path for route in cache]
    routes = page_routes(
        spec.services,
        services,
        stores.leaves,
        schedulers.made,
        snapshot,
        env,
        cache=cache_paths,
    )
    server = Server(
        methods,
        [*routes, *cache],
        settings=settings,
        tls=tls,
        observer=_observer(methods, env),
        clock=env.clock,
    )
    address = await _start(server, env)
    _observe(name, server, env)
    pages = tuple(route.path for route in routes if route.path != "/")
    caches = tuple(path.removesuffix("/cas") for path in cache_paths if path.endswith("/cas"))
    return Listener(
        name, server, health, address, tls, services, instances, pages, caches, tuple(methods)
    )


def _observe(name: str, server: Server, env: Environment) -> None:
    """Show what the listener does now."""
    labels = (name,)
    figures = server.statistics
    registry = env.registry
    registry.observe(CONNECTIONS, lambda: [(labels, figures().connections)])
    registry.observe(CONNECTIONS_ACCEPTED, lambda: [(labels, figures().connections_total)])
    registry.observe(CONNECTIONS_FAILED, lambda: _failed(name, figures()))
    registry.observe(RPC_ACTIVE, lambda: [(labels, figures().calls)])
    registry.observe(
        TLS_EXPIRY_TIME,
        lambda: [((name, file), time) for file, time in figures().tls_expires.items()],
    )


def _failed(name: str, figures: Statistics) -> list[tuple[tuple[str, str], int]]:
    reasons = figures.handshakes_failed | figures.connections_ended
    if figures.connections_refused:
        reasons["too many connections"] = figures.connections_refused
    return [((name, reason), count) for reason, count in reasons.items()]


def _observer(methods: Sequence[Method], env: Environment) -> RpcRecorder | None:
    """What is told of every call that ended."""
    if not env.measured:
        return None
    logged = _access_log.isEnabledFor(logging.DEBUG)
    recorder = LoggingRpcRecorder if logged else RpcRecorder
    return recorder(env.registry, [method.path for method in methods])


def _names(methods: Sequence[Method]) -> list[str]:
    """The full names of the methods' services."""
    return sorted({method.path.split("/")[1] for method in methods})


async def _start(server: Server, env: Environment) -> str:
    """Bind and serve; the address as `host:port`."""
    with _binding(server.settings):
        await server.start()
    env.lifetimes.push_async_callback(server.close)
    host, port = server.address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _binding(settings: ServerSettings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NativeLinkError(
            Code.UNAVAILABLE, f"cannot listen on {settings.address}: {_why(error)}"
        ) from error


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already; stop it, or choose another address"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EACCES:
        return "ports below 1024 are for root, or need the capability CAP_NET_BIND_SERVICE"
    return os.strerror(error.errno) if error.errno else str(error)
