"""An outgoing call that streams both ways, with grpcio's part played by a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from nativelink.core.errors import NativeLinkError
from nativelink.transport.duplex import GrpcDuplex


class EndingCall:
    """grpcio's side of a call that the peer ends while messages of it are still to be read."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self._cython_call = self
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def __call__(self, **_: Any) -> EndingCall:
        return self

    def method(self, _shape: str, _path: str) -> EndingCall:
        return self

    def add_done_callback(self, _: Any) -> None: ...

    async def wait_for_connection(self) -> None: ...

    async def send_serialized_message(self, _: bytes) -> None:
        raise grpc.aio.InternalError("the call has ended")

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield await self.first
        for message in self._messages:
            await asyncio.sleep(0)
            yield message


async def test_a_reader_gets_what_came_before_the_end_that_a_writer_noticed() -> None:
    call = EndingCall([b"2", b"3"])

    async def take(timeout_s: float | None) -> tuple[Any, float | None]:
        return call, timeout_s

    duplex = GrpcDuplex(take, lambda _: None, "/t.T/T", (), None)
    found: list[bytes | None] = []

    async def read_all() -> None:
        while not found or found[-1] is not None:
            found.append(await duplex.read())

    async def write() -> None:
        with pytest.raises(NativeLinkError):
            await duplex.write(b"more")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read_all())
        await asyncio.sleep(0)
        tasks.create_task(write())
        await asyncio.sleep(0)
        call.first.set_result(b"1")
    assert found == [b"1", b"2", b"3", None]
