"""A worker, and the scheduler that it knows: a test plays it by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from nativelink.core.channel import Metadata
from nativelink.core.errors import unavailable
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as pb,
)
from nativelink.testing.patience import Patience, beside
from nativelink.worker.agent import Agent
from nativelink.worker.connection import ConnectionSettings


class Call:
    """One connection, seen from the scheduler."""

    def __init__(self) -> None:
        self.to_worker: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.from_worker: asyncio.Queue[pb.UpdateForScheduler] = asyncio.Queue()
        self.half_closed = False
        self.cancelled = False
        #: Cleared while the connection takes nothing.
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.on_write: Callable[[], None] = lambda: None

    async def read(self) -> bytes | None:
        said = await self.to_worker.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def write(self, message: bytes, /) -> None:
        if not self.has_room.is_set():
            await self.has_room.wait()
        self.from_worker.put_nowait(pb.UpdateForScheduler.FromString(message))
        self.on_write()

    async def done_writing(self) -> None:
        self.half_closed = True
        self.to_worker.put_nowait(None)

    def cancel(self) -> None:
        self.cancelled = True

    def say(self, **update: object) -> None:
        self.to_worker.put_nowait(pb.UpdateForWorker(**update).SerializeToString())

    def break_off(self) -> None:
        self.to_worker.put_nowait(unavailable("connection reset"))

    async def heard(self, kind: str) -> pb.UpdateForScheduler:
        """The next message of a kind; signs of life before it are passed over."""
        while True:
            update = await self.from_worker.get()
            which = update.WhichOneof("update")
            if which != "keep_alive_request" or kind == which:
                assert which == kind, update
                return update

    async def accept(self, worker_id: str) -> pb.ConnectWorkerRequest:
        hello = (await self.heard("connect_worker_request")).connect_worker_request
        self.say(connection_result=pb.ConnectionResult(worker_id=worker_id))
        return hello

    def start(self, operation_id: str) -> None:
        self.say(start_action=pb.StartExecute(operation_id=operation_id))


class Scheduler:
    """A channel whose calls a test answers."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    def duplex(self, path: str, *, metadata: Metadata = (), timeout_s: float | None = None) -> Call:
        assert path.endswith(".WorkerApi/ConnectWorker")
        call = Call()
        self.calls.put_nowait(call)
        return call


class Hands:
    """An executor whose actions end when a test says so."""

    def __init__(self) -> None:
        self.doing: dict[str, asyncio.Future[None]] = {}
        self.announce: dict[str, Callable[[], None]] = {}
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.killed: list[str] = []
        #: Whether what is killed ends at once.
        self.mortal = asyncio.Event()
        self.mortal.set()
        #: Whether directories are removed.
        self.tidy = asyncio.Event()
        self.tidy.set()

    async def execute(
        self,
        order: pb.StartExecute,
        *,
        process_ended: Callable[[], None],
        finished: Callable[[pb.ExecuteResult], None],
    ) -> None:
        name = order.operation_id
        self.doing[name] = asyncio.get_running_loop().create_future()
        self.announce[name] = process_ended
        self.started.put_nowait(name)
        try:
            await self.doing[name]
        except asyncio.CancelledError:
            self.killed.append(name)
            await self.mortal.wait()
            raise
        finished(pb.ExecuteResult(operation_id=name))
        await self.tidy.wait()

    def finish(self, name: str) -> None:
        self.doing[name].set_result(None)


class World:
    def __init__(self) -> None:
        self.time = Patience()
        self.clock = self.time.clock
        self.scheduler = Scheduler()
        self.hands = Hands()
        self.agent = Agent(
            self.scheduler,
            self.hands,
            ConnectionSettings("w1", (("os", "linux"), ("os", "any")), max_inflight_tasks=2),
            clock=self.clock,
            random=Random(1),
            sleep=self.time.sleep,
        )

    async def next_call(self) -> Call:
        for _ in range(50):
            if not self.scheduler.calls.empty():
                return self.scheduler.calls.get_nowait()
            await self.time.let_pass(0.1)
        raise AssertionError("the worker does not connect")

    async def joined(self) -> Call:
        """The next connection, on which the worker is `w1-id`."""
        call = await self.next_call()
        await call.accept("w1-id")
        return call

    async def at_work(self, *operations: str) -> Call:
        """The next connection, with these actions under way."""
        call = await self.joined()
        for name in operations:
            call.start(name)
            await self.hands.started.get()
        return call

    async def finish(self, call: Call, *operations: str) -> None:
        """These actions end, and their results come by this call."""
        for name in operations:
            self.hands.finish(name)
            await call.heard("execute_result")


@asynccontextmanager
async def working() -> AsyncIterator[World]:
    world = World()
    async with beside(world.agent.run()):
        yield world
