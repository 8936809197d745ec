from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from nativelink.aws.cloudwatch import Datum, PoolPublisher
from nativelink.core.errors import unavailable
from nativelink.scheduler.pools import PoolStatistics
from nativelink.testing.patience import Patience, beside

POOL = PoolStatistics("x86", 3, 5, 12.5, 2, 1, slots=16)


class CloudWatch:
    """Takes values, or fails, or does not answer."""

    def __init__(self) -> None:
        self.got: list[Sequence[Datum]] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def put(self, values: Sequence[Datum]) -> None:
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        self.got.append(values)

    def values(self) -> list[Datum]:
        return [value for batch in self.got for value in batch]


class Setup:
    def __init__(self) -> None:
        self.time = Patience()
        self.cloud = CloudWatch()
        self.pools = [POOL]
        self.reads = 0
        self.publisher = PoolPublisher(
            self.read, self.cloud.put, clock=self.time.clock, interval_s=10, sleep=self.time.sleep
        )

    def read(self) -> Sequence[PoolStatistics]:
        self.reads += 1
        return self.pools


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_every_round_has_six_values_of_each_pool_and_its_time(setup: Setup) -> None:
    async with beside(setup.publisher.run()):
        setup.pools.append(replace(POOL, name="arm"))
        start = setup.time.clock.time()
        await setup.time.let_pass(10)
        assert [len(batch) for batch in setup.cloud.got] == [12, 12]
        assert [(each.name, each.value, each.unit) for each in setup.cloud.got[0][:6]] == [
            ("QueuedActions", 3, "Count"),
            ("RunningActions", 5, "Count"),
            ("OldestQueuedSeconds", 12.5, "Seconds"),
            ("IdleWorkers", 1, "Count"),
            ("RegisteredWorkers", 2, "Count"),
            ("LoadRatio", 100 * (5 + 3 * 12.5 / 180) / 16, "Percent"),
        ]
        assert {each.pool for each in setup.cloud.got[1]} == {"x86", "arm"}
        assert {each.at for each in setup.cloud.values()} == {start, start + 10}
        assert {each.resolution_s for each in setup.cloud.values()} == {1}


async def test_an_outage_costs_nothing_but_is_said_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    async with beside(setup.publisher.run()):
        caplog.set_level(logging.INFO)
        setup.cloud.error = unavailable("no CloudWatch")
        await setup.time.let_pass(300)
        assert setup.reads == 31
        assert caplog.text.count("metrics cannot be published") == 1

        setup.cloud.error = None
        await setup.time.let_pass(10)
        times = [each.at for each in setup.cloud.values() if each.name == "LoadRatio"]
        assert times == sorted(set(times))
        assert len(times) == 32
        assert "over" in caplog.text


async def test_the_oldest_values_go_when_there_are_too_many(setup: Setup) -> None:
    async with beside(setup.publisher.run()):
        setup.cloud.error = unavailable("no CloudWatch")
        await setup.time.let_pass(0)
        start = setup.time.clock.time()
        setup.pools *= 20
        await setup.time.let_pass(1200)
        setup.cloud.error = None
        await setup.time.let_pass(10)
        values = setup.cloud.values()
        assert len(values) == 6480
        assert min(each.at for each in values) > start + 600
        assert max(each.at for each in values) == setup.time.clock.time()
        assert max(len(batch) for batch in setup.cloud.got) == 1000


async def test_rounds_are_taken_while_cloudwatch_does_not_answer(setup: Setup) -> None:
    async with beside(setup.publisher.run()):
        await setup.time.let_pass(0)
        setup.cloud.answers.clear()
        await setup.time.let_pass(50)
        assert setup.reads == 6
        assert len(setup.cloud.got) == 1
        setup.cloud.answers.set()
        await setup.time.settle()
        assert len(setup.cloud.values()) == 36


async def test_interruptions_are_counted_at_normal_resolution(setup: Setup) -> None:
    async with beside(setup.publisher.run()):
        setup.publisher.interrupted("x86")
        await setup.time.let_pass(0)
        (found,) = (each for each in setup.cloud.values() if each.name == "Interruptions")
        assert (found.pool, found.value, found.resolution_s) == ("x86", 1, 60)


async def test_interruptions_are_counted_by_what_the_machine_was_too(setup: Setup) -> None:
    async with beside(setup.publisher.run()):
        setup.publisher.interrupted(
            "x86",
            [("pool", "x86"), ("instance_type", "c7i.2xlarge"), ("availability_zone", "eu-1a")],
        )
        # What CloudWatch would refuse, and all other values with it.
        setup.publisher.interrupted("arm", [("instance_type", ""), ("availability_zone", ":é")])
        await setup.time.let_pass(0)
        found = [each for each in setup.cloud.values() if each.name == "Interruptions"]
        assert [(each.pool, each.more) for each in found] == [
            ("x86", ()),
            ("x86", (("InstanceType", "c7i.2xlarge"),)),
            ("x86", (("Zone", "eu-1a"),)),
            ("arm", ()),
        ]


async def test_work_counts_no_further_than_to_what_ran_lately_and_a_worker_a_minute(
    setup: Setup,
) -> None:
    """Two workers of eight slots, and for hours eight actions. Then comes a large build."""

    def ratios(pool: str) -> list[float]:
        values = setup.cloud.values()
        return [each.value for each in values if (each.name, each.pool) == ("LoadRatio", pool)]

    setup.pools = [replace(POOL, queued=0, running=8), replace(POOL, name="arm")]
    async with beside(setup.publisher.run()):
        await setup.time.let_pass(7200)
        assert ratios("x86")[-1] == 50
        setup.pools[0] = replace(POOL, queued=100, running=16, oldest_queued_s=180)
        await setup.time.let_pass(80)
        # What ran lately is a little more than 8 now, and the first worker's 8 come on top.
        assert 100 <= ratios("x86")[-1] < 108
        before = ratios("x86")[-1]
        await setup.time.let_pass(70)
        assert before + 40 < ratios("x86")[-1] < before + 60
        assert set(ratios("arm")) == {100 * (5 + 3 * 12.5 / 180) / 16}
