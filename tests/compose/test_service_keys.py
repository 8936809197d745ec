"""What keys of stores, workers and services do, seen from outside of them."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.mongo import mongo_store
from nativelink.compose.schedulers import SchedulerBuilder
from nativelink.compose.stores import StoreBuilder
from nativelink.compose.system import open_system
from nativelink.config import Config
from nativelink.config.specs_remote import MongoSpec
from nativelink.config.specs_services import WorkerApiSpec
from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from nativelink.proto.google.bytestream import bytestream_pb2
from nativelink.scheduler.policy import Policy
from nativelink.stores.memory import MemoryStore
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from nativelink.stores.remote.redis_node import RedisNode
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.execution import Blobs, ExecutionClient, make_action
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import Endpoint
from tests.clients.certificates import Certificates, make_certificates
from tests.clients.front import Front
from tests.execution.farm import Json, Ports, farm_config, open_farm, worker_config
from tests.execution.gate import Gate, wait_for
from tests.stores.cloud.servers import KEY, REGION, SECRET, Moto, shared
from tests.stores.remote.redis_server import RedisServer, shared_redis

pytestmark = pytest.mark.slow

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


async def made(environment: Environment, **spec: Any) -> Any:
    """The store of a spec."""
    text = json.dumps({"stores": [{"name": "A", **spec}], "servers": []})
    stores = StoreBuilder(Config.model_validate(json5.loads(text)).stores, environment)
    return (await stores.named("A")).store


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Pieces:
    """A sink that notes how large its pieces are."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def write(self, chunk: Chunk, /) -> None:
        self.sizes.append(len(chunk))


@pytest.mark.parametrize(("size", "piece"), [(16_384, 2**19), (2**20, 2**20)])
async def test_a_file_is_read_in_pieces_of_the_read_buffer_or_of_512_kib(
    environment: Environment, tmp_path: Path, size: int, piece: int
):
    paths = {"content_path": str(tmp_path / "c"), "temp_path": str(tmp_path / "t")}
    # What is in memory anyway is given in smaller pieces.
    keys = {"read_buffer_size": size, "evict_page_cache": True}
    store = await made(environment, filesystem={**paths, **keys})
    data = bytes(3_000_000)
    digest = DigestFunction.SHA256.digest_of(data)
    await write_bytes(store, digest, data)
    pieces = Pieces()
    await store.get(digest, pieces)
    assert max(pieces.sizes) == piece
    assert sum(pieces.sizes) == len(data)


async def test_redis_times_out_as_the_keys_say(environment: Environment):
    with RedisServer() as server:
        store = await made(
            environment,
            redis_store={
                "addresses": [f"redis://127.0.0.1:{server.port}"],
                "command_timeout_ms": 200,
                "connection_timeout_ms": 100,
                "health_check_timeout_ms": 50,
                "retry": {"max_retries": 1, "delay": 0.01},
            },
        )
        await write_bytes(store, DIGEST, BLOB)
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(NativeLinkError, match=r"no answer for 0\.05 s"):
                await store.check()
            with pytest.raises(NativeLinkError, match=r"0\.[12] s") as caught:
                await store.has([DIGEST])
            assert caught.value.code is Code.UNAVAILABLE
        finally:
            server.process.send_signal(signal.SIGCONT)
        await environment.lifetimes.aclose()


async def test_redis_waits_for_a_connection_as_long_as_the_key_says(environment: Environment):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        store = await made(
            environment,
            redis_store={
                "addresses": [f"redis://127.0.0.1:{deaf.getsockname()[1]}"],
                "connection_timeout_ms": 100,
                "retry": {"max_retries": 1, "delay": 0.01},
            },
        )
        with pytest.raises(NativeLinkError, match=r"wait for a connection for 0\.1 s"):
            await store.has([DIGEST])
        await environment.lifetimes.aclose()


async def test_redis_is_read_and_written_in_chunks_of_the_size(environment: Environment):
    with RedisServer() as server:
        store = await made(
            environment,
            redis_store={
                "addresses": [f"redis://127.0.0.1:{server.port}"],
                "read_chunk_size": 10_000,
                "max_chunk_uploads_per_update": 2,
            },
        )
        data = bytes(range(250)) * 200
        digest = DigestFunction.SHA256.digest_of(data)
        await write_bytes(store, digest, data)
        assert await read_bytes(store, digest) == data
        with server.raw() as raw:
            calls = {
                name.removeprefix("cmdstat_"): figures["calls"]
                for name, figures in raw.info("commandstats").items()
            }
        assert calls["setrange"] == 5
        # Whole, perhaps asked for beyond its end, and looked at once before it was put in place.
        assert calls["getrange"] >= 5 + 1
        await environment.lifetimes.aclose()


@pytest.mark.parametrize("count", [1, 2])
async def test_redis_has_so_many_connections_for_so_many_commands(
    environment: Environment, count: int
):
    with RedisServer() as server:
        store = await made(
            environment,
            redis_store={
                "addresses": [f"redis://127.0.0.1:{server.port}"],
                "connection_pool_size": count,
                "max_client_permits": 40,
                "command_timeout_ms": 60_000,
            },
        )
        await write_bytes(store, DIGEST, BLOB)
        with server.raw() as raw:
            # Nobody is answered: commands gather.
            raw.client_pause(500, all=True)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(100):
                    tasks.create_task(store.has([DIGEST]))
                await asyncio.sleep(0)
            clients = [each for each in raw.client_list() if each["name"] == "nativelink"]
        assert len(clients) == count
        await environment.lifetimes.aclose()


@pytest.mark.parametrize("permits", [1, 3])
async def test_redis_is_asked_no_more_at_once_than_the_key_permits(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, permits: int
):
    asking = most = 0
    real = RedisNode.run_packed

    async def counted(self: RedisNode, packed: Any, count: int) -> list[Any]:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            return await real(self, packed, count)
        finally:
            asking -= 1

    monkeypatch.setattr(RedisNode, "run_packed", counted)
    address = f"redis://127.0.0.1:{shared_redis().port}"
    store = await made(
        environment, redis_store={"addresses": [address], "max_client_permits": permits}
    )
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(store.has([DIGEST]))
    assert most == permits
    await environment.lifetimes.aclose()


def test_mongo_is_asked_as_the_keys_say():
    spec = MongoSpec.model_validate(
        {
            "connection_string": "mongodb://127.0.0.1:1/?w=7",
            "database": "a-database",
            "cas_collection": "a-collection",
            "connection_timeout_ms": 123,
            "write_concern_w": "2",
            "write_concern_j": True,
            "write_concern_timeout_ms": 456,
        }
    )
    collection = mongo_store(spec).collection
    assert collection.full_name == "a-database.a-collection"
    # What the driver sends with every write.
    assert collection.write_concern.document == {"w": 2, "j": True, "wtimeout": 456}
    options = collection.database.client.options
    assert options.pool_options.connect_timeout == 0.123
    assert options.server_selection_timeout == 0.123


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


def uploaded(client: ExecutionClient, gate: Gate, salt: bytes) -> Any:
    blobs = Blobs()
    action = make_action(["sh", "-c", gate.script], blobs, salt=salt)
    client.upload(blobs)
    return action


def test_a_worker_runs_as_many_actions_as_it_says(tmp_path: Path):
    ports, gate = Ports.free(), Gate(tmp_path / "gate")
    config = farm_config(tmp_path, ports, worker={"max_inflight_tasks": 2})
    with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
        running = [client.execute(uploaded(client, gate, b"%d" % n)) for n in range(3)]
        gate.wait(2)
        # The third one is in the queue, and stays there.
        running[2].until(re_pb2.ExecutionStage.QUEUED)
        assert len(gate.arrived) == 2
        gate.open()
        for each in running:
            assert each.result().status.code == Code.OK
    assert len(gate.arrived) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_worker_fetches_as_many_inputs_at_once_as_the_key_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
):
    ports = Ports.free()
    fetching = most = 0
    real = GrpcCasStore.get

    async def counted(self: GrpcCasStore, key: Any, *arguments: Any, **keys: Any) -> None:
        nonlocal fetching, most
        fetching += 1
        most = max(most, fetching)
        await asyncio.sleep(0)
        try:
            await real(self, key, *arguments, **keys)
        finally:
            fetching -= 1

    inputs = {f"{n}": b"input %d" % n for n in range(12)}
    cache = {"max_concurrent_fetches": count, "cache_root": str(tmp_path / "worker/kept")}
    with (
        open_farm(tmp_path / "farm", farm_config(tmp_path / "farm", ports), ports) as farm,
        farm.client() as client,
    ):
        worker = worker_config(tmp_path / "worker", ports, worker={"directory_cache": cache})
        with open_farm(tmp_path / "worker", worker, ports):
            # What an action is made of comes first, and is none of its inputs.
            assert client.run("true").result.exit_code == 0
            monkeypatch.setattr(GrpcCasStore, "get", counted)
            assert client.run("cat", *inputs, inputs=inputs).result.exit_code == 0
            monkeypatch.undo()
    assert most == count


def test_a_worker_shows_its_certificate_to_its_scheduler(
    tmp_path: Path, certificates: Certificates
):
    ports = Ports.free()
    config = farm_config(tmp_path / "farm", ports)
    api = config["servers"][1]["listener"]["http"]
    api["tls"] = {
        "cert_file": str(certificates.server.certificate),
        "key_file": str(certificates.server.key),
        "client_ca_file": str(certificates.authority),
    }
    tls = {
        "ca_file": str(certificates.authority),
        "cert_file": str(certificates.client.certificate),
        "key_file": str(certificates.client.key),
    }
    endpoint = {"uri": f"grpcs://localhost:{ports.workers}", "tls_config": tls}
    with open_farm(tmp_path / "farm", config, ports) as farm, farm.client() as client:
        worker = worker_config(tmp_path / "worker", ports, worker={"worker_api_endpoint": endpoint})
        with open_farm(tmp_path / "worker", worker, ports):
            assert client.run("true").result.exit_code == 0


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (4, 2), (10, 5)])
async def test_dedup_fetches_half_of_so_many_chunks_at_once(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, count: int, at_once: int
):
    # The other half are those that the reader takes meanwhile.
    store = await made(
        environment,
        dedup={
            "index_store": {"memory": {}},
            "content_store": {"memory": {}},
            "min_size": 1_000,
            "normal_size": 4_000,
            "max_size": 8_000,
            "max_concurrent_fetch_per_get": count,
        },
    )
    data = random.Random(1).randbytes(100_000)
    digest = DigestFunction.SHA256.digest_of(data)
    await write_bytes(store, digest, data)
    fetching = most = 0
    real = MemoryStore.get

    async def counted(self: MemoryStore, *arguments: Any, **keys: Any) -> None:
        nonlocal fetching, most
        fetching += 1
        most = max(most, fetching)
        # Long enough for all others that may to begin.
        for _ in range(20):
            await asyncio.sleep(0)
        await real(self, *arguments, **keys)
        fetching -= 1

    monkeypatch.setattr(MemoryStore, "get", counted)
    assert await read_bytes(store, digest) == data
    assert most == at_once


def served(stores: list[Json], services: Json, **more: Any) -> Config:
    listener = {"http": {"socket_address": "127.0.0.1:0"}}
    servers = [{"listener": listener, "services": services}]
    return Config.model_validate(
        json.loads(json.dumps({"stores": stores, "servers": servers, **more}))
    )


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[str]:
    """The address of a server."""
    async with open_system(config, version="1", environ={}, clock=SystemClock()) as system:
        yield system.listeners[0].address


async def test_a_read_is_sent_in_messages_of_the_size_that_bytestream_says():
    data = bytes(300_000)
    digest = DigestFunction.SHA256.digest_of(data)
    bytestream = [{"instance_name": "a", "cas_store": "CAS", "max_bytes_per_stream": 10_000}]
    async with opened(served([{"name": "CAS", "memory": {}}], {"bytestream": bytestream})) as at:
        async with GrpcChannel([Endpoint(at)]) as way, GrpcCasStore(way, instance_name="a") as cas:
            await write_bytes(cas, digest, data)
        async with grpc.aio.insecure_channel(at) as channel:
            read = channel.unary_stream(
                "/google.bytestream.ByteStream/Read",
                request_serializer=bytestream_pb2.ReadRequest.SerializeToString,
                response_deserializer=bytestream_pb2.ReadResponse.FromString,
            )
            name = f"a/blobs/{digest.hash}/{digest.size_bytes}"
            answers = read(bytestream_pb2.ReadRequest(resource_name=name))
            sizes = [len(answer.data) async for answer in answers]
    assert max(sizes) == 10_000
    assert sum(sizes) == len(data)


@pytest.mark.parametrize(("kept_s", "committed"), [(3600, 10), (1, 0)])
async def test_an_upload_without_a_call_is_kept_as_long_as_bytestream_says(
    kept_s: int, committed: int
):
    digest = DigestFunction.SHA256.digest_of(b"0123456789abcdef")
    name = f"a/uploads/{uuid.uuid4()}/blobs/{digest.hash}/{digest.size_bytes}"
    services = {
        "bytestream": [
            {
                "instance_name": "a",
                "cas_store": "CAS",
                "persist_stream_on_disconnect_timeout_s": kept_s,
            }
        ]
    }
    async with (
        opened(served([{"name": "CAS", "memory": {}}], services)) as at,
        grpc.aio.insecure_channel(at) as channel,
    ):
        write = channel.stream_unary(
            "/google.bytestream.ByteStream/Write",
            request_serializer=bytestream_pb2.WriteRequest.SerializeToString,
            response_deserializer=bytestream_pb2.WriteResponse.FromString,
        )
        query = channel.unary_unary(
            "/google.bytestream.ByteStream/QueryWriteStatus",
            request_serializer=bytestream_pb2.QueryWriteStatusRequest.SerializeToString,
            response_deserializer=bytestream_pb2.QueryWriteStatusResponse.FromString,
        )

        async def committed_now() -> int:
            status = await query(bytestream_pb2.QueryWriteStatusRequest(resource_name=name))
            return int(status.committed_size)

        call = write()
        await call.write(bytestream_pb2.WriteRequest(resource_name=name, data=b"0123456789"))

        async def becomes(size: int) -> None:
            async with asyncio.timeout(30):
                # The server tells nobody; each question is a moment of its own.
                while await committed_now() != size:
                    pass

        await becomes(10)
        call.cancel()
        await becomes(committed)


async def test_the_status_page_waits_for_a_store_as_long_as_health_says(
    monkeypatch: pytest.MonkeyPatch,
):
    async def never(*_arguments: object) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(MemoryStore, "put", never)
    config = served([{"name": "CAS", "memory": {}}], {"health": {"timeout_seconds": 1}})
    async with opened(config) as at, httpx.AsyncClient(timeout=4) as client:
        shown = await client.get(f"http://{at}/status")
    assert shown.status_code == 503
    assert "Timeout" in shown.text


@pytest.mark.parametrize("size", [100, 5_000])
async def test_health_checks_write_blobs_of_the_size_that_global_says(size: int):
    config = served(
        [{"name": "CAS", "memory": {}}],
        {"health": {}},
        **{"global": {"default_digest_size_health_check": size}},
    )
    async with opened(config) as at, httpx.AsyncClient() as client:
        shown = await client.get(f"http://{at}/status")
    assert f"wrote and read {size} bytes" in shown.text.replace(",", "")


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_the_default_digest_function_is_what_a_request_without_one_means(
    function: DigestFunction,
):
    store = {"verify": {"verify_hash": True, "backend": {"memory": {}}}}
    config = served(
        [{"name": "CAS", **store}],
        {"cas": [{"instance_name": "a", "cas_store": "CAS"}]},
        **{"global": {"default_digest_hash_function": function.name.lower()}},
    )
    # 32 bytes of hash do not say whose they are, and older clients do not either.
    outcomes = {}
    async with opened(config) as at, grpc.aio.insecure_channel(at) as channel:
        update = channel.unary_unary(
            "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
            request_serializer=re_pb2.BatchUpdateBlobsRequest.SerializeToString,
            response_deserializer=re_pb2.BatchUpdateBlobsResponse.FromString,
        )
        for used in DigestFunction:
            digest = used.digest_of(BLOB)
            request = re_pb2.BatchUpdateBlobsRequest(instance_name="a")
            one = request.requests.add(data=BLOB)
            one.digest.hash, one.digest.size_bytes = digest.hash, digest.size_bytes
            answer = await update(request)
            outcomes[used] = answer.responses[0].status.code
    assert {used for used, code in outcomes.items() if code == Code.OK} == {function}


async def test_every_key_of_a_simple_scheduler_arrives_where_it_is_heeded(
    environment: Environment,
):
    spec = {
        "supported_platform_properties": {"cpu": "minimum", "os": "exact"},
        "retain_completed_for_s": 11,
        "client_action_timeout_s": 12,
        "worker_timeout_s": 13,
        "max_action_executing_timeout_s": 14,
        "unacknowledged_kill_timeout_s": 15,
        "max_job_retries": 16,
        "unschedulable_timeout_s": 17,
        "allocation_strategy": "most_recently_used",
        "worker_match_logging_interval_s": 18,
    }
    config = served([], {}, schedulers=[{"name": "S", "simple": spec}])
    seen: dict[str, Any] = {}

    def recorded(policy: Policy, **keys: Any) -> Any:
        seen.update(policy=policy, **keys)
        raise KeyError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nativelink.compose.schedulers.LocalScheduler", recorded)
        builder = SchedulerBuilder(
            config.schedulers or (),
            StoreBuilder(config.stores, environment),
            environment,
            worker_apis=[
                WorkerApiSpec(scheduler="S", kill_revoked_operations_interval_s=21),
                WorkerApiSpec(scheduler="S", kill_revoked_operations_interval_s=20),
                WorkerApiSpec(scheduler="other", disable_kill_revoked_operations=True),
            ],
        )
        with pytest.raises(KeyError, match="seen"):
            await builder.build_all()
    policy = seen["policy"]
    assert {name: kind.value for name, kind in policy.supported_properties.items()} == {
        "cpu": "minimum",
        "os": "exact",
    }
    assert policy.retain_completed_for_s == 11
    assert policy.client_action_timeout_s == 12
    assert policy.worker_timeout_s == 13
    assert policy.max_action_executing_timeout_s == 14
    assert policy.unacknowledged_kill_timeout_s == 15
    assert policy.max_job_retries == 16
    assert policy.unschedulable_timeout_s == 17
    assert policy.allocation.value == "most_recently_used"
    assert (policy.kill_revoked, policy.kill_interval_s) == (True, 20)
    assert seen["worker_match_logging_interval_s"] == 18


@pytest.mark.parametrize("spared", [False, True])
def test_an_action_that_nobody_waits_for_any_more_is_stopped_unless_the_worker_api_spares_it(
    tmp_path: Path, *, spared: bool
):
    ports, gate, end = Ports.free(), Gate(tmp_path / "gate"), tmp_path / "end"
    config = farm_config(tmp_path, ports, worker={})
    config["servers"][1]["services"]["worker_api"]["disable_kill_revoked_operations"] = spared
    blobs = Blobs()
    script = f"{gate.script}; echo whole > {end}"
    action = make_action(["sh", "-c", script], blobs)
    with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
        client.upload(blobs)
        running = client.execute(action).until(re_pb2.ExecutionStage.EXECUTING)
        gate.wait()
        (pid,) = gate.arrived
        client.cancel(running.name)
        if not spared:
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
        else:
            gate.open()
            wait_for(end.exists, "the end of the action")
    assert end.exists() is spared
