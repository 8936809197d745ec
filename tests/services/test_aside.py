"""What a thread works on is not closed before it has ended."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nativelink.services.aside import Aside
from nativelink.testing.fakes import wait_until


@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_who_waits_waits_however_often_it_is_cancelled(cancellations: int) -> None:
    aside = Aside()
    begun, gate = threading.Event(), threading.Event()
    waited: list[bool] = []

    def work() -> None:
        begun.set()
        gate.wait()

    async def owner() -> None:
        try:
            await aside.run(work)
        finally:
            try:
                await aside.ended()
            finally:
                waited.append(gate.is_set())

    task = asyncio.create_task(owner())
    await wait_until(begun.is_set)
    try:
        for _ in range(cancellations):
            task.cancel()
            # Until it waits again.
            for _ in range(10):
                await asyncio.sleep(0)
        assert not waited
    finally:
        gate.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert waited == [True]


async def test_an_error_that_nobody_waited_for_is_not_reported_as_lost() -> None:
    aside = Aside()
    gate = threading.Event()

    def work() -> None:
        gate.wait()
        raise ValueError("lost")

    task = asyncio.create_task(aside.run(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()

    await aside.ended()
