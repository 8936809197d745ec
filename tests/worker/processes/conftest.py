from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nativelink.worker.processes.launcher import ProcessLauncher
from tests.worker.processes.launching import SlotTime, Yard


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with ProcessLauncher() as launcher:
        yield launcher


@pytest.fixture
def slot_time(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> SlotTime:
    return SlotTime(tmp_path_factory.mktemp("time"), monkeypatch)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    yard.close()
