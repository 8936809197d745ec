"""What the keys of object stores do: each seen in the requests that come out, or their absence."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nativelink.compose.object_stores import object_store
from nativelink.config.specs_cloud import (
    AwsSpec,
    AzureSpec,
    GcsSpec,
    OciSpec,
    OntapSpec,
    R2Spec,
)
from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSource
from nativelink.stores.cloud.aws import S3Address, s3_bucket
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.client import ClientSettings
from nativelink.stores.cloud.gcs import gcs_bucket
from nativelink.stores.store import write_bytes
from nativelink.testing.fakes import wait_until
from tests.clients.certificates import Certificates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cloud_credentials")]

MIB = 2**20


class Listening:
    """A provider that takes requests, remembers their heads, and knows no object.

    Attributes:
        port: where it listens.
        heads: of the requests so far.
        protocols: what each connection agreed upon by ALPN.
        parts: uploads of parts that are under way at once, at the most.
    """

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[str] = []
        self.protocols: list[str | None] = []
        self.parts = 0
        #: Nobody is answered before so many parts are there.
        self.awaited = 0
        self._sending = 0
        self.silent = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        self.protocols.append(tls.selected_alpn_protocol() if tls is not None else None)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if self.silent:
                await reader.read()
                return
            answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            if "?uploads" in head:
                body = b"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>"
                body += b"<UploadId>u</UploadId></InitiateMultipartUploadResult>"
                answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % len(body)
                answer += b"connection: close\r\n\r\n" + body
            elif "partNumber=" in head:
                self._sending += 1
                self.parts = max(self.parts, self._sending)
                await reader.readexactly(_length(head))
                await wait_until(lambda: self.parts >= self.awaited)
                # Long enough for another one that should not to come.
                for _ in range(2_000):
                    await asyncio.sleep(0)
                self._sending -= 1
                answer = b'HTTP/1.1 200 OK\r\netag: "e"\r\ncontent-length: 0\r\n'
                answer += b"connection: close\r\n\r\n"
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def _length(head: str) -> int:
    (found,) = (
        line.partition(":")[2] for line in head.lower().split("\r\n")
        if line.startswith("content-length:")
    )  # fmt: skip
    return int(found)


@asynccontextmanager
async def listening(certificates: Certificates | None = None) -> AsyncIterator[Listening]:
    there = Listening()
    tls = None
    if certificates is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificates.server.certificate, certificates.server.key)
        tls.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    there.port = server.sockets[0].getsockname()[1]
    async with server:
        yield there


async def test_region_and_bucket_stand_in_every_request():
    async with listening() as there:
        spec = AwsSpec(
            provider="aws",
            region="mars-north-7",
            bucket="a-bucket",
            endpoint=f"http://127.0.0.1:{there.port}",
            insecure_allow_http=True,
            key_prefix="a-prefix/",
        )
        async with await object_store(spec, SystemClock()) as store:
            assert await store.has(["key"]) == [None]
    assert "/mars-north-7/s3/aws4_request" in there.heads[-1]
    assert there.heads[-1].startswith("HEAD /a-bucket/a-prefix/key ")


async def test_an_endpoint_of_the_file_comes_before_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    async with listening() as there:
        spec = AwsSpec(
            provider="aws",
            region="r",
            bucket="b",
            endpoint=f"http://127.0.0.1:{there.port}",
            insecure_allow_http=True,
        )
        async with await object_store(spec, SystemClock()) as store:
            assert await store.has(["key"]) == [None]


async def test_the_vserver_is_what_ontaps_requests_are_signed_for(certificates: Certificates):
    async with listening(certificates) as there:
        spec = OntapSpec(
            provider="ontap",
            vserver_name="the-vserver",
            bucket="a-bucket",
            endpoint=f"https://127.0.0.1:{there.port}",
            root_certificates=str(certificates.authority),
            disable_http2=True,
        )
        async with await object_store(spec, SystemClock()) as store:
            assert await store.has(["key"]) == [None]
    assert "/the-vserver/s3/aws4_request" in there.heads[-1]
    assert there.heads[-1].startswith("HEAD /a-bucket/key ")


@pytest.mark.parametrize(("disabled", "spoken"), [(False, "h2"), (True, None)])
async def test_http2_is_spoken_unless_it_is_disabled(
    certificates: Certificates, spoken: str | None, *, disabled: bool
):
    async with listening(certificates) as there:
        spec = OntapSpec(
            provider="ontap",
            vserver_name="v",
            bucket="b",
            endpoint=f"https://127.0.0.1:{there.port}",
            root_certificates=str(certificates.authority),
            disable_http2=disabled,
        )
        # Our listener understands nothing of HTTP/2, so the look at the bucket may fail.
        async with await object_store(spec, SystemClock()):
            pass
    assert there.protocols
    assert {each == "h2" for each in there.protocols} == {spoken == "h2"}


@pytest.mark.parametrize("parts", [1, 3])
async def test_so_many_parts_of_an_upload_travel_at_once(parts: int):
    async with listening() as there:
        there.awaited = parts
        spec = AwsSpec(
            provider="aws",
            region="r",
            bucket="b",
            endpoint=f"http://127.0.0.1:{there.port}",
            insecure_allow_http=True,
            multipart_max_concurrent_uploads=parts,
        )
        async with await object_store(spec, SystemClock()) as store:
            with pytest.raises(NativeLinkError):  # It cannot be completed here.
                await store.put("key", BytesSource(bytes(40 * MIB)))
    assert there.parts == parts


async def test_google_is_given_up_after_the_time_that_its_keys_say(
    monkeypatch: pytest.MonkeyPatch,
):
    waits: list[tuple[object, object]] = []

    def noted(bucket: str, *, client: ClientSettings, **settings: Any) -> Bucket:
        # As obstore gets them.
        options = client.options()
        waits.append((options.get("connect_timeout"), options.get("read_timeout")))
        return gcs_bucket(bucket, client=client, **settings)

    monkeypatch.setattr("nativelink.stores.cloud.gcs.gcs_bucket", noted)
    async with listening() as there:
        there.silent = True
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{there.port}")
        for connect_s, read_s in ((7, 1), (8, 2)):
            spec = GcsSpec(
                provider="gcs", bucket="b", connection_timeout_s=connect_s, read_timeout_s=read_s
            )
            # It is looked at when it is opened; that this ends is what the time is for.
            async with await object_store(spec, SystemClock()):
                pass
    assert waits == [
        (timedelta(seconds=7), timedelta(seconds=1)),
        (timedelta(seconds=8), timedelta(seconds=2)),
    ]


async def test_google_without_credentials_is_refused_if_they_are_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS_JSON"):
        monkeypatch.delenv(name, raising=False)
    spec = GcsSpec(provider="gcs", bucket="b", authentication_required=True)
    with pytest.raises(NativeLinkError) as caught:
        await object_store(spec, SystemClock())
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "no Google credentials" in caught.value.message


@pytest.mark.parametrize(("size", "parts"), [(5 * MIB, 6), (16 * MIB, 2)])
async def test_google_gets_a_large_blob_in_pieces_of_the_chunk_size(size: int, parts: int):
    async with listening() as there:
        spec = GcsSpec(provider="gcs", bucket="b", resumable_chunk_size=size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{there.port}")
            async with await object_store(spec, SystemClock()) as store:
                with pytest.raises(NativeLinkError):
                    await store.put("key", BytesSource(bytes(30 * MIB)))
    assert sum("partNumber=" in head for head in there.heads) == parts


@pytest.mark.parametrize("signed", [True, False])
async def test_azure_is_addressed_by_account_container_and_signature(*, signed: bool):
    async with listening() as there:
        where = f"http://127.0.0.1:{there.port}/an-account"
        more = {"sas_url": f"{where}/a-container?sv=1&sig=SIGNATURE"} if signed else {}
        spec = AzureSpec(
            provider="azure",
            account_name="an-account",
            container="a-container",
            endpoint=where,
            insecure_allow_http=True,
            **more,
        )
        async with await object_store(spec, SystemClock()) as store:
            assert await store.has(["key"]) == [None]
    assert there.heads[-1].startswith("HEAD /an-account/a-container/key")
    assert ("sig=SIGNATURE" in there.heads[-1]) is signed


@pytest.mark.parametrize(
    ("spec", "url"),
    [
        (
            R2Spec(provider="r2", account_id="an-account", bucket="b",
                   access_key_id="an-id", secret_access_key="a-secret"),
            "https://an-account.r2.cloudflarestorage.com",
        ),
        (
            OciSpec(provider="oci", namespace="a-space", region="eu-frankfurt-1", bucket="b",
                    access_key_id="an-id", secret_access_key="a-secret"),
            "https://a-space.compat.objectstorage.eu-frankfurt-1.oci.customer-oci.com",
        ),
    ],
    ids=["r2", "oci"],
)  # fmt: skip
async def test_r2_and_oci_are_addressed_by_account_and_keys(
    spec: R2Spec | OciSpec, url: str, monkeypatch: pytest.MonkeyPatch
):
    async with listening() as there:
        asked: list[str | None] = []

        def to_us(address: S3Address, **settings: Any) -> Bucket:
            asked.append(address.endpoint)
            local = replace(address, endpoint=f"http://127.0.0.1:{there.port}")
            settings["client"] = ClientSettings(allow_http=True)
            return s3_bucket(local, **settings)

        # Their hosts are not ours to answer for: what would go there comes here.
        monkeypatch.setattr("nativelink.stores.cloud.aws.s3_bucket", to_us)
        async with await object_store(spec, SystemClock()) as store:
            assert await store.has(["key"]) == [None]
    assert asked == [url]
    assert "Credential=an-id/" in there.heads[-1]
    assert there.heads[-1].startswith("HEAD /b/key ")


async def test_the_buffer_says_whether_a_body_is_sent_twice():
    async with listening() as there:
        for buffer, times in ((0, 1), (MIB, 3)):
            there.heads.clear()
            spec = AwsSpec.model_validate(
                {
                    "provider": "aws",
                    "region": "r",
                    "bucket": "b",
                    "endpoint": f"http://127.0.0.1:{there.port}",
                    "insecure_allow_http": True,
                    "max_retry_buffer_per_request": buffer,
                    "retry": {"max_retries": 2, "retry_on_errors": ("NotFound",)},
                }
            )
            async with await object_store(spec, SystemClock()) as store:
                with pytest.raises(NativeLinkError):
                    await write_bytes(store, "key", b"value")
            assert sum(head.startswith("PUT ") for head in there.heads) == times
