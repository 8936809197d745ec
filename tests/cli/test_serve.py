"""`nativelink CONFIG.json5` as a process: start, pages, signals, refusals."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import socket
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import nativelink
from nativelink.cli.serve import raise_open_files
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.bytestream import bytestream_pb2
from tests import plain_http
from tests.cli.servers import MEMORY, Running, command, running
from tests.execution.gate import wait_for
from tests.ports import free_port

CAS = "/build.bazel.remote.execution.v2.ContentAddressableStorage"
ALL_IN_ONE = Path(nativelink.__file__).parent / "configs" / "all_in_one.json5"


@pytest.fixture
def memory_file(tmp_path: Path) -> Path:
    file = tmp_path / "memory.json5"
    file.write_text(MEMORY)
    return file


def digest(data: bytes) -> pb.Digest:
    return pb.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def update(channel: grpc.Channel, data: bytes, instance: str = "main") -> int:
    call = channel.unary_unary(
        f"{CAS}/BatchUpdateBlobs",
        request_serializer=pb.BatchUpdateBlobsRequest.SerializeToString,
        response_deserializer=pb.BatchUpdateBlobsResponse.FromString,
    )
    request = pb.BatchUpdateBlobsRequest(instance_name=instance)
    request.requests.add(digest=digest(data), data=data)
    return int(call(request).responses[0].status.code)


def read(channel: grpc.Channel, data: bytes, instance: str = "main") -> bytes:
    call = channel.unary_unary(
        f"{CAS}/BatchReadBlobs",
        request_serializer=pb.BatchReadBlobsRequest.SerializeToString,
        response_deserializer=pb.BatchReadBlobsResponse.FromString,
    )
    request = pb.BatchReadBlobsRequest(instance_name=instance, digests=[digest(data)])
    return bytes(call(request).responses[0].data)


def test_the_version_is_the_projects():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert nativelink.__version__ == project["project"]["version"]
    assert command("--version").stdout == f"nativelink {nativelink.__version__}\n"


@pytest.mark.slow
def test_help_names_the_file_and_the_commands():
    text = command("--help").stdout
    assert "CONFIG.json5" in text
    assert "config" in text


@pytest.mark.slow
def test_a_blob_and_every_page_are_served_until_ctrl_c(memory_file: Path):
    with running(memory_file) as server:
        with grpc.insecure_channel(server.address) as channel:
            assert update(channel, b"hello") == 0
            assert read(channel, b"hello") == b"hello"
        http = f"http://{server.address}"
        status = plain_http.get(f"{http}/status")
        assert status.status_code == 200
        assert [entry["namespace"] for entry in status.json()] == [
            "/nativelink/stores/CAS/MemoryStore",
            "/nativelink/stores/AC/MemoryStore",
        ]
        metrics = plain_http.get(f"{http}/metrics").text
        assert (
            'nativelink_rpc_server_duration_seconds_count{rpc_service="build.bazel.remote.'
            'execution.v2.ContentAddressableStorage",rpc_method="BatchReadBlobs",'
            'rpc_grpc_status_code="0"} 1\n'
        ) in metrics
        assert 'nativelink_store_entries{store_name="CAS",store_type="memory"} 2\n' in metrics
        assert f'nativelink_build_info{{version="{nativelink.__version__}"' in metrics
        admin = plain_http.get(f"{http}/admin").json()
        assert admin["stores"]["CAS"]["count"] == 2
        assert admin["servers"]["0"]["calls_total"] == 2
        assert "/metrics" in plain_http.get(f"{http}/").text
        assert plain_http.get(f"{http}/nothing").status_code == 404
        assert server.end(signal.SIGINT) == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))


@pytest.mark.slow
def test_the_banner_says_where_what_and_how(memory_file: Path):
    with running(memory_file) as server:
        assert server.end(signal.SIGTERM) == 0
    assert f"nativelink {nativelink.__version__}\n" in server.lines
    assert f"  grpc://{server.address}  cas, ac, capabilities, bytestream\n" in server.output
    assert f"  http://{server.address}  /status" in server.output
    assert "  CAS  at most 64 MB  in memory\n" in server.lines
    rc = [line.strip() for line in server.lines if line.startswith("  build ")]
    assert rc[:2] == [
        f"build --remote_cache=grpc://{server.address}",
        "build --remote_instance_name=main",
    ]
    assert len(rc) == 6


@pytest.mark.slow
def test_json_logs_are_json_and_nothing_else(memory_file: Path):
    with running(memory_file, until="listening on", NL_LOG="json") as server:
        assert server.end(signal.SIGINT) == 0
    lines = [json.loads(line) for line in server.lines]
    assert lines[0]["fields"]["message"].startswith("listening on grpc://127.0.0.1:")
    assert all({"timestamp", "level", "target", "fields"} == set(line) for line in lines)


def writing(server: Running, channel: grpc.Channel, requests: Iterator[Any]) -> Any:
    """A call of ByteStream's Write that has begun."""
    write = channel.stream_unary(
        "/google.bytestream.ByteStream/Write",
        request_serializer=bytestream_pb2.WriteRequest.SerializeToString,
        response_deserializer=bytestream_pb2.WriteResponse.FromString,
    )
    answer = write.future(requests)
    admin = f"http://{server.address}/admin"
    wait_for(lambda: plain_http.get(admin).json()["servers"]["0"]["calls"], "a call under way")
    return answer


@pytest.mark.slow
def test_ctrl_c_lets_an_upload_under_way_finish(memory_file: Path):
    data = b"x" * 100_000
    name = (
        f"main/uploads/11111111-1111-1111-1111-111111111111/blobs/{digest(data).hash}/{len(data)}"
    )
    go_on = threading.Event()

    def requests():
        yield bytestream_pb2.WriteRequest(resource_name=name, data=data[:50_000])
        assert go_on.wait(120)
        yield bytestream_pb2.WriteRequest(
            write_offset=50_000, data=data[50_000:], finish_write=True
        )

    with running(memory_file) as server, grpc.insecure_channel(server.address) as channel:
        answer = writing(server, channel, requests())
        server.process.send_signal(signal.SIGINT)
        server.wait_for("draining")
        go_on.set()
        assert answer.result(120).committed_size == len(data)
        assert server.join() == 0


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_nothing(memory_file: Path):
    blocked = threading.Event()

    def requests():
        yield bytestream_pb2.WriteRequest(
            resource_name=f"main/uploads/22222222-2222-2222-2222-222222222222/blobs/{'0' * 64}/10",
            data=b"x",
        )
        blocked.wait(120)

    with running(memory_file) as server, grpc.insecure_channel(server.address) as channel:
        answer = writing(server, channel, requests())
        server.process.send_signal(signal.SIGINT)
        server.wait_for("draining")
        assert server.end(signal.SIGINT) == 128 + signal.SIGINT
        blocked.set()
        with pytest.raises(grpc.RpcError):
            answer.result(120)


@pytest.mark.slow
def test_the_all_in_one_configuration_keeps_its_blobs_over_a_restart(tmp_path: Path):
    environ = {
        "XDG_CACHE_HOME": str(tmp_path),
        "NATIVELINK_ADDRESS": "127.0.0.1:0",
        "NATIVELINK_WORKER_API": f"127.0.0.1:{free_port()}",
    }
    for instance in ("main", ""):
        with running(ALL_IN_ONE, **environ) as server:
            with grpc.insecure_channel(server.address) as channel:
                if instance == "main":
                    assert update(channel, b"kept", instance) == 0
                assert read(channel, b"kept", instance) == b"kept"
            assert plain_http.get(f"http://{server.address}/status").status_code == 200
            for line in server.lines:
                if "/v8/artifacts" in line:
                    url, *paths = line.replace(",", "").split()
                    # Each says what it takes below it, and not that there is nothing.
                    answers = [plain_http.get(f"{url}{path}/%20") for path in paths]
                    assert [answer.status_code for answer in answers] == [400, 400, 404, 400]
            # Without TLS it starts, and serves, without the library that reads certificates.
            mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
            assert "uvloop" in mapped
            assert "cryptography" not in mapped
            assert server.end(signal.SIGINT) == 0
    assert (tmp_path / "nativelink" / "cas" / "content").is_dir()
    assert f"at most 10 GB  in {tmp_path}/nativelink/cas/content\n" in server.output


@pytest.mark.slow
def test_the_second_process_on_a_port_is_told_so_in_one_line(memory_file: Path, tmp_path: Path):
    with running(memory_file) as server:
        second = tmp_path / "second.json5"
        second.write_text(MEMORY.replace("127.0.0.1:0", server.address))
        refused = command(second)
        assert refused.returncode == 1
        assert refused.stderr == (
            f"nativelink: servers/0: cannot listen on {server.address}: another program listens "
            "there already; stop it, or choose another address\n"
        )
        assert server.end(signal.SIGINT) == 0


@pytest.mark.slow
def test_a_second_start_by_mistake_leaves_the_uploads_of_the_first_alone(
    memory_file: Path, tmp_path: Path
):
    upload = tmp_path / "temp" / "d" / "under-way"
    upload.parent.mkdir(parents=True)
    upload.write_text("half of it")
    with running(memory_file) as server:
        second = tmp_path / "second.json5"
        disk = f'filesystem: {{ content_path: "{tmp_path}/c", temp_path: "{tmp_path}/temp" }}'
        text = MEMORY.replace('memory: { eviction_policy: { max_bytes: "64mb" } }', disk)
        second.write_text(text.replace("127.0.0.1:0", server.address))
        assert command(second).returncode == 1
        assert server.end(signal.SIGINT) == 0
    assert upload.read_text() == "half of it"


@pytest.mark.slow
def test_a_store_that_does_not_work_is_told_in_one_line_at_the_start(tmp_path: Path):
    file = tmp_path / "config.json5"
    away = 'redis_store: { addresses: ["redis://127.0.0.1:1"] }'
    file.write_text(MEMORY.replace('memory: { eviction_policy: { max_bytes: "64mb" } }', away))
    with running(file, until="does not work", NL_LOG="compact") as server:
        assert server.end(signal.SIGINT) == 0
    (told,) = [line for line in server.lines if "does not work" in line]
    assert "WARN cli.serve: stores/CAS/RedisStore does not work: UNAVAILABLE: Redis at " in told
    assert told.endswith("; calls that need it fail until it does (/status)\n")


REFUSED = {
    """{ stores: [{ name: "A", redis_store: { addresses: ["redis://127.0.0.1:1"] } }],
       schedulers: [{ name: "M",
                      simple: { experimental_backend: { redis: { redis_store: "A" } } } }],
       servers: [{ listener: { http: { socket_address: "127.0.0.1:0" } },
                   services: { worker_api: { scheduler: "M" } } }] }""": (
        "schedulers/M/experimental_backend: a scheduler's state in Redis is not available"
    ),
    """{ stores: [{ name: "A", filesystem: {
         content_path: "/dev/null/content", temp_path: "/dev/null/temp" } }],
       servers: [{ listener: { http: { socket_address: "127.0.0.1:0" } }, services: {} }] }""": (
        "stores/A: "
    ),
    MEMORY.replace("127.0.0.1:0", "192.0.2.1:0"): (
        "servers/0: cannot listen on 192.0.2.1:0: this machine has no such address"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_started_is_said_without_a_traceback(text: str, tmp_path: Path):
    file = tmp_path / "config.json5"
    file.write_text(text)
    refused = command(file)
    assert refused.returncode == 1
    assert refused.stderr.startswith("nativelink: ")
    assert REFUSED[text] in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout


@pytest.mark.slow
def test_every_error_of_a_file_is_said_with_its_place(tmp_path: Path):
    file = tmp_path / "config.json5"
    file.write_text("{ stores: [],\n  servers: [],\n  storse: [],\n  wrokers: [] }")
    refused = command(file)
    assert refused.returncode == 1
    assert f"{file}:3:3: error: " in refused.stderr
    assert f"{file}:4:3: error: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    refused = command(tmp_path / "nothing.json5")
    assert refused.returncode == 1
    assert str(tmp_path / "nothing.json5") in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_the_limit_of_open_files_is_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch):
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, new: limits.__setitem__(0, new[0]))
    assert raise_open_files(2000) == 2000
    assert limits == [2000, 4096]
    assert raise_open_files(500) == 2000
    assert limits == [2000, 4096]
    assert raise_open_files(100_000) == 4096
    assert limits == [4096, 4096]
