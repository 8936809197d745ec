"""The scheduler learns from a queue which machines are about to go.

The second of two ways: a worker also finds out by itself (`notices.py`), and either may be lost.
What comes by this one reaches the scheduler even if the worker hangs: it gets nothing new, and its
loss is not held against the actions that it had. Everything may come twice, late or in any order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from nativelink.aws.auto_scaling import AutoScaling
from nativelink.aws.clients import Clients, aws_errors
from nativelink.aws.events import Event, Gone, Interruption, Rebalance, Terminating, parse_event
from nativelink.aws.outage import Outage
from nativelink.core.clock import Clock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.scheduler import WorkerGateway, WorkerView

__all__ = ["DrainQueue", "Message", "Queue", "SqsQueue"]

_log: Final = logging.getLogger(__name__)

#: A spot notice is about two minutes, a recommendation about the next hour; what is older than
#: this waited in the queue while no scheduler was there.
_STALE_S: Final = 900.0
#: A lifecycle action ends after two days at the latest (LifecycleHook, GlobalTimeout).
_FORGET_S: Final = 48 * 3600.0
#: An idle worker gets so long to complete its lifecycle action by itself.
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 5.0
_RETRY_S: Final = 5.0
#: Instances whose interruption was counted.
_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        body: its text.
        receipt: by which it is deleted.
    """

    body: str
    receipt: str


class Queue(Protocol):
    """Where messages come from."""

    async def receive(self) -> Sequence[Message]:
        """Wait some seconds for messages; none may have come."""
        ...

    async def delete(self, message: Message) -> None:
        """Have a message not come again."""
        ...


class SqsQueue:
    """A queue of SQS.

    Both methods raise NativeLinkError.

    Args:
        client: of the service `sqs`.
        url: of the queue.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    @classmethod
    async def of(cls, clients: Clients, url: str) -> SqsQueue:
        """The queue of a URL."""
        return cls(await clients.client("sqs"), url)

    async def receive(self) -> Sequence[Message]:
        with aws_errors("ReceiveMessage"):
            answer = await self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=20
            )
        return [Message(each["Body"], each["ReceiptHandle"]) for each in answer.get("Messages", ())]

    async def delete(self, message: Message) -> None:
        with aws_errors("DeleteMessage"):
            await self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message.receipt)


class DrainQueue:
    """Drains workers of machines that go. Use it as `await queue.run()`, in a task.

    A worker is of a machine if its id begins with the machine's and a hyphen. A message of a form
    that nobody knows stays in the queue, which moves it to its dead letters.

    Args:
        queue: where messages come from.
        gateway: the scheduler.
        auto_scaling: completes lifecycle actions of machines whose worker is gone, or hangs.
        clock: the time.
        interrupted: told of each worker whose machine is taken back, once.
        sleep: waits for seconds; tests pass their own.
    """

    def __init__(
        self,
        queue: Queue,
        gateway: WorkerGateway,
        auto_scaling: AutoScaling,
        *,
        clock: Clock,
        interrupted: Callable[[WorkerView], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._gateway = gateway
        self._auto_scaling = auto_scaling
        self._clock = clock
        self._interrupted = interrupted
        self._sleep = sleep
        self._counted: OrderedDict[str, None] = OrderedDict()
        #: Lifecycle actions that are not completed, by instance, and since when nothing runs there.
        self._waiting: dict[str, tuple[Terminating, float | None]] = {}
        self._outage = Outage(_log, "the drain queue cannot be read")
        self._completion = Outage(_log, "lifecycle actions cannot be completed")

    async def run(self) -> None:
        """Read the queue, and complete lifecycle actions."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._complete())

    # -- messages ------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                for message in await self._queue.receive():
                    if self._take(message.body):
                        await self._queue.delete(message)
                self._outage.worked()
            except NativeLinkError as error:
                self._outage.failed(error)
                await self._sleep(_RETRY_S)

    def _take(self, body: str) -> bool:
        """Do what a message says.

        Returns:
            Whether it was understood.
        """
        try:
            event = parse_event(body)
        except ValueError as error:
            _log.warning("a message in the drain queue is no event, %s: %.200r", error, body)
            return False
        if event is not None:
            self._heed(event)
        return True

    def _heed(self, event: Event) -> None:
        age_s = self._clock.time() - event.at
        match event:
            case Interruption() | Rebalance() if age_s > _STALE_S:
                _log.info("%s of %.0f s ago is passed over", event, age_s)
                return
            case Terminating() if age_s > _FORGET_S:
                return
            case Terminating():
                self._waiting.setdefault(event.instance, (event, None))
            case Gone():
                self._waiting.pop(event.instance, None)
            case _:
                pass
        for worker in self._workers_of(event.instance):
            if isinstance(event, Interruption) and self._is_new(event.instance):
                self._interrupted(worker)
            if not worker.draining:
                _log.warning("worker %s gets nothing new: %s", worker.worker_id, event)
                self._gateway.drain(worker.worker_id, draining=True)

    def _is_new(self, instance: str) -> bool:
        if instance in self._counted:
            return False
        self._counted[instance] = None
        if len(self._counted) > _REMEMBERED:
            self._counted.popitem(last=False)
        return True

    def _workers_of(self, instance: str) -> Sequence[WorkerView]:
        prefix = f"{instance}-"
        return [worker for worker in self._gateway.workers() if worker.worker_id.startswith(prefix)]

    # -- lifecycle actions ---------------------------------------------------------------------

    async def _complete(self) -> None:
        while True:
            await self._sleep(_LOOK_S)
            for instance, (event, idle_since) in list(self._waiting.items()):
                workers = self._workers_of(instance)
                now = self._clock.monotonic()
                if any(worker.running for worker in workers):
                    # Its worker lets it finish, and tells the group so.
                    self._waiting[instance] = (event, None)
                elif workers and idle_since is None:
                    self._waiting[instance] = (event, now)
                elif not workers or now - (idle_since or now) >= _PATIENCE_S:
                    await self._complete_one(event)
                if self._clock.time() - event.at > _FORGET_S:
                    self._waiting.pop(instance, None)

    async def _complete_one(self, event: Terminating) -> None:
        try:
            await self._auto_scaling.complete(
                event.group, event.hook, event.instance, token=event.token
            )
        except NativeLinkError as error:
            if error.code is not Code.FAILED_PRECONDITION:
                self._completion.failed(error)
                return
            # The token is stale: its worker was faster, or the time is over.
        self._completion.worked()
        self._waiting.pop(event.instance, None)
