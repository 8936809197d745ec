"""What the keys of grpc stores, endpoints, TLS and retries do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.remote import grpc_cas
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore
from nativelink.transport import channel as transport
from nativelink.transport.settings import TlsSettings
from tests.clients.certificates import Certificates
from tests.execution.proxy import Proxy
from tests.stores.remote.test_call_metadata import during
from tests.stores.remote.upstream import INSTANCE, serving

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


def builder(environment: Environment, **keys: Any) -> StoreBuilder:
    store = {"name": "CAS", "grpc": {"store_type": "cas", **keys}}
    text = json.dumps({"stores": [store], "servers": []})
    return StoreBuilder(Config.model_validate(json5.loads(text)).stores, environment)


class RecordedError(Exception):
    """Carries what a constructor was called with."""

    def __init__(self, *arguments: Any, **keys: Any) -> None:
        super().__init__(arguments, keys)
        self.arguments = arguments
        self.keys = keys


async def test_every_key_of_a_grpc_store_arrives_where_it_is_heeded(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
):
    retry = {
        "max_retries": 3,
        "delay": 0.25,
        "jitter": 0.5,
        "retry_on_errors": ["Aborted", "Unavailable"],
    }
    endpoint = {
        "address": "grpc://upstream:1",
        "concurrency_limit": 4,
        "connect_timeout_s": 5,
        "http2_keepalive_interval_s": 6,
        "http2_keepalive_timeout_s": 7,
    }
    stores = builder(
        environment,
        endpoints=[endpoint],
        retry=retry,
        max_concurrent_requests=8,
        connections_per_endpoint=9,
        use_legacy_resource_names=True,
        forward_headers=["x-who"],
        experimental_remote_cache_compression=True,
        experimental_read_batching={
            "max_blob_size_bytes": 10,
            "max_batch_bytes": 11,
            "dispatch_slots": 12,
            "max_queued_bytes": 13,
        },
    )
    channels: list[transport.GrpcChannel] = []
    real = transport.GrpcChannel.__init__

    def recording(self: transport.GrpcChannel, *arguments: Any, **keys: Any) -> None:
        channels.append(self)
        real(self, *arguments, **keys)
        self.seen = (arguments, keys)

    def recorded(*arguments: Any, **keys: Any) -> None:
        raise RecordedError(*arguments, **keys)

    monkeypatch.setattr(transport.GrpcChannel, "__init__", recording)
    monkeypatch.setattr(grpc_cas, "GrpcCasStore", recorded)
    with pytest.raises(RecordedError) as caught:
        await stores.build_all()
    ((arguments, keys),) = (each.seen for each in channels)
    ((at,),) = arguments
    assert (at.address, at.concurrency_limit, at.connect_timeout_s) == ("upstream:1", 4, 5)
    assert (at.http2_keepalive_interval_s, at.http2_keepalive_timeout_s) == (6, 7)
    assert (keys["max_concurrent_requests"], keys["connections_per_endpoint"]) == (8, 9)
    got = caught.value.keys
    assert got["use_legacy_resource_names"] is True
    assert got["compression"] is True
    assert got["retry"].max_retries == 3
    assert (got["retry"].delay_s, got["retry"].jitter) == (0.25, 0.5)
    assert got["retry"].codes == {Code.ABORTED, Code.UNAVAILABLE}
    batching = got["batching"]
    assert (batching.max_blob_bytes, batching.max_batch_bytes) == (10, 11)
    assert (batching.slots, batching.max_queued_bytes) == (12, 13)
    assert during(got["metadata"], (b"x-who", b"me"), (b"x-other", b"no")) == (("x-who", "me"),)


@pytest.mark.slow
async def test_a_peer_that_falls_silent_is_missed_after_interval_and_time_out(
    environment: Environment,
):
    async with serving(DictStore()) as upstream:
        with Proxy(int(upstream.address.rpartition(":")[2])) as proxy:
            endpoint = {
                "address": f"grpc://127.0.0.1:{proxy.port}",
                "http2_keepalive_interval_s": 1,
                "http2_keepalive_timeout_s": 1,
            }
            stores = builder(environment, endpoints=[endpoint], instance_name=INSTANCE)
            store = (await stores.named("CAS")).store
            await write_bytes(store, DIGEST, BLOB)
            proxy.freeze()
            # Without the keys: 30 seconds, and 20 more.
            async with asyncio.timeout(45):
                with pytest.raises(NativeLinkError) as caught:
                    await store.has([DIGEST])
            assert caught.value.code is Code.UNAVAILABLE
        await environment.lifetimes.aclose()


async def asked(
    environment: Environment, certificates: Certificates, tls: dict[str, Any]
) -> bytes | Code:
    """What comes of a store with this `tls_config` and a server that wants a certificate."""
    settings = TlsSettings(
        cert_file=certificates.server.certificate,
        key_file=certificates.server.key,
        client_ca_file=certificates.authority,
    )
    async with serving(DictStore(), tls=settings) as upstream:
        where = f"grpcs://localhost:{upstream.server.address[1]}"
        endpoints = [{"address": where, "tls_config": tls}]
        stores = builder(environment, endpoints=endpoints, instance_name=INSTANCE)
        try:
            store = (await stores.named("CAS")).store
            await write_bytes(store, DIGEST, BLOB)
            return await read_bytes(store, DIGEST)
        except NativeLinkError as error:
            return error.code
        finally:
            await environment.lifetimes.aclose()


def shown(certificates: Certificates) -> dict[str, Any]:
    return {
        "cert_file": str(certificates.client.certificate),
        "key_file": str(certificates.client.key),
    }


async def test_tls_config_says_who_is_trusted_and_what_is_shown(
    environment: Environment, certificates: Certificates
):
    tls = {"ca_file": str(certificates.authority), **shown(certificates)}
    assert await asked(environment, certificates, tls) == BLOB


@pytest.mark.parametrize("missing", ["ca_file", "cert_file and key_file"])
async def test_tls_config_without_one_of_them_is_not_enough(
    environment: Environment, certificates: Certificates, missing: str
):
    tls: dict[str, Any] = {"ca_file": str(certificates.authority)}
    if missing == "ca_file":
        tls = {"ca_file": str(certificates.stranger.certificate), **shown(certificates)}
    assert await asked(environment, certificates, tls) is Code.UNAVAILABLE


async def test_native_roots_are_the_operating_systems(
    environment: Environment, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    tls = {"use_native_roots": True, **shown(certificates)}
    assert await asked(environment, certificates, tls) == BLOB
