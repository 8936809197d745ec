"""Store specs to stores: references, errors with their place, and what becomes visible."""

from typing import Any

import json5
import pytest

from nativelink.compose.completeness import remembered_s
from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2
from nativelink.services.status import Health
from nativelink.stores.store import Store, read_bytes, write_bytes
from nativelink.telemetry.meter import NumberPoint
from nativelink.testing.fakes import DictStore
from tests.stores.remote.upstream import INSTANCE, serving

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


def builder(text: str, environment: Environment) -> StoreBuilder:
    """A builder for the value of a configuration's `stores`."""
    config = Config.model_validate(json5.loads(f"{{ stores: {text}, servers: [] }}"))
    return StoreBuilder(config.stores, environment)


async def test_a_reference_is_the_store_itself_wherever_it_stands(environment: Environment):
    stores = builder(
        """[
          { name: "ALIAS", ref_store: { name: "CAS" } },
          { name: "CAS", memory: {} },
        ]""",
        environment,
    )
    await stores.build_all()
    assert (await stores.named("ALIAS")).store is (await stores.named("CAS")).store
    assert [leaf.path for leaf in stores.leaves] == ["CAS"]


async def test_a_reference_to_nothing_says_what_there_is(environment: Environment):
    stores = builder('[{ name: "A", ref_store: { name: "B" } }]', environment)
    with pytest.raises(NativeLinkError, match="stores/A: ref_store names 'B'; the stores are: A"):
        await stores.build_all()


async def test_a_circle_of_references_is_shown(environment: Environment):
    stores = builder(
        """[
          { name: "A", verify: { backend: { ref_store: { name: "B" } } } },
          { name: "B", ref_store: { name: "C" } },
          { name: "C", ref_store: { name: "A" } },
        ]""",
        environment,
    )
    with pytest.raises(NativeLinkError, match="A -> B -> C -> A") as error:
        await stores.build_all()
    assert error.value.code is Code.INVALID_ARGUMENT


async def test_two_stores_of_one_name_are_refused(environment: Environment):
    with pytest.raises(NativeLinkError, match="stores/A: there are two stores of this name"):
        builder('[{ name: "A", memory: {} }, { name: "A", noop: {} }]', environment)


@pytest.mark.parametrize(
    "spec",
    [
        "memory: {}",
        "verify: { verify_size: true, verify_hash: true, backend: { memory: {} } }",
        "existence_cache: { backend: { memory: {} } }",
        "cache_metrics: { cache_type: 'cas', backend: { memory: {} } }",
        "size_partitioning: { size: 3, lower_store: { noop: {} }, upper_store: { memory: {} } }",
        "fast_slow: { fast: { memory: {} }, slow: { memory: {} } }",
        "completeness_checking: { backend: { memory: {} }, cas_store: { memory: {} } }",
    ],
)
async def test_a_store_that_was_made_keeps_what_is_put(spec: str, environment: Environment):
    store = (await builder(f'[{{ name: "A", {spec} }}]', environment).named("A")).store
    await write_bytes(store, DIGEST, BLOB)
    if not spec.startswith("completeness"):  # Our blob is no action result.
        assert await read_bytes(store, DIGEST) == BLOB


async def test_a_filesystem_store_is_opened_and_closed_with_the_system(
    environment: Environment, tmp_path: Any
):
    spec = f"filesystem: {{ content_path: '{tmp_path}/c', temp_path: '{tmp_path}/t' }}"
    store = (await builder(f'[{{ name: "A", {spec} }}]', environment).named("A")).store
    await write_bytes(store, DIGEST, BLOB)
    assert await read_bytes(store, DIGEST) == BLOB
    assert any(path.read_bytes() == BLOB for path in tmp_path.rglob("*") if path.is_file())


async def test_a_directory_that_cannot_be_made_is_named_with_its_place(
    environment: Environment, tmp_path: Any
):
    (tmp_path / "file").write_text("not a directory")
    spec = f"filesystem: {{ content_path: '{tmp_path}/file/c', temp_path: '{tmp_path}/t' }}"
    stores = builder(f'[{{ name: "A", verify: {{ backend: {{ {spec} }} }} }}]', environment)
    with pytest.raises(NativeLinkError, match=r"^stores/A/backend: ") as error:
        await stores.build_all()
    assert str(tmp_path / "file") in error.value.message


async def test_every_leaf_of_a_composed_store_is_checked(environment: Environment):
    stores = builder(
        """[
          { name: "CAS", verify: { backend: {
            fast_slow: { fast: { memory: {} }, slow: { memory: {} } } } } },
          { name: "AC", completeness_checking: {
            backend: { memory: {} }, cas_store: { ref_store: { name: "CAS" } } } },
        ]""",
        environment,
    )
    await stores.build_all()
    results = await environment.health.results(5)
    assert [result.namespace for result in results] == [
        "/nativelink/stores/CAS/backend/fast/MemoryStore",
        "/nativelink/stores/CAS/backend/slow/MemoryStore",
        "/nativelink/stores/AC/backend/MemoryStore",
    ]
    assert {result.health for result in results} == {Health.OK}


async def test_the_blob_of_a_health_check_fits_into_a_small_store(environment: Environment):
    stores = builder(
        '[{ name: "A", memory: { eviction_policy: { max_bytes: 100 } } }]', environment
    )
    await stores.build_all()
    (result,) = await environment.health.results(5)
    assert (result.health, result.message) == (Health.OK, "wrote and read 6 bytes")


async def test_sizes_entries_and_evictions_are_measured(environment: Environment):
    stores = builder('[{ name: "A", memory: { eviction_policy: { max_bytes: 10 } } }]', environment)
    store = (await stores.named("A")).store
    await write_bytes(store, DIGEST, BLOB)
    await write_bytes(store, DigestFunction.SHA256.digest_of(b"other"), b"other")
    measured = {
        series.definition.name: point.value
        for series in environment.registry.collect()
        for point in series.points
        if isinstance(point, NumberPoint)
        and point.attributes == (("store.name", "A"), ("store.type", "memory"))
    }
    assert measured == {
        "store.size": 5,
        "store.entries": 1,
        "store.evictions": 1,
        "store.evicted": 6,
        "store.max_size": 10,
    }


async def test_what_left_the_backend_is_forgotten_by_the_existence_cache(
    environment: Environment,
):
    stores = builder(
        """[{ name: "A", existence_cache: { backend: {
          memory: { eviction_policy: { max_count: 1 } } } } }]""",
        environment,
    )
    store = (await stores.named("A")).store
    await write_bytes(store, DIGEST, BLOB)
    assert await store.has([DIGEST]) == [len(BLOB)]
    await write_bytes(store, DigestFunction.SHA256.digest_of(b"other"), b"other")
    assert await store.has([DIGEST]) == [None]


async def test_operations_are_recorded_under_the_configured_label(environment: Environment):
    stores = builder(
        '[{ name: "A", cache_metrics: { cache_type: "ac", backend: { memory: {} } } }]',
        environment,
    )
    store = (await stores.named("A")).store
    await write_bytes(store, DIGEST, BLOB)
    await read_bytes(store, DIGEST)
    operations = {
        point.attributes: point.value
        for series in environment.registry.collect()
        if series.definition.name == "cache.operations"
        for point in series.points
        if isinstance(point, NumberPoint)
    }
    assert {
        (attributes[0][1], attributes[1][1], attributes[2][1]): value
        for attributes, value in operations.items()
    } == {("ac", "write", "success"): 1, ("ac", "read", "hit"): 1}


async def test_the_sides_of_all_fast_slow_stores_are_added_up(environment: Environment):
    spec = "fast_slow: { fast: { memory: {} }, slow: { memory: {} } }"
    stores = builder(f'[{{ name: "A", {spec} }}, {{ name: "B", {spec} }}]', environment)
    for name in ("A", "B"):
        store = (await stores.named(name)).store
        await write_bytes(store, DIGEST, BLOB)
        await read_bytes(store, DIGEST)
    tiers = {
        (series.definition.name, *(value for _, value in point.attributes)): point.value
        for series in environment.registry.collect()
        if series.definition.name.startswith("store.tier.")
        for point in series.points
        if isinstance(point, NumberPoint)
    }
    assert tiers["store.tier.operations", "fast", "hit"] == 2
    assert tiers["store.tier.operations", "slow", "hit"] == 0
    assert tiers["store.tier.io", "fast", "read"] == 2 * len(BLOB)
    assert tiers["store.tier.io", "slow", "write"] == 2 * len(BLOB)


async def test_a_side_that_keeps_nothing_is_not_brought_anything(environment: Environment):
    stores = builder(
        """[
          { name: "NOTHING", noop: {} },
          { name: "A", fast_slow: {
            fast: { ref_store: { name: "NOTHING" } }, slow: { memory: {} } } },
        ]""",
        environment,
    )
    store = (await stores.named("A")).store
    await write_bytes(store, DIGEST, BLOB)
    assert await read_bytes(store, DIGEST) == BLOB
    written = {
        point.attributes: point.value
        for series in environment.registry.collect()
        if series.definition.name == "store.tier.io"
        for point in series.points
        if isinstance(point, NumberPoint)
    }
    assert written[("store.tier", "fast"), ("store.direction", "write")] == 0


@pytest.mark.parametrize(
    "backend",
    [
        "{ memory: { eviction_policy: { max_count: 1 } } }",
        """{ size_partitioning: { size: 100, upper_store: { noop: {} },
             lower_store: { memory: { eviction_policy: { max_count: 1 } } } } }""",
        """{ fast_slow: { fast: { memory: {} },
             slow: { memory: { eviction_policy: { max_count: 1 } } } } }""",
        """{ fast_slow: { fast: { memory: { eviction_policy: { max_count: 1 } } },
             slow_direction: "read_only", slow: { memory: {} } } }""",
    ],
    ids=["memory", "one side that does not say", "slow side", "fast side alone"],
)
async def test_an_existence_cache_hears_what_its_backend_loses(
    environment: Environment, backend: str
):
    stores = builder(f'[{{ name: "CAS", existence_cache: {{ backend: {backend} }} }}]', environment)
    store = (await stores.named("CAS")).store
    other = b"another blob"
    await write_bytes(store, DIGEST, BLOB)
    await write_bytes(store, DigestFunction.SHA256.digest_of(other), other)
    assert await store.has([DIGEST]) == [None]


async def test_a_grpc_store_reaches_its_upstream_with_what_the_file_says(
    environment: Environment,
):
    ac = DictStore()
    async with serving(DictStore(), ac) as upstream:
        stores = builder(
            f"""[
              {{ name: "CAS", grpc: {{
                instance_name: "{INSTANCE}",
                endpoints: [{{ address: "grpc://{upstream.address}" }}],
                store_type: "cas",
                headers: {{ "x-team": "blue" }},
                rpc_timeout_s: 30,
                experimental_read_batching: {{ max_blob_size_bytes: 1 }},
              }} }},
              {{ name: "AC", grpc: {{
                instance_name: "{INSTANCE}",
                endpoints: [{{ address: "grpc://{upstream.address}" }}],
                store_type: "ac",
              }} }},
            ]""",
            environment,
        )
        await stores.build_all()
        cas = (await stores.named("CAS")).store
        await write_bytes(cas, DIGEST, BLOB)
        assert await read_bytes(cas, DIGEST) == BLOB
        assert upstream.calls == ["GetCapabilities", "Write", "Read"]
        assert upstream.contexts[-1].header(b"x-team") == b"blue"
        assert upstream.contexts[-1].deadline is not None
        await write_bytes((await stores.named("AC")).store, DIGEST, b"")
        assert ac.blobs == {DIGEST: b""}
        results = await environment.health.results(timeout_s=60)
        assert [(each.namespace, each.health) for each in results] == [
            ("/nativelink/stores/CAS/GrpcCasStore", Health.OK),
            ("/nativelink/stores/AC/GrpcAcStore", Health.OK),
        ]
        await environment.lifetimes.aclose()
    figures = {metric.definition.name for metric in environment.registry.collect()}
    assert {"connection.pool.available", "connection.pool.acquisitions"} <= figures


async def test_a_grpc_store_whose_upstream_is_down_is_not_well(environment: Environment):
    stores = builder(
        """[{ name: "CAS", grpc: {
          endpoints: [{ address: "grpc://127.0.0.1:1" }], store_type: "cas"
        } }]""",
        environment,
    )
    await stores.build_all()
    (result,) = await environment.health.results(timeout_s=60)
    assert result.health is Health.FAILED
    assert result.message.startswith("UNAVAILABLE: cannot connect to 127.0.0.1:1: ")
    await environment.lifetimes.aclose()


async def test_tls_files_of_an_upstream_that_cannot_be_used_are_named(environment: Environment):
    stores = builder(
        """[{ name: "CAS", verify: { backend: { grpc: {
          endpoints: [{ address: "grpcs://x:1", tls_config: { ca_file: "/absent.pem" } }],
          store_type: "cas",
        } } } }]""",
        environment,
    )
    with pytest.raises(NativeLinkError, match="stores/CAS/backend: tls_config: ca_file /absent"):
        await stores.build_all()


@pytest.mark.parametrize(
    ("cas", "seconds"),
    [
        ("memory: {}", 60),
        ("memory: { eviction_policy: { max_seconds: 100 } }", 25),
        ("redis_store: { addresses: ['redis://localhost'], key_ttl_s: 40 }", 10),
        ("fast_slow: { fast: { memory: {} }, slow: { ref_store: { name: 'BUCKET' } } }", 5),
        ("shard: { stores: [ { store: { ref_store: { name: 'BUCKET' } } } ] }", 5),
        ("grpc: { endpoints: [{ address: 'grpc://localhost' }], store_type: 'cas' }", 60),
    ],
)
def test_a_complete_result_is_remembered_for_less_than_anything_lives(cas: str, seconds: float):
    bucket = """{ name: "BUCKET", experimental_cloud_object_store: {
      provider: "aws", region: "r", bucket: "b", consider_expired_after_s: 20 } }"""
    text = f"{{ stores: [{{ name: 'CAS', {cas} }}, {bucket}], servers: [] }}"
    config = Config.model_validate(json5.loads(text))
    specs = {named.name: named.spec for named in config.stores}
    assert remembered_s(specs["CAS"], specs) == seconds


async def result_of_blob(ac: Store) -> Digest:
    """The action of a result that needs `DIGEST`."""
    stdout = remote_execution_pb2.Digest(hash=DIGEST.hash, size_bytes=DIGEST.size_bytes)
    action = DigestFunction.SHA256.digest_of(b"the action")
    result = remote_execution_pb2.ActionResult(stdout_digest=stdout)
    await write_bytes(ac, action, result.SerializeToString())
    return action


async def test_a_part_that_is_evicted_makes_its_result_incomplete(environment: Environment):
    stores = builder(
        """[
          { name: "AC", completeness_checking: {
            backend: { memory: {} }, cas_store: { ref_store: { name: "CAS" } } } },
          { name: "CAS", verify: {
            backend: { memory: { eviction_policy: { max_count: 1 } } } } },
        ]""",
        environment,
    )
    ac, cas = (await stores.named("AC")).store, (await stores.named("CAS")).store
    await write_bytes(cas, DIGEST, BLOB)
    action = await result_of_blob(ac)
    assert await ac.has([action]) != [None]
    await write_bytes(cas, DigestFunction.SHA256.digest_of(b"other"), b"other")
    assert await ac.has([action]) == [None]


async def test_a_part_that_a_client_of_the_cas_misses_makes_its_result_incomplete(
    environment: Environment,
):
    blobs = DictStore()
    blobs.blobs[DIGEST] = BLOB
    async with serving(blobs, DictStore()) as upstream:
        stores = builder(
            f"""[
              {{ name: "AC", completeness_checking: {{
                backend: {{ memory: {{}} }}, cas_store: {{ ref_store: {{ name: "CAS" }} }} }} }},
              {{ name: "CAS", grpc: {{
                instance_name: "{INSTANCE}",
                endpoints: [{{ address: "grpc://{upstream.address}" }}],
                store_type: "cas",
              }} }},
            ]""",
            environment,
        )
        ac, cas = (await stores.named("AC")).store, (await stores.named("CAS")).store
        action = await result_of_blob(ac)
        assert await ac.has([action]) != [None]
        # The upstream lets it go and tells nobody: what was complete a moment ago still counts.
        del blobs.blobs[DIGEST]
        assert await ac.has([action]) != [None]
        assert await cas.has([DIGEST]) == [None]
        assert await ac.has([action]) == [None]
        checks = {
            point.attributes[1][1]: point.value
            for series in environment.registry.collect()
            if series.definition.name == "store.completeness.checks"
            for point in series.points
            if isinstance(point, NumberPoint)
        }
        assert checks == {"remembered": 1, "checked": 2, "revoked": 1}
        await environment.lifetimes.aclose()
