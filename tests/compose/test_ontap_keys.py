"""What keys of an ONTAP bucket's index do, seen from outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativelink.compose.environment import Environment
from nativelink.core.digest import DigestFunction
from nativelink.stores.store import write_bytes
from tests.clients.certificates import Certificates
from tests.clients.front import Front
from tests.compose.making import made
from tests.stores.cloud.servers import KEY, REGION, SECRET, Moto, shared

pytestmark = pytest.mark.slow

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


async def test_the_index_of_an_ontap_bucket_follows_the_bucket_that_its_keys_name(
    environment: Environment,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    moto = shared(Moto)
    moto.client().create_bucket(
        Bucket="of-ontap", CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    with Front(certificates.server) as front:
        front.to(moto.port)
        store = await made(
            environment,
            ontap_s3_existence_cache={
                "index_path": str(tmp_path / "index"),
                "sync_interval_seconds": 3600,
                "backend": {
                    "endpoint": f"https://127.0.0.1:{front.port}",
                    "vserver_name": "the-vserver",
                    "bucket": "of-ontap",
                    "root_certificates": str(certificates.authority),
                },
            },
        )
        await write_bytes(store, DIGEST, BLOB)
        assert await store.has([DIGEST]) == [len(BLOB)]
        body = moto.client().get_object(Bucket="of-ontap", Key=str(DIGEST))["Body"].read()
        assert body == BLOB
        await environment.lifetimes.aclose()
