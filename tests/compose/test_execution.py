"""What a configuration with schedulers serves, looked at from outside."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from nativelink.core.digest import DigestFunction
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.testing.calls import digest_message
from tests import plain_http
from tests.compose.test_system import capabilities, config, opened, server

SCHEDULERS = """schedulers: [
  { name: "MAIN", property_modifier: {
      modifications: [{ remove: "debug" }],
      scheduler: { cache_lookup: { ac_store: "AC", scheduler: {
        simple: { supported_platform_properties: { cpu_count: "minimum" } } } } } } },
]"""
EXECUTION = """
  cas: [{ instance_name: "a", cas_store: "CAS" }],
  execution: [{ instance_name: "a", cas_store: "CAS", scheduler: "MAIN" }],
  capabilities: [{ instance_name: "a", remote_execution: { scheduler: "MAIN" } }],
  worker_api: { scheduler: "MAIN" }, admin: {},
"""


async def upload(channel: grpc.aio.Channel, *blobs: bytes) -> None:
    call: Any = channel.unary_unary(
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
        request_serializer=pb.BatchUpdateBlobsRequest.SerializeToString,
        response_deserializer=pb.BatchUpdateBlobsResponse.FromString,
    )
    entry = pb.BatchUpdateBlobsRequest.Request
    digest_of = DigestFunction.SHA256.digest_of
    requests = [entry(digest=digest_message(digest_of(blob)), data=blob) for blob in blobs]
    await call(pb.BatchUpdateBlobsRequest(instance_name="a", requests=requests))


async def test_a_scheduler_is_announced_served_measured_and_administered() -> None:
    digest_of = DigestFunction.SHA256.digest_of
    command = pb.Command(arguments=["true"]).SerializeToString()
    action = pb.Action(
        command_digest=digest_message(digest_of(command)),
        input_root_digest=digest_message(digest_of(b"")),
    ).SerializeToString()
    async with opened(config(server(EXECUTION), more=SCHEDULERS)) as system:
        address = system.listeners[0].address
        announced = (await capabilities(address)).execution_capabilities
        assert announced.exec_enabled
        known = ["mtime", "unix_mode", "cpu_count", "debug"]
        assert list(announced.supported_node_properties) == known
        async with (
            grpc.aio.insecure_channel(address) as channel,
            plain_http.async_client(base_url=f"http://{address}") as client,
        ):
            await upload(channel, command, action)
            execute: Any = channel.unary_stream(
                "/build.bazel.remote.execution.v2.Execution/Execute",
                request_serializer=pb.ExecuteRequest.SerializeToString,
                response_deserializer=operations_pb2.Operation.FromString,
            )
            stream = execute(
                pb.ExecuteRequest(
                    instance_name="a", action_digest=digest_message(digest_of(action))
                )
            )
            first = await stream.read()
            assert first.name.startswith("a/")
            shown = (await client.get("/admin/operations")).json()
            assert [each["name"] for each in shown["MAIN"]] == [first.name]
            assert (await client.get("/admin/workers")).json() == {"MAIN": []}
            page = (await client.get("/metrics")).text
            stream.cancel()
    assert 'nativelink_execution_active_count{execution_stage="queued"} 1' in page
    assert "nativelink_worker_active_count" in page
    assert "nativelink_scheduler_queue_length" in page


@pytest.mark.parametrize("path", ["/admin/workers", "/admin/operations"])
async def test_a_cache_alone_has_no_farm(path: str) -> None:
    async with (
        opened(config(server("admin: {}"))) as system,
        plain_http.async_client() as client,
    ):
        address = system.listeners[0].address
        assert (await client.get(f"http://{address}{path}")).status_code == 404
