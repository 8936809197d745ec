"""Images that are made first: `make test-image` does, which also sets IMAGE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Of modules that need an image; the others run in `make test`.
_PREFIX = "test_image_"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    longer = pytest.mark.skipif(not os.environ.get("IMAGE"), reason="a longer run: make test-image")
    for item in items:
        if item.path.parent == here and item.path.name.startswith(_PREFIX):
            item.add_marker(longer)
