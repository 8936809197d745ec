from collections.abc import AsyncIterator

import pytest

from nativelink.worker.processes.launcher import ProcessLauncher
from tests.worker.processes.launching import SlotTime


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with ProcessLauncher() as launcher:
        yield launcher


@pytest.fixture
def slot_time(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> SlotTime:
    return SlotTime(tmp_path_factory.mktemp("time"), monkeypatch)
