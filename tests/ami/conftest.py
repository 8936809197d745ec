"""Images are made once for all tests, and again only when something in them changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import image
from tests.clients.programs import program
from tests.waiting import waits

#: Of modules that need an image: making one waits for packages and for the disk.
_PREFIX = "test_image_"
#: Debian, its packages and ours, beside everything else that runs meanwhile.
_LONG = 1800


# Before xdist's own, which gives tests their groups' names.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.name.startswith(_PREFIX):
            item.add_marker(waits("images"))
            item.add_marker(pytest.mark.timeout(_LONG))


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip where no image can be made; fail where continuous integration runs."""
    for name in ("mmdebstrap", "buildah", "skopeo", "systemd-nspawn"):
        program(name, tool="image")
    if os.geteuid():
        message = "making images needs root, for other roots and their mounts"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def machine(tools: None) -> Path:
    """The root of a machine."""
    return image.machine()


@pytest.fixture(scope="session")
def container(tools: None) -> Path:
    """The container's archive."""
    return image.container()
