"""buildbox-casd as the upstream of a grpc store: a CAS that is nothing of ours."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from nativelink.stores.store import Store
from nativelink.testing.store_contract import DigestKeysOnly
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint
from tests.clients.programs import CLIENT_TESTS, program, running, wait_until_ready
from tests.ports import free_port

pytestmark = CLIENT_TESTS


@pytest.fixture(scope="module")
def casd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a casd with a cache of its own."""
    binary = program("buildbox/buildbox-casd", tool="casd")
    folder: Path = tmp_path_factory.mktemp("casd-upstream")
    address = f"127.0.0.1:{free_port()}"
    log = folder / "log"
    with running([binary, f"--bind={address}", folder / "cache"], log) as process:
        wait_until_ready(address, log, process=process)
        yield address


class TestCasd(DigestKeysOnly):
    """The whole contract. All tests share one server, so each has blobs that no other has."""

    _numbers: ClassVar[Iterator[int]] = itertools.count()
    address: str

    @pytest.fixture(autouse=True)
    def _server(self, casd: str) -> None:
        self.address = casd
        self._salt = next(self._numbers)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with (
            GrpcChannel([Endpoint(self.address)]) as channel,
            GrpcCasStore(channel) as store,
        ):
            yield store

    def blob(self, size: int, seed: int = 0) -> tuple[StoreKey, bytes]:
        # A byte is not enough for all tests to differ in.
        data = random.Random(f"{self._salt} {size} {seed}").randbytes(max(size, 16))
        return DigestFunction.SHA256.digest_of(data), data
