"""A scheduler in which nothing happens but what a test does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from nativelink.core.errors import NativeLinkError, failed_precondition, not_found
from nativelink.scheduler.action import ActionInfo
from nativelink.scheduler.operation import ExecutionStage, Failure, OperationView
from nativelink.scheduler.scheduler import Order, WorkerHello, WorkerView


class FakeWatch:
    def __init__(self, scheduler: FakeScheduler, name: str) -> None:
        self._scheduler = scheduler
        self._name = name
        self._given: OperationView | None = None
        self.closed = False

    async def next(self) -> OperationView | None:
        if self._given is not None and self._given.done:
            return None
        while (view := self._scheduler.views[self._name]) is self._given:
            await self._scheduler.change()
        if self._scheduler.stopped is not None:
            raise self._scheduler.stopped
        self._given = view
        return view

    def look(self) -> OperationView | None:
        return self._scheduler.views.get(self._name)

    def close(self) -> None:
        self.closed = True


class FakeScheduler:
    """Keeps the contract of `Scheduler`; a test moves its operations by `update`."""

    def __init__(self) -> None:
        self.views: dict[str, OperationView] = {}
        self.watches: list[FakeWatch] = []
        self.refusal: NativeLinkError | None = None
        self.stopped: NativeLinkError | None = None
        self.cancelled: list[str] = []
        self.at_once: dict[str, Any] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def update(self, name: str = "", **fields: Any) -> None:
        """Change an operation, the last one by default, and tell who watches it."""
        name = name or next(reversed(self.views))
        self.views[name] = replace(self.views[name], **fields)
        self._notify()

    def finish(self, response: bytes, name: str = "") -> None:
        self.update(name, stage=ExecutionStage.COMPLETED, response=response, finished_at=9.5)

    def fail(self, failure: Failure, name: str = "", **fields: Any) -> None:
        self.update(name, stage=ExecutionStage.COMPLETED, failure=failure, **fields)

    def stop(self, error: NativeLinkError) -> None:
        self.stopped = error
        for name in self.views:
            self.views[name] = replace(self.views[name])
        self._notify()

    def _notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def execute(self, action: ActionInfo, *, name: str = "") -> FakeWatch:
        if self.refusal is not None:
            raise self.refusal
        number = len(self.views) + 1
        name = name or f"{action.key.instance_name}/{number}"
        self.views[name] = OperationView(
            name=name,
            operation_id=f"op-{number}",
            action=action,
            stage=ExecutionStage.QUEUED,
            priority=action.priority,
            queued_at=float(number),
        )
        if self.at_once is not None:
            self.update(name, **self.at_once)
        return await self.watch(name)

    async def watch(self, name: str) -> FakeWatch:
        await self.get(name)
        watch = FakeWatch(self, name)
        self.watches.append(watch)
        return watch

    async def get(self, name: str) -> OperationView:
        if name not in self.views:
            raise not_found(f"no operation {name!r} is known")
        return self.views[name]

    async def operations(self, *, since: float = 0.0) -> Iterable[OperationView]:
        views = (view for view in self.views.values() if view.queued_at >= since)
        return sorted(views, key=lambda view: view.queued_at)

    async def cancel(self, name: str) -> None:
        await self.get(name)
        self.cancelled.append(name)

    async def delete(self, name: str) -> None:
        if not (await self.get(name)).done:
            raise failed_precondition(f"operation {name!r} is not finished")
        del self.views[name]

    def known_properties(self) -> Sequence[str]:
        return ["cpu_count"]


class FakeLink:
    """Records what a worker says, and gives it the orders of a test."""

    def __init__(self, worker_id: str, hello: WorkerHello) -> None:
        self.worker_id = worker_id
        self.hello = hello
        self.said: list[tuple[Any, ...]] = []
        self._orders: deque[Sequence[Order]] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def order(self, *orders: Order) -> None:
        self._orders.append(orders)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next_orders(self) -> Sequence[Order]:
        while not self._orders:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._orders.popleft()

    def keep_alive(self) -> None:
        self.said.append(("keep_alive",))

    def drain(self, *, draining: bool) -> None:
        self.said.append(("drain", draining))

    def process_ended(self, operation_id: str) -> None:
        self.said.append(("process_ended", operation_id))

    def result(
        self,
        operation_id: str,
        response: bytes,
        *,
        exit_code: int,
        peak_memory_kb: int = 0,
        cpu_time_ms: int = 0,
    ) -> None:
        self.said.append(("result", operation_id, response, exit_code, peak_memory_kb, cpu_time_ms))

    def failed(self, operation_id: str, failure: Failure) -> None:
        self.said.append(("failed", operation_id, failure))

    def going_away(self) -> None:
        self.said.append(("going_away",))

    def lost(self) -> None:
        self.said.append(("lost",))


class FakeGateway:
    """Lets every worker in, unless the test refuses."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.refusal: NativeLinkError | None = None
        self.draining: dict[str, bool] = {}

    def connect(self, hello: WorkerHello) -> FakeLink:
        if self.refusal is not None:
            raise self.refusal
        link = FakeLink(hello.resumes or f"{hello.prefix}{len(self.links) + 1}", hello)
        self.links.append(link)
        return link

    def workers(self) -> Sequence[WorkerView]:
        return [
            WorkerView(
                worker_id=link.worker_id,
                address=link.hello.address,
                properties=link.hello.properties,
                max_inflight_tasks=link.hello.max_inflight_tasks,
                running=link.hello.running,
                draining=self.draining.get(link.worker_id, False),
                paused=False,
                connected=True,
                connected_at=1.0,
                last_seen_at=2.0,
            )
            for link in self.links
        ]

    def drain(self, worker_id: str, *, draining: bool) -> None:
        if worker_id not in {link.worker_id for link in self.links}:
            raise not_found(f"no worker {worker_id!r} is known")
        self.draining[worker_id] = draining
