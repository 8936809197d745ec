"""A machine's way into service, its protection, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nativelink.aws.departure import Departure, DepartureSettings, arrive
from nativelink.aws.notices import ImdsNotices
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.testing.patience import Patience, beside
from nativelink.worker.agent import AgentStatistics
from nativelink.worker.notices import Notices

AT_SMALLEST = NativeLinkError(Code.FAILED_PRECONDITION, "below the smallest size")


class Metadata:
    """What the instance metadata says."""

    def __init__(self) -> None:
        self.said = {"autoscaling/target-lifecycle-state": "InService"}

    async def get(self, path: str) -> str | None:
        return self.said.get(path)


class Worker:
    """Does what notices say at once, as soon as nothing runs."""

    def __init__(self, time: Patience) -> None:
        self._time = time
        self.running = 0
        self.idle_since = time.clock.monotonic()
        self.connected = True
        self.draining = False
        self.told: list[str] = []
        self.margin_s = 0.0

    def statistics(self) -> AgentStatistics:
        idle_s = 0.0 if self.running else self._time.clock.monotonic() - self.idle_since
        return AgentStatistics("i-1-x", self.connected, self.draining, self.running, 0, 1, idle_s)

    def start(self) -> None:
        self.running += 1

    def finish(self) -> None:
        self.running -= 1
        self.idle_since = self._time.clock.monotonic()

    def drain(self) -> None:
        self.draining = True
        self.told.append("drain")

    def resume(self) -> None:
        self.draining = False
        self.told.append("resume")

    async def heed(self, notices: Notices, *, margin_s: float) -> bool:
        self.margin_s = margin_s
        while (notice := await notices.next()).seconds is None:
            self.drain()
        self.told.append(f"leave: {notice.reason}")
        while self.running:
            await self._time.sleep(1)
        return True


class Group:
    """The auto scaling group's API."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.errors: dict[str, NativeLinkError] = {}

    def _ask(self, what: str, *arguments: object) -> None:
        if what in self.errors:
            self.asked.append((f"{what} refused",))
            raise self.errors[what]
        self.asked.append((what, *arguments))

    async def protect(self, group: str, instance: str, *, protected: bool) -> None:
        assert (group, instance) == ("workers", "i-1")
        self._ask("protect", protected)

    async def terminate(self, instance: str) -> None:
        assert instance == "i-1"
        self._ask("terminate")

    async def complete(self, group: str, hook: str, instance: str, *, token: str = "") -> None:
        assert (group, instance, token) == ("workers", "i-1", "")
        self._ask("complete", hook)

    async def still_busy(self, group: str, hook: str, instance: str) -> None:
        assert (group, hook, instance) == ("workers", "drain", "i-1")
        self._ask("still busy")


class Setup:
    def __init__(self, *, hook: str = "drain", idle_after_s: float = 300) -> None:
        self.time = Patience()
        self.metadata = Metadata()
        self.worker = Worker(self.time)
        self.group = Group()
        notices = ImdsNotices(
            self.metadata,
            planned_s=3600,
            clock=self.time.clock,
            sleep=self.time.sleep,
        )
        self.departure = Departure(
            self.worker,
            notices,
            self.group,
            DepartureSettings("i-1", "workers", hook, idle_after_s=idle_after_s, margin_s=20),
            clock=self.time.clock,
            sleep=self.time.sleep,
        )
        self.task: asyncio.Task[None] | None = None

    def asked(self, what: str) -> list[tuple[object, ...]]:
        return [each for each in self.group.asked if str(each[0]).startswith(what)]

    @property
    def done(self) -> bool:
        assert self.task is not None
        return self.task.done()


@asynccontextmanager
async def departing(setup: Setup) -> AsyncIterator[Setup]:
    async with beside(setup.departure.run()) as setup.task:
        yield setup


@pytest.fixture
async def setup() -> Setup:
    return Setup()


async def test_an_idle_worker_ends_its_machine_and_completes_the_lifecycle_action(
    setup: Setup,
) -> None:
    async with departing(setup):
        await setup.time.let_pass(299)
        assert setup.asked("terminate") == []
        await setup.time.let_pass(10)
        assert setup.worker.told == ["drain"]
        assert setup.asked("terminate") == [("terminate",)]
        # What it asked for it looks for every second.
        setup.metadata.said["autoscaling/target-lifecycle-state"] = "Terminated"
        await setup.time.let_pass(1)
        assert setup.worker.told[-1] == "leave: the auto scaling group ends this machine"
        assert setup.asked("complete") == [("complete", "drain")]
        assert setup.done
        assert setup.worker.margin_s == 20


async def test_a_group_at_its_smallest_keeps_its_worker(setup: Setup) -> None:
    setup.group.errors["terminate"] = AT_SMALLEST
    async with departing(setup):
        await setup.time.let_pass(310)
        assert setup.worker.told == ["drain", "resume"]
        await setup.time.let_pass(250)
        assert len(setup.asked("terminate")) == 1
        await setup.time.let_pass(100)
        assert len(setup.asked("terminate")) == 2
        assert not setup.worker.draining


async def test_a_refusal_lasts_minutes_however_soon_idle_workers_end() -> None:
    setup = Setup(idle_after_s=15)
    setup.group.errors["terminate"] = AT_SMALLEST
    async with departing(setup):
        await setup.time.let_pass(30)
        assert setup.worker.told == ["drain", "resume"]
        await setup.time.let_pass(270)
        assert len(setup.asked("terminate")) == 1
        assert setup.worker.told == ["drain", "resume"]
        await setup.time.let_pass(60)
        assert len(setup.asked("terminate")) == 2


async def test_a_failure_to_end_is_tried_again_soon(setup: Setup) -> None:
    setup.group.errors["terminate"] = unavailable("throttled")
    async with departing(setup):
        await setup.time.let_pass(310)
        assert setup.worker.told == ["drain", "resume"]
        del setup.group.errors["terminate"]
        await setup.time.let_pass(65)
        assert setup.asked("terminate")[-1] == ("terminate",)


async def test_an_action_that_came_at_the_last_moment_keeps_the_machine(setup: Setup) -> None:
    async with departing(setup):
        await setup.time.let_pass(300.5)
        assert setup.worker.told == ["drain"]
        setup.worker.start()
        await setup.time.let_pass(60)
        assert setup.asked("terminate") == []
        assert setup.worker.told == ["drain", "resume"]


async def test_a_worker_without_its_scheduler_stays(setup: Setup) -> None:
    setup.worker.connected = False
    async with departing(setup):
        await setup.time.let_pass(400)
        assert setup.asked("terminate") == []


async def test_a_worker_that_drains_for_another_reason_does_not_go_on(setup: Setup) -> None:
    setup.metadata.said["events/recommendations/rebalance"] = "{}"
    setup.group.errors["terminate"] = AT_SMALLEST
    async with departing(setup):
        await setup.time.let_pass(310)
        assert len(setup.asked("terminate")) == 1
        assert setup.worker.draining


async def test_a_busy_worker_is_protected_and_one_idle_for_a_minute_is_not(setup: Setup) -> None:
    async with departing(setup):
        await setup.time.let_pass(50)
        assert setup.asked("protect") == []
        await setup.time.let_pass(20)
        assert setup.asked("protect") == [("protect", False)]
        setup.worker.start()
        await setup.time.let_pass(5)
        assert setup.asked("protect")[-1] == ("protect", True)
        setup.worker.finish()
        await setup.time.let_pass(30)
        assert len(setup.asked("protect")) == 2


async def test_a_protection_that_fails_is_tried_again_and_said_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.group.errors["protect"] = unavailable("throttled")
    async with departing(setup):
        await setup.time.let_pass(90)
        assert len(setup.asked("protect refused")) >= 3
        del setup.group.errors["protect"]
        await setup.time.let_pass(5)
        assert setup.asked("protect")[-1] == ("protect", False)
    assert caplog.text.count("protection from scale-in cannot be set") == 1


async def test_a_planned_end_waits_for_what_runs_and_says_so(setup: Setup) -> None:
    async with departing(setup):
        setup.worker.start()
        setup.metadata.said["autoscaling/target-lifecycle-state"] = "Terminated"
        await setup.time.let_pass(600)
        assert len(setup.asked("still busy")) == 5
        assert setup.asked("complete") == []
        setup.worker.finish()
        await setup.time.let_pass(5)
        assert setup.asked("complete") == [("complete", "drain")]


async def test_an_interruption_is_left_for_at_once_and_completed_when_the_group_knows(
    setup: Setup,
) -> None:
    async with departing(setup):
        setup.metadata.said["spot/instance-action"] = "{}"
        await setup.time.let_pass(10)
        assert setup.worker.told == ["leave: spot interruption"]
        assert setup.asked("complete") == []
        setup.metadata.said["autoscaling/target-lifecycle-state"] = "Terminated"
        await setup.time.let_pass(5)
        assert setup.asked("complete") == [("complete", "drain")]


async def test_an_action_that_has_not_begun_is_completed_when_it_has(setup: Setup) -> None:
    setup.group.errors["complete"] = NativeLinkError(Code.FAILED_PRECONDITION, "no such action")
    async with departing(setup):
        setup.metadata.said["autoscaling/target-lifecycle-state"] = "Terminated"
        await setup.time.let_pass(20)
        assert not setup.done
        del setup.group.errors["complete"]
        await setup.time.let_pass(5)
        assert setup.asked("complete")[-1] == ("complete", "drain")


async def test_an_action_that_never_begins_is_given_up(setup: Setup) -> None:
    setup.group.errors["complete"] = NativeLinkError(Code.FAILED_PRECONDITION, "no such action")
    async with departing(setup):
        setup.metadata.said["autoscaling/target-lifecycle-state"] = "Terminated"
        await setup.time.let_pass(600)
        assert setup.done


async def test_without_a_hook_nothing_is_completed() -> None:
    setup = Setup(hook="")
    async with departing(setup):
        setup.worker.start()
        setup.metadata.said["autoscaling/target-lifecycle-state"] = "Terminated"
        await setup.time.let_pass(600)
        setup.worker.finish()
        await setup.time.let_pass(5)
        assert setup.done
    assert [each[0] for each in setup.group.asked] == []


async def test_a_machine_comes_into_service_when_it_is_ready() -> None:
    time, group = Patience(), Group()
    ready = False
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(
            arrive(
                group,
                group="workers",
                hook="ready",
                instance="i-1",
                ready=lambda: ready,
                sleep=time.sleep,
            )
        )
        await time.let_pass(30)
        assert group.asked == []
        ready = True
        await time.let_pass(1)
        assert group.asked == [("complete", "ready")]
        assert task.done()
