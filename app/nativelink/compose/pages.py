"""Plain HTTP beside gRPC: health, administration, metrics, and a word of welcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TypeAlias

from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Leaf
from nativelink.compose.schedulers import SchedulerNode
from nativelink.config.specs_services import ServicesSpec
from nativelink.core.rpc import HttpRoute
from nativelink.services.admin import admin_route, landing_route
from nativelink.services.status import status_route
from nativelink.telemetry.prometheus import metrics_route

__all__ = ["Snapshot", "page_routes"]

#: What the listeners do, by name, for the admin page; asked at every request.
Snapshot: TypeAlias = Callable[[], dict[str, object]]


def page_routes(
    spec: ServicesSpec,
    services: Sequence[str],
    leaves: Sequence[Leaf],
    schedulers: Mapping[str, SchedulerNode],
    listeners: Snapshot,
    env: Environment,
    *,
    cache: Sequence[str],
) -> list[HttpRoute]:
    """The pages of one listener, with a word on what else is there: gRPC, and the HTTP cache.

    `/metrics` is there wherever one of the other pages is: a listener without them may be open to
    everybody, and tells nothing about itself.
    """
    routes: list[HttpRoute] = []
    if spec.health is not None:
        routes.append(
            status_route(
                env.health,
                path=spec.health.path or "/status",
                timeout_s=spec.health.timeout_seconds,
            )
        )
    if spec.admin is not None:
        started = env.clock.monotonic()

        def report() -> dict[str, object]:
            return {
                "version": env.version,
                "uptime_s": round(env.clock.monotonic() - started, 3),
                "servers": listeners(),
                "stores": {leaf.path: _store_report(leaf) for leaf in leaves},
            }

        path = spec.admin.path or "/admin"
        routes.append(admin_route(report, path=path))
        if schedulers:
            routes += _farm_routes(schedulers, path)
    if routes:
        routes.append(metrics_route(env.registry))
    pages = "".join(f"  {route.path}\n" for route in routes)
    offers = ", ".join(services) or "nothing"
    routes.append(
        landing_route(
            f"nativelink {env.version}\n\n"
            f"This port speaks gRPC (Remote Execution API v2: {offers}).\n"
            + ("HTTP cache:\n" + "".join(f"  {path}/\n" for path in cache) if cache else "")
            + (f"Pages:\n{pages}" if pages else "")
        )
    )
    return routes


def _farm_routes(schedulers: Mapping[str, SchedulerNode], path: str) -> Sequence[HttpRoute]:
    from nativelink.services.farm import farm_routes

    return farm_routes(
        {name: node.scheduler for name, node in schedulers.items()},
        {name: node.local for name, node in schedulers.items() if node.local is not None},
        path=path,
    )


def _store_report(leaf: Leaf) -> dict[str, object]:
    limits = {name: value for name, value in asdict(leaf.policy).items() if value}
    return {
        "kind": leaf.kind,
        "place": leaf.place,
        "limits": limits,
        **asdict(leaf.statistics()),
    }
