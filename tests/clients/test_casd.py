"""buildbox-casd as a client: a caching proxy in C++ in front of our server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.reapi import ReapiClient, digest_of
from tests.clients.programs import CLIENT_TESTS, program, running, wait_until_ready
from tests.clients.server import RunningServer, free_ports

pytestmark = CLIENT_TESTS

INSTANCE = "proxied"


@pytest.fixture(scope="module")
def proxy(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReapiClient]:
    """A client of casd, which has an empty cache of its own and forwards to our server."""
    casd = program("buildbox/buildbox-casd", tool="casd")
    folder: Path = tmp_path_factory.mktemp("casd")
    port = free_ports(1)[0]
    remote = f"http://127.0.0.1:{server.port}"
    command = [
        casd,
        f"--cas-remote={remote}",
        f"--cas-instance={INSTANCE}",
        f"--ac-remote={remote}",
        f"--ac-instance={INSTANCE}",
        f"--bind=127.0.0.1:{port}",
        folder / "cache",
    ]
    log = folder / "log"
    address = f"127.0.0.1:{port}"
    with running(command, log) as process, ReapiClient(address, timeout_s=30) as client:
        wait_until_ready(address, log, process=process)
        yield client


@pytest.fixture
def direct(server: RunningServer) -> Iterator[ReapiClient]:
    """Our server without anything between."""
    with ReapiClient(f"127.0.0.1:{server.port}", instance=INSTANCE, timeout_s=30) as client:
        yield client


@pytest.mark.parametrize("size", [1, 5000, 3_000_000, 20_000_000])
def test_what_the_proxy_is_given_reaches_the_server(
    proxy: ReapiClient, direct: ReapiClient, size: int
) -> None:
    blob = os.urandom(size)

    proxy.write(blob)

    assert direct.find_missing([digest_of(blob)]) == []
    assert direct.read(digest_of(blob)) == blob


@pytest.mark.parametrize("size", [1, 5000, 3_000_000, 20_000_000])
def test_the_proxy_fetches_what_it_lacks_from_the_server(
    proxy: ReapiClient, direct: ReapiClient, size: int
) -> None:
    blob = os.urandom(size)
    direct.write(blob)

    assert proxy.read(digest_of(blob)) == blob


def test_the_proxy_asks_the_server_in_batches(proxy: ReapiClient, direct: ReapiClient) -> None:
    blobs = [os.urandom(3000) for _ in range(200)]
    known = blobs[::2]
    direct.batch_update(known)

    missing = proxy.find_missing([digest_of(blob) for blob in blobs])

    assert {digest.hash for digest in missing} == {digest_of(blob).hash for blob in blobs[1::2]}
    assert [entry.status.code for entry in proxy.batch_update(blobs).responses] == [0] * 200
    assert direct.find_missing([digest_of(blob) for blob in blobs]) == []
    answer = proxy.batch_read([digest_of(blob) for blob in blobs])
    assert {entry.data for entry in answer.responses} == set(blobs)


def test_action_results_pass_the_proxy_both_ways(proxy: ReapiClient, direct: ReapiClient) -> None:
    output = os.urandom(500)
    direct.batch_update([output])
    result = re.ActionResult(
        output_files=[re.OutputFile(path="out", digest=digest_of(output))], exit_code=3
    )
    up, down = digest_of(os.urandom(20)), digest_of(os.urandom(20))

    proxy.update_action_result(up, result)
    direct.update_action_result(down, result)

    assert direct.get_action_result(up).output_files == result.output_files
    assert proxy.get_action_result(down).exit_code == 3
    with pytest.raises(grpc.RpcError) as absent:
        proxy.get_action_result(digest_of(b"nobody's action"))
    assert absent.value.code() == grpc.StatusCode.NOT_FOUND
