"""What tests of processes need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.processes.launching import Yard


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """A directory that actions run in."""
    yard = Yard(tmp_path)
    yield yard
    yard.close()
