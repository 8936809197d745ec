"""Credentials of Amazon's protocol, and how large a part is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.cloud.aws import BotoCredentials, S3Address, _BotoTouch
from nativelink.stores.cloud.azure import AzureAddress
from nativelink.stores.cloud.bucket import Bucket, Found
from nativelink.stores.cloud.refresh import Refresher
from nativelink.stores.cloud.uploads import part_size
from nativelink.testing.fakes import FakeClock, wait_until

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


class OneAtATime:
    """A session of boto3's, which may not be asked for two clients at once."""

    def __init__(self) -> None:
        self.made = 0
        self.copied: list[str] = []
        self._barrier = Barrier(2)

    def client(self, *_name: object, **_config: object) -> OneAtATime:
        self.made += 1
        try:
            # Whoever else is in here meanwhile lets this go on.
            self._barrier.wait(0.05)
        except BrokenBarrierError:
            return self
        raise KeyError("endpoint_resolver")

    def copy_object(self, **request: Any) -> None:
        self.copied.append(request["Key"])


async def test_threads_that_copy_at_once_make_one_client():
    session = OneAtATime()
    touch = _BotoTouch(S3Address("b", "us-east-1"), lambda: session)
    async with asyncio.TaskGroup() as tasks:
        for name in "abcd":
            tasks.create_task(touch(name, Found(1, 0.0, None)))
    assert session.made == 1
    assert sorted(session.copied) == ["a", "b", "c", "d"]


async def test_a_surprise_of_a_library_does_not_end_the_refreshing(
    caplog: pytest.LogCaptureFixture,
):
    copied: list[str] = []

    async def touch(path: str, _found: Found) -> None:
        if path.startswith("bad"):
            raise KeyError("endpoint_resolver")
        copied.append(path)

    unused: Any = None
    bucket = Bucket(unused, name="s3://b", touch=touch)
    async with Refresher(bucket, clock=FakeClock(), after_s=1) as refresher:
        # More of them than there are workers.
        for number in range(20):
            refresher.noticed(f"bad {number}", Found(1, 0.0, None))
        await wait_until(lambda: refresher.failed == 20)
        refresher.noticed("good", Found(1, 0.0, None))
        await wait_until(lambda: copied == ["good"])
    assert "could not be refreshed" in caplog.text
