"""Credentials of Amazon's protocol, and how large a part is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.cloud.aws import BotoCredentials, S3Address
from nativelink.stores.cloud.azure import AzureAddress
from nativelink.stores.cloud.uploads import part_size
from nativelink.testing.fakes import FakeClock

MIB = 1024 * 1024


class Frozen:
    access_key = "id"
    secret_key = "secret"

    def __init__(self, token: str) -> None:
        self.token = token


class Renewing:
    """A session whose credentials are others each time."""

    def __init__(self) -> None:
        self.count = 0

    def get_credentials(self) -> Any:
        return self

    def get_frozen_credentials(self) -> Frozen:
        self.count += 1
        return Frozen(f"token {self.count}")


def test_credentials_are_asked_for_again_before_botocore_would_let_them_expire():
    clock = FakeClock()
    credentials = BotoCredentials(clock, session=Renewing())
    first = credentials()
    assert (first["access_key_id"], first["token"]) == ("id", "token 1")
    assert first["expires_at"] == datetime.fromtimestamp(clock.time() + 240, UTC)
    assert credentials()["token"] == "token 2"


def test_no_credentials_end_the_start_and_say_where_they_were_looked_for():
    class Nothing:
        def get_credentials(self) -> None:
            return None

    with pytest.raises(NativeLinkError) as caught:
        BotoCredentials(FakeClock(), session=Nothing())
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "AWS_ACCESS_KEY_ID" in caught.value.message


def test_a_virtual_host_has_the_bucket_before_the_endpoints_name():
    address = S3Address("b", "r", "https://s3.example.com:8443", virtual_hosted_style=True)
    assert address.base() == "https://b.s3.example.com:8443"
    assert S3Address("b", "r", "https://s3.example.com").base() == "https://s3.example.com"


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (0, 5 * MIB),
        (48 * 1024 * MIB, 5 * MIB),
        (100_000 * MIB, 10 * MIB),
        (2**45, 2**45 // 10_000 + 1),
    ],
)
def test_parts_are_5_mib_until_ten_thousand_of_them_are_not_enough(size: int, part: int):
    assert part_size(size) == part
    assert -(-size // part_size(size)) <= 10_000


def test_a_sas_url_is_an_endpoint_a_container_and_a_signature():
    address = AzureAddress.of_sas_url("a", "https://a.blob.core.windows.net/c?sv=1&sig=s")
    assert (address.endpoint, address.container, address.sas) == (
        "https://a.blob.core.windows.net",
        "c",
        "sv=1&sig=s",
    )
    with pytest.raises(NativeLinkError) as caught:
        AzureAddress.of_sas_url("a", "https://a.blob.core.windows.net/?sig=secret")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in caught.value.message
