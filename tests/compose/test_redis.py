"""Redis specs to stores."""

from __future__ import annotations

from pathlib import Path

import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.redis import redis_client, redis_store
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.config.specs_remote import RedisSpec
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.status import Health
from nativelink.stores.remote.redis_cluster import ClusterClient
from nativelink.stores.remote.redis_sentinel import SentinelClient
from nativelink.stores.store import read_bytes, write_bytes
from tests.clients.certificates import make_certificates
from tests.ports import free_port
from tests.stores.remote.redis_server import RedisServer, fresh_prefix, shared_redis

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


def spec(text: str) -> RedisSpec:
    return RedisSpec.model_validate(json5.loads(text))


def builder(text: str, environment: Environment) -> StoreBuilder:
    config = Config.model_validate(json5.loads(f"{{ stores: {text}, servers: [] }}"))
    return StoreBuilder(config.stores, environment)


async def test_a_redis_store_does_what_the_file_says(environment: Environment):
    prefix, port = fresh_prefix(), shared_redis().port
    stores = builder(
        f"""[{{ name: "CAS", existence_cache: {{ backend: {{ redis_store: {{
          addresses: ["redis://127.0.0.1:{port}/7"],
          key_prefix: "{prefix}",
          experimental_pub_sub_channel: "composed",
          read_chunk_size: 4,
          max_chunk_uploads_per_update: 1,
          key_ttl_s: 100000,
          connection_pool_size: 1,
          max_client_permits: 1,
          command_timeout_ms: 60000,
          retry: {{ max_retries: 2, delay: 0.01 }},
        }} }} }} }}]""",
        environment,
    )
    await stores.build_all()
    store = (await stores.named("CAS")).store
    with shared_redis().raw(db=7) as raw, raw.pubsub() as listener:
        listener.subscribe("composed")
        assert listener.get_message(timeout=60)["type"] == "subscribe"
        await write_bytes(store, DIGEST, BLOB)
        assert listener.get_message(timeout=60)["data"] == f"{prefix}{DIGEST}".encode()
        assert await read_bytes(store, DIGEST) == BLOB
        assert raw.get(f"{prefix}{DIGEST}") == BLOB
        assert 99_000 < raw.ttl(f"{prefix}{DIGEST}") <= 100_000
    (result,) = await environment.health.results(timeout_s=60)
    assert result.namespace == "/nativelink/stores/CAS/backend/RedisStore"
    assert result.health is Health.OK
    await environment.lifetimes.aclose()
    figures = {metric.definition.name for metric in environment.registry.collect()}
    assert {"connection.pool.available", "connection.pool.acquisitions"} <= figures


async def test_a_redis_store_whose_server_is_down_starts_and_is_not_well(environment: Environment):
    stores = builder(
        '[{ name: "CAS", redis_store: { addresses: ["redis://127.0.0.1:1"] } }]', environment
    )
    await stores.build_all()
    (result,) = await environment.health.results(timeout_s=60)
    assert result.health is Health.FAILED
    assert result.message.startswith("UNAVAILABLE: Redis at 127.0.0.1:1 cannot be reached")
    await environment.lifetimes.aclose()


async def test_a_cluster_and_sentinels_are_what_the_mode_says():
    cluster = redis_client(spec("{ addresses: ['redis://a', 'redis://b'], mode: 'cluster' }"))
    assert isinstance(cluster, ClusterClient)
    sentinels = redis_client(
        spec("{ addresses: ['redis+sentinel://a', 'redis+sentinel://b'], mode: 'sentinel' }")
    )
    assert isinstance(sentinels, SentinelClient)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{ addresses: ['redis://a', 'redis://b'] }", "mode standard takes exactly one"),
        ("{ addresses: ['redis+sentinel://a'] }", "needs mode sentinel"),
        ("{ addresses: ['redis://a'], mode: 'sentinel' }", "begins with redis\\+sentinel://"),
        ("{ addresses: ['redis://a/1'], mode: 'cluster' }", "database 0 only"),
        ("{ addresses: ['a:6379'] }", "unknown scheme"),
    ],
)
def test_addresses_that_do_not_fit_are_refused(text: str, why: str):
    with pytest.raises(NativeLinkError, match=why) as caught:
        redis_client(spec(text))
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.slow
async def test_rediss_is_tls_with_a_certificate_that_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = make_certificates(tmp_path)
    port = str(free_port())
    files = (
        "--tls-cert-file",
        str(made.server.certificate),
        "--tls-key-file",
        str(made.server.key),
    )
    authority = ("--tls-ca-cert-file", str(made.authority), "--tls-auth-clients", "no")
    with RedisServer("--tls-port", port, *files, *authority, port=int(port)):
        secure = f"addresses: ['rediss://127.0.0.1:{port}'], retry: {{ max_retries: 9 }}"
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        async with redis_store(spec(f"{{ {secure} }}")) as store:
            await write_bytes(store, DIGEST, BLOB)
            assert await read_bytes(store, DIGEST) == BLOB
        monkeypatch.delenv("SSL_CERT_FILE")
        async with redis_store(spec(f"{{ addresses: ['rediss://127.0.0.1:{port}'] }}")) as store:
            with pytest.raises(NativeLinkError, match="certificate verify failed") as caught:
                await store.has([DIGEST])
            assert caught.value.code is Code.UNAVAILABLE
        insecure = f"{{ addresses: ['rediss://127.0.0.1:{port}/#insecure'] }}"
        async with redis_store(spec(insecure)) as store:
            assert await store.has([DIGEST]) == [len(BLOB)]
