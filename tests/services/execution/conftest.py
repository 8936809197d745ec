"""A service, and calls to it that end with the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.services.execution.server import Server


@pytest.fixture
async def make(every_state_lasts: None) -> AsyncIterator[Callable[..., Server]]:
    servers: list[Server] = []

    def made(**settings: Any) -> Server:
        servers.append(Server(tasks, **settings))
        return servers[-1]

    async with asyncio.TaskGroup() as tasks:
        yield made
        # A client that leaves ends its call.
        for server in servers:
            for call in server.calls:
                call.task.cancel()


@pytest.fixture
def server(make: Callable[..., Server]) -> Server:
    return make()
