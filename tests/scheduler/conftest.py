"""What the tests of the scheduler's machine begin with."""

from __future__ import annotations

import pytest

from tests.scheduler.farm import Farm


@pytest.fixture
def farm() -> Farm:
    return Farm()
