"""Stacks are synthesized once for all tests, however many processes run them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.planner import Planner, planning
from tests.infra.tools import Stack, moto, synthesize, terraform_environment
from tests.waiting import waits

#: Loading constructs and Terraform on two busy cores.
LONG = 900
#: A deployment, much of which is waiting, beside all that.
LONGER = 1800


# Before xdist's own, which gives tests their groups' names.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that needs Terraform or CDKTF stays in one process and takes its time.

    A deployment mostly waits, so it has a process of its own.
    """
    here = Path(__file__).parent
    for item in items:
        if item.path.parent != here or not item.path.name.startswith("test_stack"):
            continue
        if item.path.name == "test_stack_deploy.py":
            item.add_marker(waits("deployment"))
            item.add_marker(pytest.mark.timeout(LONGER))
        else:
            item.add_marker(pytest.mark.xdist_group("infra"))
            item.add_marker(pytest.mark.timeout(LONG))


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


@pytest.fixture(scope="package")
def planner(
    shared: Path, stacks: dict[str, Stack], terraform: dict[str, str], emulator: str
) -> Iterator[Planner]:
    """Terraform, for what is not deployed."""
    with planning(shared / "terraform", stacks["aws/minimal"], terraform, emulator) as made:
        yield made
