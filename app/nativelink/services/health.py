"""The health service of gRPC (grpc.health.v1), for load balancers and grpc_health_probe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from nativelink.core.errors import not_found, unavailable
from nativelink.core.latch import Latch
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
    """Whether the server serves, and each of its services: all of them do until it drains.

    Args:
        services: their full names; the server as a whole has the empty one.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._names = ("", *services)
        self._draining = Latch()

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "Check", self._check),
            method(_SERVICE, "List", self._list),
            method(_SERVICE, "Watch", self._watch),
        ]

    def drain(self) -> None:
        """Say for good that nothing serves any more, and end every Watch after it was told."""
        self._draining.set()

    @property
    def _status(self) -> _Status:
        return _NOT_SERVING if self._draining.is_set else _SERVING

    async def _check(self, request: pb.HealthCheckRequest, _context: CallContext) -> Reply:
        if request.service not in self._names:
            raise not_found(
                f"no service {request.service[:200]!r} is known here; services: "
                f"{', '.join(filter(None, self._names))}"
            )
        return pb.HealthCheckResponse(status=self._status)

    async def _list(self, _request: pb.HealthListRequest, _context: CallContext) -> Reply:
        answer = pb.HealthCheckResponse(status=self._status)
        return pb.HealthListResponse(statuses=dict.fromkeys(self._names, answer))

    async def _watch(
        self, request: pb.HealthCheckRequest, _context: CallContext, sink: MessageSink
    ) -> None:
        known = request.service in self._names
        status = self._status if known else _SERVICE_UNKNOWN
        await sink.write(pb.HealthCheckResponse(status=status).SerializeToString())
        await self._draining.wait()
        if status == _SERVING:
            await sink.write(pb.HealthCheckResponse(status=_NOT_SERVING).SerializeToString())
        # A stream without an end would hold up the drain until its grace is over.
        raise unavailable("the server is draining")
