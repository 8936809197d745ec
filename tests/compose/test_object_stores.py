"""Object stores as they are configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativelink.compose.object_stores import object_store, remembered_s
from nativelink.config.specs_cloud import AwsSpec, AzureSpec, GcsSpec, OntapS3Spec
from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import read_bytes, write_bytes
from tests.stores.cloud.google import xml_api
from tests.stores.cloud.servers import (
    BUCKET,
    REGION,
    Azurite,
    FakeGcs,
    Moto,
    fresh_prefix,
    shared,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cloud_credentials")]


def aws(**keys: object) -> AwsSpec:
    return AwsSpec.model_validate(
        {
            "provider": "aws",
            "region": REGION,
            "bucket": BUCKET,
            "endpoint": f"http://127.0.0.1:{shared(Moto).port}",
            "insecure_allow_http": True,
            **keys,
        }
    )


async def test_an_amazon_bucket_is_used_with_the_credentials_of_the_environment():
    async with await object_store(aws(key_prefix=fresh_prefix()), SystemClock()) as store:
        await write_bytes(store, "key", b"value")
        assert await read_bytes(store, "key") == b"value"


async def test_an_azure_container_is_used_with_the_credentials_of_the_environment():
    spec = AzureSpec(
        provider="azure",
        account_name=Azurite.account,
        container=BUCKET,
        endpoint=f"http://127.0.0.1:{shared(Azurite).port}/{Azurite.account}",
        insecure_allow_http=True,
        key_prefix=fresh_prefix(),
    )
    async with await object_store(spec, SystemClock()) as store:
        await write_bytes(store, "key", b"value")
        assert await read_bytes(store, "key") == b"value"


async def test_a_bucket_that_is_missing_ends_the_start_and_one_that_is_unreachable_does_not():
    with pytest.raises(NativeLinkError) as caught:
        await object_store(aws(bucket="no-such-bucket"), SystemClock())
    assert caught.value.code is Code.FAILED_PRECONDITION
    async with await object_store(aws(endpoint="http://127.0.0.1:1"), SystemClock()) as store:
        with pytest.raises(NativeLinkError) as caught:
            await store.check()
        assert caught.value.code is Code.UNAVAILABLE


async def test_plain_http_must_be_allowed():
    spec = aws(insecure_allow_http=False, endpoint="http://127.0.0.1:1")
    async with await object_store(spec, SystemClock()) as store:
        with pytest.raises(NativeLinkError):
            await store.check()
    ontap = OntapS3Spec(endpoint="http://o", vserver_name="v", bucket="b")
    with pytest.raises(NativeLinkError) as caught:
        await object_store(ontap, SystemClock())
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_an_endpoint_that_the_environment_names_may_be_of_plain_http(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{shared(Moto).port}")
    spec = aws(insecure_allow_http=False, endpoint=None, key_prefix=fresh_prefix())
    async with await object_store(spec, SystemClock()) as store:
        await write_bytes(store, "key", b"value")
        assert await read_bytes(store, "key") == b"value"
    async with xml_api(shared(FakeGcs).port) as port:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        google = GcsSpec(provider="gcs", bucket=BUCKET, key_prefix=fresh_prefix())
        async with await object_store(google, SystemClock()) as store:
            await write_bytes(store, "key", b"value")
            assert await read_bytes(store, "key") == b"value"


async def test_certificates_that_are_not_there_end_the_start(tmp_path: Path):
    ontap = OntapS3Spec(
        endpoint="https://o",
        vserver_name="v",
        bucket="b",
        root_certificates=str(tmp_path / "none.pem"),
    )
    with pytest.raises(NativeLinkError) as caught:
        await object_store(ontap, SystemClock())
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_refreshing_must_come_before_expiring():
    with pytest.raises(NativeLinkError) as caught:
        await object_store(aws(refresh_after_s=100, consider_expired_after_s=100), SystemClock())
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("expires_s", "seconds"), [(0, 600), (10_000, 600), (100, 25)])
def test_presence_is_remembered_for_a_part_of_the_time_that_an_object_lives(
    expires_s: int, seconds: int
):
    assert remembered_s(aws(consider_expired_after_s=expires_s)) == seconds
