"""The farm counted by pools, with workers and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.policy import Policy, PropertyKind
from nativelink.scheduler.pools import NO_POOL, Pool, Pools, PoolStatistics
from nativelink.scheduler.scheduler import WorkerHello, WorkerLink
from nativelink.testing.fakes import FakeClock
from tests.scheduler.farm import action

X86 = Pool("x86", (("ISA", "x86-64"), ("cpu_count", "8")), slots=8)
ARM = Pool("arm", (("ISA", "aarch64"),), slots=4)
POLICY = Policy(
    supported_properties={
        "ISA": PropertyKind.EXACT,
        "pool": PropertyKind.EXACT,
        "gpu": PropertyKind.EXACT,
        "cpu_count": PropertyKind.MINIMUM,
        "memory_kb": PropertyKind.MINIMUM,
    }
)


class Farm:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.scheduler = LocalScheduler(POLICY, clock=self.clock, worker_match_logging_interval_s=0)
        self.pools = Pools([X86, ARM], self.scheduler.rules)
        self._count = 0

    def read(self) -> Sequence[PoolStatistics]:
        return self.scheduler.pool_statistics(self.pools)

    async def ask(self, **properties: str) -> None:
        self._count += 1
        await self.scheduler.execute(action(self._count, **properties))

    def join(self, pool: Pool, *, names_it: bool = True, slots: int = 2) -> WorkerLink:
        named = (("pool", pool.name),) if names_it else ()
        return self.scheduler.connect(WorkerHello("w", (*pool.properties, *named), slots))

    def pool(self, name: str) -> PoolStatistics:
        (found,) = (each for each in self.read() if each.name == name)
        return found


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    made = Farm()
    async with made.scheduler:
        yield made


async def test_what_waits_counts_to_the_pool_that_could_run_it_before_it_has_a_worker(
    farm: Farm,
) -> None:
    await farm.ask(ISA="aarch64")
    await farm.ask(ISA="aarch64")
    farm.clock.advance(7)
    await farm.ask(pool="x86")
    assert farm.pool("arm") == PoolStatistics("arm", 2, 0, 7.0, 0, 0, slots=4)
    assert farm.pool("x86") == PoolStatistics("x86", 1, 0, 0.0, 0, 0, slots=8)
    assert farm.pool(NO_POOL).queued == 0


async def test_what_any_pool_could_run_counts_to_the_first_one_only(farm: Farm) -> None:
    await farm.ask()
    assert [each.queued for each in farm.read()] == [1, 0, 0]


async def test_what_no_pool_could_run_is_shown_as_such(farm: Farm) -> None:
    await farm.ask(gpu="a100")
    await farm.ask(cpu_count="16", ISA="x86-64")
    assert [each.queued for each in farm.read()] == [0, 0, 2]


async def test_amounts_that_a_pool_does_not_tell_exclude_nothing(farm: Farm) -> None:
    await farm.ask(memory_kb="1000000", cpu_count="8", ISA="x86-64")
    await farm.ask(cpu_count="64", ISA="aarch64")
    assert [each.queued for each in farm.read()] == [1, 1, 0]


async def test_workers_and_what_they_run_count_to_their_pool(farm: Farm) -> None:
    farm.join(X86)
    farm.join(X86)
    for _ in range(3):
        await farm.ask(ISA="x86-64", cpu_count="4")
    farm.join(ARM, slots=0)
    assert farm.pool("x86") == PoolStatistics("x86", 0, 3, 0.0, 2, 0, slots=4)
    assert farm.pool("arm") == PoolStatistics("arm", 0, 0, 0.0, 1, 1, slots=4)


async def test_a_worker_that_names_no_pool_is_of_the_first_one_whose_offers_it_makes(
    farm: Farm,
) -> None:
    farm.join(ARM, names_it=False)
    farm.scheduler.connect(WorkerHello("w", (("ISA", "riscv"),), 1))
    farm.scheduler.connect(WorkerHello("w", (("pool", "gone"),), 1))
    assert [each.workers for each in farm.read()] == [0, 1, 2]


async def test_a_draining_worker_is_no_capacity_but_its_actions_are_load(farm: Farm) -> None:
    link = farm.join(X86)
    await farm.ask(ISA="x86-64")
    link.drain(draining=True)
    assert farm.pool("x86") == PoolStatistics("x86", 0, 1, 0.0, 0, 0, slots=8)
    await farm.ask(ISA="x86-64")
    assert farm.pool("x86").queued == 1
    link.drain(draining=False)
    assert farm.pool("x86") == PoolStatistics("x86", 0, 2, 0.0, 1, 0, slots=2)


async def test_a_pool_that_offers_an_amount_that_is_none_is_refused(farm: Farm) -> None:
    with pytest.raises(NativeLinkError, match="pool odd: platform property cpu_count") as raised:
        Pools([Pool("odd", (("cpu_count", "many"),))], farm.scheduler.rules)
    assert raised.value.code is Code.INVALID_ARGUMENT
