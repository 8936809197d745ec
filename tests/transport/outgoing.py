"""Channels to servers on loopback."""

from __future__ import annotations

import asyncio

from nativelink.core.rpc import CallContext, Method
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint


def channel_to(*ports: int, connections: int = 1, limit: int = 0) -> GrpcChannel:
    return GrpcChannel(
        [Endpoint(f"127.0.0.1:{port}") for port in ports],
        connections_per_endpoint=connections,
        max_concurrent_requests=limit,
    )


class Waiting:
    """A handler that says how many calls are in it."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.arrived = asyncio.Condition()

    async def hold(self, request: bytes, context: CallContext) -> bytes:
        self.inside += 1
        self.most = max(self.most, self.inside)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1
            async with self.arrived:
                self.arrived.notify_all()
        return request

    async def until(self, inside: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.inside == inside)

    def methods(self) -> list[Method]:
        return [Method("/test.Hold/Unary", self.hold)]
