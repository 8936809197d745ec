"""A ByteStream service, and what its clients do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction, StoreKey, digest_function
from nativelink.core.errors import Code, NativeLinkError, resource_exhausted
from nativelink.core.streams import Source
from nativelink.proto.google.bytestream import bytestream_pb2 as pb
from nativelink.services.bytestream import ByteStreamInstance, ByteStreamService
from nativelink.services.upload import BUFFER_BYTES
from nativelink.services.uploads import Uploads
from nativelink.stores.store import DelegatingStore, Store
from nativelink.testing.calls import Caller, FakeMessageSink, FakeMessageSource
from nativelink.testing.fakes import DictStore

SHA256 = DigestFunction.SHA256
KIB = 1024
SMALL = bytes(range(250)) * 4
LARGE = bytes(range(256)) * (3 * BUFFER_BYTES // 256)
PIECE = 64 * KIB


def name_of(data: bytes, uuid: str = "", prefix: str = "", function: str = "") -> str:
    digest = SHA256.digest_of(data)
    upload = f"uploads/{uuid}/" if uuid else ""
    return f"{prefix}{upload}blobs/{function}{digest.hash}/{digest.size_bytes}"


def write(name: str, offset: int = 0, data: bytes = b"", finish: bool = False) -> pb.WriteRequest:
    return pb.WriteRequest(resource_name=name, write_offset=offset, data=data, finish_write=finish)


def requests(name: str, data: bytes, start: int = 0, piece: int = PIECE) -> list[pb.WriteRequest]:
    """What a client sends that uploads `data` from `start` on."""
    sent = [
        write(name if offset == start else "", offset, data[offset : offset + piece])
        for offset in range(start, len(data), piece)
    ] or [write(name, start)]
    sent[-1].finish_write = True
    return sent


class SlowStore(DelegatingStore):
    """Takes a piece of an upload whenever the test lets it, and remembers what it did."""

    def __init__(self, backend: Store) -> None:
        super().__init__(backend)
        self.gate = asyncio.Event()
        self.puts = 0
        self.cancelled = 0
        self.taken = 0
        self.functions: list[DigestFunction | None] = []

    async def put(self, key: StoreKey, source: Source) -> int:
        self.puts += 1
        self.functions.append(digest_function.get())
        outer = self

        class Gated:
            size = source.size

            async def read(self) -> Any:
                await outer.gate.wait()
                chunk = await source.read()
                outer.taken += len(chunk)
                return chunk

        try:
            return await super().put(key, Gated())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class FullStore(DelegatingStore):
    """Fails after the first piece."""

    async def put(self, key: StoreKey, source: Source) -> int:
        await source.read()
        raise resource_exhausted("the disk is full")


class Server:
    """A service over one store, and what its clients do."""

    def __init__(self, service: ByteStreamService, store: DictStore) -> None:
        self.service = service
        self.store = store
        self._caller = Caller(service.methods())

    async def write(
        self, *messages: pb.WriteRequest, source: FakeMessageSource | None = None
    ) -> int:
        """A whole call; the committed size."""
        source = FakeMessageSource(*messages) if source is None else source
        reply = await self._caller.client_stream("Write", source, pb.WriteResponse)
        return reply.committed_size

    async def start(self, source: FakeMessageSource) -> asyncio.Task[int]:
        """A call that goes on; returns when it waits for its client or for room."""
        task = asyncio.create_task(self.write(source=source))
        await settle()
        return task

    async def lose(self, *messages: pb.WriteRequest) -> None:
        """A call whose client goes away after its last message."""
        task = await self.start(FakeMessageSource(*messages, ended=False))
        await cancelled(task)

    async def status(self, name: str) -> tuple[int, bool]:
        reply = await self._caller.unary(
            "QueryWriteStatus",
            pb.QueryWriteStatusRequest(resource_name=name),
            pb.QueryWriteStatusResponse,
        )
        return reply.committed_size, reply.complete

    async def read(
        self, name: str, offset: int = 0, limit: int = 0, sink: FakeMessageSink | None = None
    ) -> list[bytes]:
        replies = await self._caller.server_stream(
            "Read",
            pb.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit),
            pb.ReadResponse,
            sink,
        )
        return [reply.data for reply in replies]


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[int]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@asynccontextmanager
async def serving(
    store: DictStore,
    *,
    wrapped: Store | None = None,
    uploads: Uploads | None = None,
    **settings: Any,
) -> AsyncIterator[Server]:
    instances = {
        "": ByteStreamInstance(wrapped or store, **settings),
        "a/b": ByteStreamInstance(DictStore()),
    }
    async with ByteStreamService(instances, uploads=uploads) as service:
        yield Server(service, store)


def error_of(raised: pytest.ExceptionInfo[NativeLinkError]) -> tuple[Code, str]:
    return raised.value.code, raised.value.message


async def statistics_of(server: Server) -> Any:
    """What an idle service says."""
    await settle()
    async with serving(DictStore()) as idle:
        return idle.service.statistics()
