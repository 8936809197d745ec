"""Object stores of the cloud providers keep the store contract, on servers of their protocols."""

from __future__ import annotations

import pytest

from tests.stores.cloud.servers import Azurite, Moto, Versity
from tests.stores.cloud.suite import CloudContract, FaultyCloudContract

pytestmark = pytest.mark.slow


class TestVersity(CloudContract):
    server = Versity


class TestAzurite(CloudContract):
    server = Azurite


class TestMotoWithFaults(FaultyCloudContract):
    server = Moto


class TestVersityWithFaults(FaultyCloudContract):
    server = Versity


class TestAzuriteWithFaults(FaultyCloudContract):
    server = Azurite


del CloudContract, FaultyCloudContract
