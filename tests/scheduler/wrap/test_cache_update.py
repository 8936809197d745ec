from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, unavailable
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.scheduler import KillOrder, StartOrder, WorkerHello, WorkerLink
from nativelink.scheduler.wrap.cache_update import CacheUpdateGateway
from nativelink.testing.fakes import wait_until
from tests.services.scheduling import FakeGateway, FakeLink


def action_of(name: bytes = b"x", *, do_not_cache: bool = False) -> ActionInfo:
    digest = DigestFunction.SHA256.digest_of(name)
    key = ActionKey("main", DigestFunction.SHA256, digest)
    return ActionInfo(key, do_not_cache=do_not_cache)


class Cache:
    """Takes results at once, or when the test says so."""

    def __init__(self) -> None:
        self.kept: list[tuple[ActionKey, bytes]] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def keep(self, key: ActionKey, response: bytes) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.kept.append((key, response))


class Setup:
    def __init__(self) -> None:
        self.cache = Cache()
        self.backend = FakeGateway()
        self.gateway = CacheUpdateGateway(self.backend, self.cache.keep)

    def connect(self, *, resumes: str = "") -> tuple[WorkerLink, FakeLink]:
        link = self.gateway.connect(WorkerHello("w", (), resumes=resumes))
        return link, self.backend.links[-1]

    async def started(self, action: ActionInfo) -> tuple[WorkerLink, FakeLink]:
        """A worker that runs an action."""
        link, behind = self.connect()
        behind.order(StartOrder("op", action, 1.0))
        await link.next_orders()
        return link, behind


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    made = Setup()
    async with made.gateway:
        yield made


async def test_a_result_is_in_the_cache_before_the_scheduler_hears_of_it(setup: Setup) -> None:
    link, behind = await setup.started(action_of())
    setup.cache.open.clear()

    link.result("op", b"response", exit_code=0, peak_memory_kb=5, cpu_time_ms=7)
    assert behind.said == []
    link.keep_alive()
    assert behind.said == [("keep_alive",)]

    setup.cache.open.set()
    await wait_until(lambda: len(behind.said) == 2)
    assert setup.cache.kept == [(action_of().key, b"response")]
    assert behind.said[1:] == [("result", "op", b"response", 0, 5, 7)]


async def test_a_worker_that_leaves_after_its_result_leaves_when_that_is_told(
    setup: Setup,
) -> None:
    link, behind = await setup.started(action_of())
    setup.cache.open.clear()
    link.result("op", b"response", exit_code=0)
    link.going_away()
    link.lost()
    assert behind.said == []

    setup.cache.open.set()
    await wait_until(lambda: len(behind.said) == 3)
    assert [said[0] for said in behind.said] == ["result", "going_away", "lost"]


@pytest.mark.parametrize("error", [unavailable("no cache"), RuntimeError("a defect")])
async def test_a_cache_that_fails_costs_the_cached_result_only(
    setup: Setup, error: Exception
) -> None:
    link, behind = await setup.started(action_of())
    setup.cache.error = error
    link.result("op", b"response", exit_code=0)
    assert [said[0] for said in behind.said] == ["result"]


async def test_failures_and_what_must_not_be_cached_pass_by(setup: Setup) -> None:
    link, behind = await setup.started(action_of(do_not_cache=True))
    link.result("op", b"response", exit_code=0)
    behind.order(StartOrder("bad", action_of(b"bad"), 1.0))
    await link.next_orders()
    link.result("bad", b"response", exit_code=1)
    behind.order(StartOrder("broken", action_of(b"broken"), 1.0))
    await link.next_orders()
    link.failed("broken", Failure(Code.INTERNAL, "no disk"))
    link.result("broken", b"response", exit_code=0)
    assert setup.cache.kept == []
    assert [said[0] for said in behind.said] == ["result", "result", "failed", "result"]


async def test_a_worker_can_write_only_under_the_actions_that_it_was_given(setup: Setup) -> None:
    link, behind = await setup.started(action_of())
    link.result("another", b"poison", exit_code=0)
    behind.order(KillOrder("op"))
    await link.next_orders()
    link.result("op", b"too late", exit_code=0)
    assert setup.cache.kept == []


async def test_a_worker_that_comes_back_brings_the_result_of_what_it_was_told_before(
    setup: Setup,
) -> None:
    link, _ = await setup.started(action_of())
    link.lost()
    again, behind = setup.connect(resumes=link.worker_id)
    again.result("op", b"response", exit_code=0)
    assert setup.cache.kept == [(action_of().key, b"response")]
    assert [said[0] for said in behind.said] == ["result"]


async def test_what_a_worker_had_that_never_came_back_is_forgotten(setup: Setup) -> None:
    link, _ = await setup.started(action_of())
    setup.backend.links.clear()
    link.lost()
    setup.backend.links.append(FakeLink("other", WorkerHello("other", ())))
    setup.connect()
    again, _ = setup.connect(resumes=link.worker_id)
    again.result("op", b"response", exit_code=0)
    assert setup.cache.kept == []


async def test_what_waits_for_the_cache_ends_with_the_gateway() -> None:
    setup = Setup()
    async with setup.gateway:
        link, behind = await setup.started(action_of())
        setup.cache.open.clear()
        link.result("op", b"response", exit_code=0)
    assert behind.said == []
