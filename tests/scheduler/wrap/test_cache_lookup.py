from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError, not_found, unavailable
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.scheduler.scheduler import Watch
from nativelink.scheduler.wrap.cache_lookup import CacheLookupScheduler
from nativelink.testing.fakes import FakeClock, wait_until
from tests.services.scheduling import FakeScheduler

CACHE_CHECK, QUEUED, COMPLETED = (
    ExecutionStage.CACHE_CHECK,
    ExecutionStage.QUEUED,
    ExecutionStage.COMPLETED,
)


def action_of(name: bytes = b"x", **fields: Any) -> ActionInfo:
    digest = DigestFunction.SHA256.digest_of(name)
    return ActionInfo(ActionKey("main", DigestFunction.SHA256, digest), **fields)


class Cache:
    """An action cache that answers at once, or when the test says so."""

    def __init__(self) -> None:
        self.answer: bytes | Exception | None = None
        self.asked: list[ActionKey] = []
        self.slow = False
        self._gate = asyncio.Event()

    def open(self) -> None:
        self._gate.set()

    async def lookup(self, key: ActionKey) -> bytes | None:
        self.asked.append(key)
        if self.slow:
            await self._gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Setup:
    def __init__(self) -> None:
        self.cache = Cache()
        self.clock = FakeClock()
        self.backend = FakeScheduler()
        self.scheduler = CacheLookupScheduler(self.backend, self.cache.lookup, clock=self.clock)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    async with setup.scheduler:
        yield setup


async def view_of(watch: Watch) -> OperationView:
    view = await watch.next()
    assert view is not None
    return view


async def last_view_of(watch: Watch) -> OperationView:
    while not (view := await view_of(watch)).done:
        pass
    return view


class TestAnswers:
    async def test_a_cached_result_ends_the_operation(self, setup: Setup) -> None:
        setup.cache.answer = b"response"
        watch = await setup.scheduler.execute(action_of(priority=3))
        view = await view_of(watch)
        assert (view.stage, view.response, view.cached) == (COMPLETED, b"response", True)
        assert view.name.startswith("main/")
        assert view.priority == 3
        assert view.finished_at == setup.clock.time()
        assert await watch.next() is None
        assert not setup.backend.views

    async def test_what_is_not_cached_is_executed(self, setup: Setup) -> None:
        watch = await setup.scheduler.execute(action_of(), name="main/1")
        assert await view_of(watch) == setup.backend.views["main/1"]
        setup.backend.finish(b"done")
        assert (await view_of(watch)).response == b"done"
        assert await watch.next() is None
        watch.close()
        assert [each.closed for each in setup.backend.watches] == [True]

    @pytest.mark.parametrize(
        "action", [action_of(skip_cache_lookup=True), action_of(do_not_cache=True)]
    )
    async def test_what_must_not_come_from_a_cache_is_not_looked_up(
        self, setup: Setup, action: ActionInfo
    ) -> None:
        setup.cache.answer = b"response"
        watch = await setup.scheduler.execute(action, name="main/1")
        assert (await view_of(watch)).stage is QUEUED
        assert not setup.cache.asked

    @pytest.mark.parametrize(
        ("error", "logged"),
        [
            (not_found("nothing"), ""),
            (unavailable("the cache is down"), "the cache is down"),
            (ValueError("a defect"), "a defect"),
        ],
    )
    async def test_a_cache_that_fails_does_not_stop_builds(
        self, setup: Setup, error: Exception, logged: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        setup.cache.answer = error
        watch = await setup.scheduler.execute(action_of())
        assert (await view_of(watch)).stage is QUEUED
        assert logged in caplog.text
        assert bool(caplog.text) is bool(logged)

    async def test_a_cache_that_never_answers_does_not_stop_builds(
        self, setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("nativelink.scheduler.wrap.cache_lookup._LOOKUP_TIMEOUT_S", 0.0)
        setup.cache.slow = True
        watches = [await setup.scheduler.execute(action_of()) for _ in range(2)]
        assert [(await view_of(watch)).stage for watch in watches] == [CACHE_CHECK] * 2
        assert [(await view_of(watch)).stage for watch in watches] == [QUEUED] * 2
        for watch in watches:
            watch.close()
        assert "has not answered" in caplog.text
        setup.cache.open()
        watch = await setup.scheduler.execute(action_of())
        assert len(setup.cache.asked) == 2, "it is asked again for the next request"
        watch.close()

    async def test_what_the_backend_refuses_is_refused(self, setup: Setup) -> None:
        setup.backend.refusal = unavailable("full")
        with pytest.raises(NativeLinkError, match="full"):
            await setup.scheduler.execute(action_of())
        assert [*await setup.scheduler.operations()] == []


class TestWhileTheCacheIsAsked:
    async def test_the_check_is_visible(self, setup: Setup) -> None:
        setup.cache.slow = True
        watch = await setup.scheduler.execute(action_of())
        view = await view_of(watch)
        assert view.stage is CACHE_CHECK
        assert await setup.scheduler.get(view.name) == view
        assert [*await setup.scheduler.operations()] == [view]
        again = await setup.scheduler.watch(view.name)
        assert await view_of(again) == view
        with pytest.raises(NativeLinkError) as raised:
            await setup.scheduler.delete(view.name)
        assert raised.value.code is Code.FAILED_PRECONDITION
        setup.cache.open()
        for each in (watch, again):
            moved = await view_of(each)
            assert (moved.stage, moved.name) == (QUEUED, view.name)
        setup.backend.finish(b"done")
        for each in (watch, again):
            assert (await view_of(each)).done
            assert await each.next() is None

    async def test_requests_for_one_action_share_a_look_up(self, setup: Setup) -> None:
        setup.cache.slow = True
        setup.cache.answer = b"response"
        watches = [await setup.scheduler.execute(action_of()) for _ in range(3)]
        other = await setup.scheduler.execute(action_of(b"y"))
        assert len(setup.cache.asked) == 2
        setup.cache.open()
        for watch in (*watches, other):
            assert (await last_view_of(watch)).response == b"response"
        # The next one asks again: what was found may be gone.
        await setup.scheduler.execute(action_of())
        assert len(setup.cache.asked) == 3

    async def test_the_check_goes_on_without_its_client(self, setup: Setup) -> None:
        setup.cache.slow = True
        watch = await setup.scheduler.execute(action_of())
        name = (await view_of(watch)).name
        watch.close()
        setup.cache.open()
        await wait_until(lambda: name in setup.backend.views)
        assert [each.closed for each in setup.backend.watches] == [True]
        assert (await view_of(await setup.scheduler.watch(name))).stage is QUEUED

    async def test_a_client_that_leaves_before_it_hears_of_the_move_leaves_nothing_open(
        self, setup: Setup
    ) -> None:
        setup.cache.slow = True
        watch = await setup.scheduler.execute(action_of())
        name = (await view_of(watch)).name
        setup.cache.open()
        await wait_until(lambda: name in setup.backend.views)
        watch.close()
        watch.close()
        assert [each.closed for each in setup.backend.watches] == [True]

    async def test_a_cancelled_check_ends_for_everybody(self, setup: Setup) -> None:
        setup.cache.slow = True
        watch = await setup.scheduler.execute(action_of())
        other = await setup.scheduler.execute(action_of())
        name = (await view_of(watch)).name
        await setup.scheduler.cancel(name)
        view = await view_of(watch)
        assert view.done
        assert view.failure is not None
        assert view.failure.code is Code.CANCELLED
        setup.cache.open()
        assert (await view_of(other)).stage is CACHE_CHECK
        assert (await view_of(other)).stage is QUEUED
        assert len(setup.backend.views) == 1

    async def test_a_backend_that_fails_then_is_told(self, setup: Setup) -> None:
        setup.cache.slow = True
        watch = await setup.scheduler.execute(action_of())
        await watch.next()
        setup.backend.refusal = unavailable("full")
        setup.cache.open()
        with pytest.raises(NativeLinkError, match="full"):
            await watch.next()
        assert [*await setup.scheduler.operations()] == []

    async def test_a_scheduler_that_stops_says_so(self) -> None:
        setup = Setup()
        async with setup.scheduler:
            setup.cache.slow = True
            watch = await setup.scheduler.execute(action_of())
            await watch.next()
        with pytest.raises(NativeLinkError) as raised:
            await watch.next()
        assert raised.value.code is Code.UNAVAILABLE


class TestAfterwards:
    async def test_an_answer_can_be_asked_for_again_for_a_while(self, setup: Setup) -> None:
        setup.cache.answer = b"response"
        view = await view_of(await setup.scheduler.execute(action_of()))
        assert await setup.scheduler.get(view.name) == view
        watch = await setup.scheduler.watch(view.name)
        assert await view_of(watch) == view
        assert await watch.next() is None
        watch.close()
        await setup.scheduler.cancel(view.name)
        assert [*await setup.scheduler.operations()] == [view]
        setup.clock.advance(60)
        assert [*await setup.scheduler.operations()] == []
        with pytest.raises(NativeLinkError) as raised:
            await setup.scheduler.watch(view.name)
        assert raised.value.code is Code.NOT_FOUND

    async def test_an_answer_can_be_deleted(self, setup: Setup) -> None:
        setup.cache.answer = b"response"
        view = await view_of(await setup.scheduler.execute(action_of()))
        await setup.scheduler.delete(view.name)
        with pytest.raises(NativeLinkError):
            await setup.scheduler.delete(view.name)

    async def test_only_so_many_answers_are_kept(self, setup: Setup) -> None:
        setup.cache.answer = b"response"
        for _ in range(1001):
            await setup.scheduler.execute(action_of())
        assert len([*await setup.scheduler.operations()]) == 1000

    async def test_operations_are_listed_by_age(self, setup: Setup) -> None:
        first = await view_of(await setup.scheduler.execute(action_of(skip_cache_lookup=True)))
        setup.cache.answer = b"response"
        second = await view_of(await setup.scheduler.execute(action_of()))
        assert [*await setup.scheduler.operations()] == [first, second]
        assert setup.scheduler.known_properties() == ["cpu_count"]
        setup.backend.finish(b"")
        await setup.scheduler.delete(first.name)
        assert [*await setup.scheduler.operations()] == [second]
