"""What parts of a process are made with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from nativelink.compose.environment import Environment
from tests.clients.certificates import Certificates, make_certificates
from tests.compose.environment import environment_of


@pytest.fixture
async def environment() -> AsyncIterator[Environment]:
    async with AsyncExitStack() as lifetimes:
        yield environment_of(lifetimes)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
