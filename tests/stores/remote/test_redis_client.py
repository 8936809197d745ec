"""Requests to Redis, whatever stands behind the addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from nativelink.core.errors import unavailable
from nativelink.core.retry import Retry
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_client import StandardClient
from nativelink.stores.remote.redis_connection import Command
from nativelink.stores.remote.redis_node import Dialing
from nativelink.testing.fakes import wait_until


class Halved(StandardClient):
    """A server of which a half is down: keys that begin with `bad`."""

    async def _attempt(self, commands: Sequence[Command]) -> list[Any]:
        if str(commands[0][1]).startswith("bad"):
            raise unavailable("that half is down")
        return ["here"]


async def test_who_waits_for_the_next_try_keeps_nobody_from_asking() -> None:
    pauses = 0
    may_go = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        await may_go.wait()

    dialing = Dialing(
        Login(), connect_timeout_s=1, command_timeout_s=1, connections=1, recorder=None
    )
    client = Halved(Endpoint("nowhere", 1), dialing, retry=Retry(sleep=sleep), max_in_flight=2)
    async with asyncio.TaskGroup() as tasks:
        stuck = [tasks.create_task(client.run([("GET", f"bad{n}")])) for n in range(5)]
        async with asyncio.timeout(60):
            await wait_until(lambda: pauses == 5)
            assert await client.run([("GET", "good")]) == ["here"]
        for each in stuck:
            each.cancel()
