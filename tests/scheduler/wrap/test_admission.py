"""Requests come in at the pace of something else."""

from __future__ import annotations

import asyncio

from nativelink.core.digest import DigestFunction
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.wrap.admission import AdmissionScheduler
from nativelink.testing.fakes import wait_until
from tests.services.scheduling import FakeScheduler

ACTION = ActionInfo(ActionKey("main", DigestFunction.SHA256, DigestFunction.SHA256.digest_of(b"x")))


async def test_an_execution_starts_when_there_is_room_and_nothing_else_waits() -> None:
    room, behind, asked = asyncio.Event(), FakeScheduler(), []

    async def wait_for_room() -> None:
        asked.append(True)
        await room.wait()

    scheduler = AdmissionScheduler(behind, wait_for_room)
    async with asyncio.TaskGroup() as tasks:
        execution = tasks.create_task(scheduler.execute(ACTION, name="main/1"))
        await wait_until(lambda: bool(asked))
        assert not execution.done()
        await scheduler.operations()
        room.set()
    assert execution.result() is not None
