"""Two sites on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.transport.http_client.site import Site, open_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as running:
        yield running


@pytest.fixture
async def elsewhere() -> AsyncIterator[Site]:
    async with open_site() as running:
        yield running
