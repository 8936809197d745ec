"""What several tests of stores on disk begin with."""

from __future__ import annotations

import pytest

from nativelink.stores.disk import InlineGuard


@pytest.fixture(params=["quick disk", "slow disk"])
def _disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything on the loop's thread, or nothing."""
    monkeypatch.setattr(InlineGuard, "allowed", request.param == "quick disk")
