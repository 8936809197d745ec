"""One system for all tests of the command line that ask one."""

from collections.abc import Iterator

import pytest

from tests.cli.farm import Blobs, CommandLine, Farm, farm


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm(tmp_path_factory.mktemp("farm")) as running:
        yield running


@pytest.fixture
def nativelink(asked: Farm, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capfd, asked.url)


@pytest.fixture
def blobs(asked: Farm) -> Iterator[Blobs]:
    with asked.client() as client:
        yield Blobs(client)
