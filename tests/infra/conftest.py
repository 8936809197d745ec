"""Stacks are synthesized once for all tests, however many processes run them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.tools import Stack, moto, synthesize, terraform_environment

#: Loading constructs and Terraform on two busy cores.
LONG = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that needs Terraform or CDKTF stays in one process and takes its time.

    A deployment mostly waits, so it has a process of its own. Together they take a quarter of an
    hour and a gigabyte of tools, so they run when they are asked for.
    """
    here = Path(__file__).parent
    longer = pytest.mark.skipif(not os.environ.get("INFRA"), reason="a longer run: make test-infra")
    for item in items:
        if here in item.path.parents and item.path.name.startswith("test_stack"):
            group = "infra deploy" if item.path.name == "test_stack_deploy.py" else "infra"
            item.add_marker(pytest.mark.xdist_group(group))
            item.add_marker(pytest.mark.timeout(LONG))
            item.add_marker(longer)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of all tests."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if base.name.startswith("popen-") else base) / "infra"


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """AWS, for plans."""
    with moto(tmp_path_factory.mktemp("moto") / "log") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def stacks(shared: Path, emulator: str) -> dict[str, Stack]:
    """Every stack by `aws/EXAMPLE` and `local/EXAMPLE`."""
    found = synthesize(shared / "cdktf", emulator)
    return {name: Stack(name, path) for name, path in found.items()}


@pytest.fixture(scope="session")
def terraform() -> dict[str, str]:
    """The environment to run Terraform in."""
    return terraform_environment()
