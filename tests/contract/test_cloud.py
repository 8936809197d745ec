"""Object stores of the cloud providers keep the store contract, on servers of their protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nativelink.stores.store import Store
from tests.stores.cloud.google import xml_api
from tests.stores.cloud.servers import Azurite, FakeGcs, Moto, Versity, shared
from tests.stores.cloud.suite import BucketContract, CloudContract, FaultyCloudContract

pytestmark = pytest.mark.slow


class TestVersity(CloudContract):
    server = Versity


class TestAzurite(CloudContract):
    server = Azurite


class TestFakeGcs(BucketContract):
    """Google's protocol, of which the server has only half."""

    server = FakeGcs

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with xml_api(shared(FakeGcs).port) as port, self.open_at(port) as store:
            yield store


class TestMotoWithFaults(FaultyCloudContract):
    server = Moto


class TestVersityWithFaults(FaultyCloudContract):
    server = Versity


class TestAzuriteWithFaults(FaultyCloudContract):
    server = Azurite


del BucketContract, CloudContract, FaultyCloudContract
