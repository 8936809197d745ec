"""What parts of a process are made with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from nativelink.compose.environment import Environment
from tests.clients.certificates import Certificates, make_certificates
from tests.compose.environment import environment_of
from tests.stores.cloud.servers import KEY, SECRET, Azurite


@pytest.fixture
async def environment() -> AsyncIterator[Environment]:
    async with AsyncExitStack() as lifetimes:
        yield environment_of(lifetimes)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def cloud_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the emulators, where clients of Amazon's and Microsoft's clouds look for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", Azurite.account_key)
