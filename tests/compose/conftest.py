"""What parts of a process are made with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from nativelink.compose.environment import Environment
from nativelink.core.digest import DigestFunction
from nativelink.services.status import HealthRegistry
from nativelink.telemetry.meter import Registry
from nativelink.testing.fakes import FakeClock
from tests.clients.certificates import Certificates, make_certificates


@pytest.fixture
async def environment() -> AsyncIterator[Environment]:
    clock = FakeClock()
    async with AsyncExitStack() as lifetimes:
        yield Environment(
            version="1.2.3",
            clock=clock,
            registry=Registry(),
            measured=True,
            health=HealthRegistry(clock=clock, observe=lambda _result: None),
            lifetimes=lifetimes,
            tracer=None,
            digest_function=DigestFunction.SHA256,
            health_check_bytes=1024,
        )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
