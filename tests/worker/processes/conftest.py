from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nativelink.worker.processes.launcher import ProcessLauncher
from tests.worker.processes.launching import Yard


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with ProcessLauncher() as launcher:
        yield launcher


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    yard.close()
