"""What tests of several services need."""

from __future__ import annotations

import pytest

from nativelink.services import operation_stream


@pytest.fixture
def every_state_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each state of an operation that there is for a turn of the loop is told."""
    monkeypatch.setattr(operation_stream, "PASSING_S", 0.0)
