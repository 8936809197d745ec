"""Events about machines, as they are, twice, late, out of order and malformed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.aws.drain_queue import DrainQueue, Message
from nativelink.aws.events import Gone, Interruption, Rebalance, Terminating, parse_event
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.scheduler.scheduler import WorkerHello, WorkerView
from nativelink.testing.patience import Patience, beside
from tests.services.scheduling import FakeGateway

AT = datetime(2026, 11, 21, 14, 0, tzinfo=UTC)
_VALUES = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.dictionaries(
        st.sampled_from(["detail-type", "detail", "time", "LifecycleTransition", "Event"]), inner
    ),
    max_leaves=6,
)
TERMINATING = {
    "LifecycleActionToken": "token",
    "AutoScalingGroupName": "group",
    "LifecycleHookName": "drain",
    "EC2InstanceId": "i-1",
    "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
}


def event(kind: str, detail: dict[str, Any], at: float | None = None) -> str:
    when = AT if at is None else datetime.fromtimestamp(at, UTC)
    return json.dumps(
        {"detail-type": kind, "time": when.isoformat().replace("+00:00", "Z"), "detail": detail}
    )


def interruption(instance: str, at: float | None = None) -> str:
    detail = {"instance-id": instance, "instance-action": "terminate"}
    return event("EC2 Spot Instance Interruption Warning", detail, at)


def rebalance(instance: str, at: float | None = None) -> str:
    return event("EC2 Instance Rebalance Recommendation", {"instance-id": instance}, at)


def terminating(at: float | None = None, **changes: str) -> str:
    return event("EC2 Instance-terminate Lifecycle Action", TERMINATING | changes, at)


def state(instance: str, now: str, at: float | None = None) -> str:
    detail = {"instance-id": instance, "state": now}
    return event("EC2 Instance State-change Notification", detail, at)


class TestEvents:
    def test_each_kind_is_known(self) -> None:
        at = AT.timestamp()
        assert parse_event(interruption("i-1")) == Interruption("i-1", at)
        assert parse_event(rebalance("i-1")) == Rebalance("i-1", at)
        assert parse_event(terminating()) == Terminating("i-1", at, "group", "drain", "token")
        assert parse_event(state("i-1", "shutting-down")) == Gone("i-1", at)

    def test_a_hook_may_write_to_the_queue_itself(self) -> None:
        body = json.dumps(TERMINATING | {"Time": "2026-11-21T14:00:00.000Z"})
        assert parse_event(body) == Terminating("i-1", AT.timestamp(), "group", "drain", "token")

    @pytest.mark.parametrize(
        "body",
        [
            state("i-1", "running"),
            event("EC2 Instance-launch Lifecycle Action", {}),
            json.dumps({"Event": "autoscaling:TEST_NOTIFICATION"}),
            terminating(LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING"),
        ],
    )
    def test_other_kinds_are_none(self, body: str) -> None:
        assert parse_event(body) is None

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "x",
            "[]",
            "{}",
            '{"detail-type": 5, "detail": {}}',
            '{"detail-type": "EC2 Instance Rebalance Recommendation", "detail": []}',
            event("EC2 Instance Rebalance Recommendation", {}),
            event("EC2 Instance Rebalance Recommendation", {"instance-id": 7}),
            rebalance("i-1").replace("2026-11-21T14:00:00Z", "yesterday"),
            rebalance("i-1").replace("2026-11-21T14:00:00Z", "2026-11-21T14:00:00"),
            terminating(LifecycleActionToken=""),
            "[" * 100_000,
        ],
    )
    def test_what_is_no_event_is_a_value_error(self, body: str) -> None:
        with pytest.raises(ValueError):
            parse_event(body)

    @settings(max_examples=50)
    @given(_VALUES)
    def test_whatever_it_is_it_is_an_event_or_none_or_a_value_error(self, value: Any) -> None:
        try:
            parse_event(json.dumps(value))
        except ValueError:
            pass


class FakeQueue:
    """Holds what a test puts in; what is not deleted is remembered."""

    def __init__(self) -> None:
        self._bodies: deque[str] = deque()
        self._come = asyncio.Event()
        self.kept: dict[str, str] = {}
        self.error: NativeLinkError | None = None
        self._number = 0

    def put(self, *bodies: str) -> None:
        self._bodies.extend(bodies)
        self._come.set()

    async def receive(self) -> Sequence[Message]:
        await self._come.wait()
        self._come.clear()
        if self.error is not None:
            raise self.error
        found: list[Message] = []
        while self._bodies:
            self._number += 1
            found.append(Message(self._bodies.popleft(), str(self._number)))
            self.kept[found[-1].receipt] = found[-1].body
        return found

    async def delete(self, message: Message) -> None:
        del self.kept[message.receipt]


class FakeAutoScaling:
    def __init__(self) -> None:
        self.completed: list[tuple[str, str, str, str]] = []
        self.error: NativeLinkError | None = None

    async def complete(self, group: str, hook: str, instance: str, *, token: str = "") -> None:
        if self.error is not None:
            raise self.error
        self.completed.append((group, hook, instance, token))


class Setup:
    def __init__(self) -> None:
        self.time = Patience()
        self.queue = FakeQueue()
        self.gateway = FakeGateway()
        self.auto_scaling = FakeAutoScaling()
        self.interrupted: list[str] = []
        self.drain_queue = DrainQueue(
            self.queue,
            self.gateway,
            self.auto_scaling,
            clock=self.time.clock,
            interrupted=self._count,
            sleep=self.time.sleep,
        )

    def _count(self, worker: WorkerView) -> None:
        self.interrupted.append(worker.worker_id)

    @property
    def now(self) -> float:
        return self.time.clock.time()

    def join(self, instance: str, *, running: tuple[str, ...] = ()) -> None:
        self.gateway.connect(WorkerHello(f"{instance}-", (), running=running))

    def finish(self) -> None:
        for link in self.gateway.links:
            link.hello = replace(link.hello, running=())

    async def come(self, *bodies: str) -> None:
        self.queue.put(*bodies)
        await self.time.let_pass(0)


@asynccontextmanager
async def reading(setup: Setup) -> AsyncIterator[None]:
    async with beside(setup.drain_queue.run()):
        await setup.time.let_pass(0)
        yield


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_the_workers_of_a_machine_that_goes_get_nothing_new(setup: Setup) -> None:
    setup.join("i-1")
    setup.join("i-12")
    async with reading(setup):
        await setup.come(interruption("i-1", setup.now))
    assert setup.gateway.draining == {"i-1-1": True}
    assert setup.interrupted == ["i-1-1"]
    assert setup.queue.kept == {}


async def test_a_recommendation_drains_but_is_no_interruption(setup: Setup) -> None:
    setup.join("i-1")
    async with reading(setup):
        await setup.come(rebalance("i-1", setup.now))
    assert setup.gateway.draining == {"i-1-1": True}
    assert setup.interrupted == []


async def test_an_event_that_comes_twice_counts_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.join("i-1")
    async with reading(setup):
        await setup.come(interruption("i-1", setup.now), interruption("i-1", setup.now))
        await setup.come(rebalance("i-1", setup.now))
    assert setup.interrupted == ["i-1-1"]
    assert caplog.text.count("gets nothing new") == 1


async def test_an_event_that_is_too_late_is_passed_over(setup: Setup) -> None:
    setup.join("i-1")
    async with reading(setup):
        await setup.come(
            interruption("i-1", setup.now - 1000),
            rebalance("i-1", setup.now - 1000),
            terminating(setup.now - 50 * 3600),
        )
        await setup.time.let_pass(100)
    assert setup.gateway.draining == {}
    assert setup.auto_scaling.completed == []
    assert setup.queue.kept == {}


async def test_an_event_of_a_machine_that_nobody_knows_changes_nothing(setup: Setup) -> None:
    async with reading(setup):
        await setup.come(interruption("i-9", setup.now), state("i-9", "terminated", setup.now))
    assert setup.gateway.draining == {}


async def test_what_is_no_event_stays_for_the_dead_letters_and_stops_nothing(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.join("i-1")
    async with reading(setup):
        await setup.come("not JSON", interruption("i-1", setup.now), state("i-1", "running"))
    assert list(setup.queue.kept.values()) == ["not JSON"]
    assert setup.gateway.draining == {"i-1-1": True}
    assert "is no event" in caplog.text


async def test_a_queue_that_fails_is_read_again_and_it_is_said_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    setup.join("i-1")
    async with reading(setup):
        setup.queue.error = unavailable("no queue")
        for _ in range(3):
            await setup.come()
            await setup.time.let_pass(5)
        setup.queue.error = None
        await setup.come(interruption("i-1", setup.now))
    assert caplog.text.count("cannot be read: no queue") == 1
    assert setup.gateway.draining == {"i-1-1": True}


async def test_the_lifecycle_action_of_a_machine_without_a_worker_is_completed(
    setup: Setup,
) -> None:
    async with reading(setup):
        await setup.come(terminating(setup.now))
        await setup.time.let_pass(5)
        await setup.come(terminating(setup.now))
        await setup.time.let_pass(5)
    assert setup.auto_scaling.completed == [("group", "drain", "i-1", "token")] * 2


async def test_a_busy_worker_is_waited_for_and_an_idle_one_gets_a_minute(setup: Setup) -> None:
    setup.join("i-1", running=("op",))
    async with reading(setup):
        await setup.come(terminating(setup.now))
        await setup.time.let_pass(600)
        assert setup.gateway.draining == {"i-1-1": True}
        assert setup.auto_scaling.completed == []
        setup.finish()
        await setup.time.let_pass(55)
        assert setup.auto_scaling.completed == []
        await setup.time.let_pass(15)
        assert setup.auto_scaling.completed == [("group", "drain", "i-1", "token")]
        await setup.time.let_pass(600)
    assert len(setup.auto_scaling.completed) == 1


async def test_a_stale_token_is_let_go(setup: Setup) -> None:
    async with reading(setup):
        setup.auto_scaling.error = NativeLinkError(Code.FAILED_PRECONDITION, "no such action")
        await setup.come(terminating(setup.now))
        await setup.time.let_pass(5)
        setup.auto_scaling.error = None
        await setup.time.let_pass(600)
    assert setup.auto_scaling.completed == []


async def test_a_completion_that_fails_is_tried_again(setup: Setup) -> None:
    async with reading(setup):
        setup.auto_scaling.error = unavailable("throttled")
        await setup.come(terminating(setup.now))
        await setup.time.let_pass(60)
        setup.auto_scaling.error = None
        await setup.time.let_pass(5)
    assert len(setup.auto_scaling.completed) == 1


async def test_a_machine_that_is_gone_is_not_waited_for(setup: Setup) -> None:
    setup.join("i-1", running=("op",))
    async with reading(setup):
        await setup.come(terminating(setup.now), state("i-1", "terminated", setup.now))
        setup.finish()
        await setup.time.let_pass(600)
    assert setup.auto_scaling.completed == []
