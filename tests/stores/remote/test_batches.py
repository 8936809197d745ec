"""Many small requests, few calls."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, context, not_found, unavailable
from nativelink.stores.remote.batches import Batches


class Calls:
    """Answers each number with its square, when it is let to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.groups: list[Hashable] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.error: Exception | None = None

    async def send(self, items: list[int], group: Hashable) -> list[int | NativeLinkError]:
        self.batches.append(items)
        self.groups.append(group)
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return [item * item if item >= 0 else not_found(f"no {item}") for item in items]

    def batched(
        self, max_bytes: int = 100, slots: int = 2, max_queued_bytes: int = 1000
    ) -> Batches[int, int]:
        return Batches(
            self.send, max_bytes=max_bytes, slots=slots, max_queued_bytes=max_queued_bytes
        )


async def test_what_is_asked_in_one_turn_goes_out_together() -> None:
    calls = Calls()
    async with calls.batched() as batches:
        answers = await run_all(batches.ask(number, 1, "a") for number in range(50))
    assert answers == [number * number for number in range(50)]
    assert calls.batches == [list(range(50))]


async def test_a_lone_request_waits_for_nobody() -> None:
    calls = Calls()
    async with calls.batched() as batches:
        assert await batches.ask(3, 1, "a") == 9
        assert await batches.ask(4, 1, "a") == 16
    assert calls.batches == [[3], [4]]


async def test_a_batch_is_no_larger_than_allowed() -> None:
    calls = Calls()
    async with calls.batched(max_bytes=100, slots=9) as batches:
        await run_all(batches.ask(number, 40, "a") for number in range(5))
    assert calls.batches == [[0, 1], [2, 3], [4]]


async def test_an_item_that_is_too_large_for_any_batch_goes_alone() -> None:
    calls = Calls()
    async with calls.batched(max_bytes=100) as batches:
        await run_all(batches.ask(number, size, "a") for number, size in enumerate((1, 500, 1)))
    assert calls.batches == [[0], [1], [2]]


async def test_only_items_of_one_group_travel_together() -> None:
    calls = Calls()
    async with calls.batched() as batches:
        groups = ("a", "b", "a", "b", "b")
        await run_all(batches.ask(number, 1, group) for number, group in enumerate(groups))
    assert list(zip(calls.groups, calls.batches, strict=True)) == [("a", [0, 2]), ("b", [1, 3, 4])]


async def test_more_gathers_while_all_slots_are_taken() -> None:
    calls = Calls()
    calls.gate.clear()
    async with calls.batched(slots=1) as batches, asyncio.TaskGroup() as tasks:
        tasks.create_task(batches.ask(0, 1, "a"))
        await _turns()
        for number in range(1, 4):
            tasks.create_task(batches.ask(number, 1, "a"))
            await _turns()
        assert calls.batches == [[0]]
        calls.gate.set()
    assert calls.batches == [[0], [1, 2, 3]]


async def test_there_is_room_until_so_many_bytes_wait() -> None:
    calls = Calls()
    calls.gate.clear()
    async with calls.batched(slots=1, max_queued_bytes=100) as batches:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(batches.ask(0, 90, "a"))
            await _turns()
            assert batches.has_room(10_000), "nothing waits"
            tasks.create_task(batches.ask(1, 90, "a"))
            await _turns()
            assert batches.has_room(10)
            assert not batches.has_room(11)
            calls.gate.set()
        assert batches.has_room(10_000)


async def test_an_answer_may_be_an_error_of_one_item() -> None:
    calls = Calls()
    async with calls.batched() as batches, asyncio.TaskGroup() as tasks:
        good = tasks.create_task(batches.ask(5, 1, "a"))
        bad = tasks.create_task(_error(batches, -5))
    assert (good.result(), bad.result().code) == (25, Code.NOT_FOUND)


async def test_a_call_that_fails_fails_all_each_with_an_error_of_its_own() -> None:
    calls = Calls()
    calls.error = unavailable("down")
    async with calls.batched() as batches:
        errors = await run_all(_error(batches, number) for number in range(3))
    assert {error.message for error in errors} == {"down"}
    assert len({id(error) for error in errors}) == 3


async def test_an_error_of_an_item_that_several_ask_for_is_each_ones_own() -> None:
    missing = not_found("no 1")

    async def send(items: list[int], _group: Hashable) -> list[int | NativeLinkError]:
        return [missing for _ in items]

    async def ask(who: str) -> str:
        with pytest.raises(NativeLinkError) as raised, context(who):
            await batches.ask(1, 1, "a")
        return raised.value.message

    batches = Batches[int, int](send, max_bytes=100, slots=1, max_queued_bytes=1000)
    async with batches, asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(who)) for who in "ab"]
    assert [each.result() for each in asking] == ["a: no 1", "b: no 1"]


async def test_a_defect_is_heard_of_by_who_waits() -> None:
    calls = Calls()
    calls.error = KeyError("oops")
    async with calls.batched() as batches:
        with pytest.raises(KeyError, match="oops"):
            await batches.ask(1, 1, "a")


async def test_who_is_cancelled_before_the_call_is_left_out() -> None:
    calls = Calls()
    async with calls.batched() as batches, asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(batches.ask(number, 1, "a")) for number in range(3)]
        await asyncio.sleep(0)
        asking[1].cancel()
    assert calls.batches == [[0, 2]]


async def test_a_call_is_cancelled_when_all_who_asked_are_gone() -> None:
    calls = Calls()
    calls.gate.clear()
    async with calls.batched() as batches, asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(batches.ask(number, 1, "a")) for number in range(2)]
        await _turns()
        asking[0].cancel()
        await _turns()
        assert calls.running == 1
        asking[1].cancel()
        await _turns()
        assert calls.running == 0


async def test_the_end_fails_who_waits_and_leaves_nothing() -> None:
    calls = Calls()
    calls.gate.clear()
    batches = calls.batched(slots=1)
    async with asyncio.TaskGroup() as tasks, batches:
        sent = tasks.create_task(_error(batches, 1))
        await _turns()
        queued = tasks.create_task(_error(batches, 2))
        await _turns()
    assert (sent.result().code, queued.result().code) == (Code.UNAVAILABLE, Code.UNAVAILABLE)
    assert calls.running == 0
    with pytest.raises(NativeLinkError, match="closed"):
        await batches.ask(3, 1, "a")


async def _error(batches: Batches[int, int], number: int) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as caught:
        await batches.ask(number, 1, "a")
    return caught.value


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
