"""The health service of gRPC (grpc.health.v1), for load balancers and grpc_health_probe."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from nativelink.core.errors import not_found, unavailable
from nativelink.core.rpc import CallContext, MessageSink, Method, Reply
from nativelink.proto.grpc.health.v1 import health_pb2 as pb
from nativelink.services.methods import method, service

__all__ = ["HealthService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Health")
_Status = pb.HealthCheckResponse.ServingStatus
_SERVING: Final = pb.HealthCheckResponse.SERVING
_NOT_SERVING: Final = pb.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final = pb.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    """The serving status of each service, and of the server as a whole under the empty name.

    Args:
        services: full names of the services; all of them serve at first.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses: dict[str, _Status] = dict.fromkeys(("", *services), _SERVING)
        self._draining = False
        #: Done at the next change; whoever watches waits for it.
        self._changed: asyncio.Future[None] | None = None

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "Check", self._check),
            method(_SERVICE, "List", self._list),
            method(_SERVICE, "Watch", self._watch),
        ]

    def set_serving(self, name: str, serving: bool) -> None:
        """Say whether a service serves; ignored once the server drains."""
        if not self._draining:
            self._statuses[name] = _SERVING if serving else _NOT_SERVING
            self._notify()

    def drain(self) -> None:
        """Say for good that nothing serves any more, and end every Watch after it was told."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._notify()

    async def _check(self, request: pb.HealthCheckRequest, _context: CallContext) -> Reply:
        status = self._statuses.get(request.service)
        if status is None:
            raise not_found(
                f"no service {request.service[:200]!r} is known here; services: "
                f"{', '.join(filter(None, self._statuses))}"
            )
        return pb.HealthCheckResponse(status=status)

    async def _list(self, _request: pb.HealthListRequest, _context: CallContext) -> Reply:
        return pb.HealthListResponse(
            statuses={
                name: pb.HealthCheckResponse(status=status)
                for name, status in self._statuses.items()
            }
        )

    async def _watch(
        self, request: pb.HealthCheckRequest, _context: CallContext, sink: MessageSink
    ) -> None:
        sent: _Status | None = None
        while True:
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status != sent:
                sent = status
                await sink.write(pb.HealthCheckResponse(status=status).SerializeToString())
                continue
            if self._draining:
                # A stream without an end would hold up the drain until its grace is over.
                raise unavailable("the server is draining")
            if self._changed is None:
                self._changed = asyncio.get_running_loop().create_future()
            # Shielded: others wait for the same change.
            await asyncio.shield(self._changed)

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None
