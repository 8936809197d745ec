"""A latch opens once."""

import asyncio

from nativelink.core.latch import Latch


async def test_waiting_ends_when_it_is_set_and_costs_nothing_afterwards():
    latch = Latch()
    waiting = [asyncio.Task(latch.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not latch.is_set
    assert not any(task.done() for task in waiting)
    latch.set()
    latch.set()
    for task in waiting:
        await task
    await latch.wait()
    assert latch.is_set


async def test_one_who_stops_waiting_does_not_disturb_the_others():
    latch = Latch()
    first, second = asyncio.Task(latch.wait()), asyncio.Task(latch.wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    latch.set()
    await second
