"""buildbox-casd as a client: a caching proxy in C++ in front of our server."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.testing.reapi import ReapiClient, digest_of
from tests import plain_http
from tests.clients.programs import CLIENT_TESTS, program, running, wait_until_ready
from tests.clients.server import RunningServer
from tests.execution.gate import wait_for
from tests.ports import free_port

pytestmark = CLIENT_TESTS

INSTANCE = "proxied"


@contextmanager
def proxying(
    server: RunningServer, folder: Path, instance: str, *options: str, proxied: str = ""
) -> Iterator[ReapiClient]:
    """A client of casd, which has an empty cache of its own and forwards to our server.

    Args:
        server: ours.
        folder: for its cache and its log.
        instance: of our server.
        options: more for its command line.
        proxied: its own instance that is asked.
    """
    casd = program("buildbox/buildbox-casd", tool="casd")
    port = free_port()
    remote = f"http://127.0.0.1:{server.port}"
    command = [
        casd,
        f"--cas-remote={remote}",
        f"--cas-instance={instance}",
        f"--ac-remote={remote}",
        f"--ac-instance={instance}",
        *options,
        f"--bind=127.0.0.1:{port}",
        folder / "cache",
    ]
    log = folder / "log"
    address = f"127.0.0.1:{port}"
    with (
        running(command, log) as process,
        ReapiClient(address, instance=proxied, timeout_s=120) as client,
    ):
        wait_until_ready(address, log, process=process)
        yield client


@pytest.fixture(scope="module")
def proxy(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReapiClient]:
    with proxying(server, tmp_path_factory.mktemp("casd"), INSTANCE) as client:
        yield client


@pytest.fixture
def direct(server: RunningServer) -> Iterator[ReapiClient]:
    """Our server without anything between."""
    with ReapiClient(f"127.0.0.1:{server.port}", instance=INSTANCE, timeout_s=120) as client:
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
    result = pb.ActionResult(
        output_files=[pb.OutputFile(path="out", digest=digest_of(output))], exit_code=3
    )
    up, down = digest_of(os.urandom(20)), digest_of(os.urandom(20))

    proxy.update_action_result(up, result)
    direct.update_action_result(down, result)

    assert direct.get_action_result(up).output_files == result.output_files
    assert proxy.get_action_result(down).exit_code == 3
    with pytest.raises(grpc.RpcError) as absent:
        proxy.get_action_result(digest_of(b"nobody's action"))
    assert absent.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_proxy_moves_large_blobs_in_chunks_and_cuts_them_where_we_do(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = [
        "--proxy-instance=p:small",
        "--enable-chunking-for-instance=p",
        "--local-server-instance=local",
    ]
    old = random.Random(9).randbytes(12_000_000)
    new = old[:5_000_000] + b"a small change" + old[5_000_000:]
    whole = random.Random(10).randbytes(9_000_000)

    def move(casd: ReapiClient, method: str, blob: bytes) -> list[int]:
        """Codes of what did not go well."""
        # Both messages are like those of REAPI's methods.
        request = pb.FindMissingBlobsRequest(instance_name="p", blob_digests=[digest_of(blob)])
        path = f"/build.buildgrid.LocalContentAddressableStorage/{method}"
        answer = casd.unary(path, request, pb.BatchUpdateBlobsResponse)
        return [entry.status.code for entry in answer.responses if entry.status.code]

    def calls(method: str) -> int:
        page = plain_http.get(f"http://127.0.0.1:{server.port}/metrics").text
        found = re.search(rf'_count{{[^}}]*rpc_method="{method}"[^}}]*code="0"}} (\d+)', page)
        return int(found[1]) if found else 0

    with ReapiClient(f"127.0.0.1:{server.port}", instance="small", timeout_s=120) as ours:
        folder = tmp_path_factory.mktemp("up")
        with proxying(server, folder, "small", *options, proxied="local") as up:
            for blob in (old, new):
                up.write(blob)
                assert move(up, "UploadMissingBlobs", blob) == []
        wait_for(lambda: calls("SpliceBlob") == 2, "both calls are counted")
        assert ours.read(digest_of(new)) == new
        # What the server has of these blobs are the lists that casd spliced them from.
        chunker = FastCdc2020(512 * 1024)
        for blob in (old, new):
            at = 0
            for digest in ours.split(digest_of(blob)).chunk_digests:
                assert digest.size_bytes == chunker.cut(memoryview(blob)[at:])
                at += digest.size_bytes
            assert at == len(blob)
        # This one it has to cut itself.
        ours.write(whole)

        splits = calls("SplitBlob")
        folder = tmp_path_factory.mktemp("down")
        with proxying(server, folder, "small", *options, proxied="local") as down:
            for blob in (new, whole):
                assert move(down, "FetchMissingBlobs", blob) == []
                assert down.read(digest_of(blob)) == blob
        wait_for(lambda: calls("SplitBlob") == splits + 2, "both calls are counted")
