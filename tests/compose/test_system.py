"""A whole system inside the test's own loop: listeners, pages, what is refused, what is closed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from concurrent import futures
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import json5
import pytest
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)

from nativelink.compose.stores import StoreBuilder
from nativelink.compose.system import System, open_system
from nativelink.config import Config
from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.grpc.health.v1 import health_pb2
from nativelink.testing.fakes import wait_until
from tests import plain_http
from tests.ports import free_port
from tests.transport.authority import Authority

CACHE = """
  cas: [{ instance_name: "a", cas_store: "CAS" }, { instance_name: "b/c", cas_store: "CAS" }],
  bytestream: [{ instance_name: "a", cas_store: "CAS" }],
  capabilities: [{ instance_name: "a" }],
  ac: [{ instance_name: "a", ac_store: "AC" }],
"""


def config(*servers: str, more: str = "") -> Config:
    stores = '{ name: "CAS", memory: {} }, { name: "AC", memory: {} }'
    text = f"{{ stores: [{stores}], servers: [{', '.join(servers)}], {more} }}"
    return Config.model_validate(json5.loads(text))


def server(services: str, *, address: str = "127.0.0.1:0", more: str = "") -> str:
    return (
        f'{{ listener: {{ http: {{ socket_address: "{address}" }} }}, '
        f"services: {{ {services} }}, {more} }}"
    )


@asynccontextmanager
async def opened(config: Config, **environ: str) -> AsyncIterator[System]:
    async with open_system(config, version="1.2.3", environ=environ, clock=SystemClock()) as system:
        yield system


async def capabilities(address: str, *metadata: tuple[str, str]) -> pb.ServerCapabilities:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
            request_serializer=pb.GetCapabilitiesRequest.SerializeToString,
            response_deserializer=pb.ServerCapabilities.FromString,
        )
        answer = await call(pb.GetCapabilitiesRequest(instance_name="a"), metadata=metadata)
    assert isinstance(answer, pb.ServerCapabilities)
    return answer


async def page(address: str, path: str) -> httpx.Response:
    async with plain_http.async_client() as client:
        return await client.get(f"http://{address}{path}")


async def test_a_listener_says_what_it_serves():
    async with opened(config(server(CACHE + "health: {}"))) as system:
        (listener,) = system.listeners
        assert listener.services == ("cas", "ac", "capabilities", "bytestream")
        assert listener.instances == ("a",)
        assert listener.pages == ("/status", "/metrics")
        assert listener.url == f"grpc://{listener.address}"
        assert (await capabilities(listener.address)).cache_capabilities.digest_functions
        assert [leaf.path for leaf in system.leaves] == ["CAS", "AC"]


async def test_several_servers_share_the_stores_and_know_of_each_other():
    named = [
        '{ name: "one", ' + server(CACHE + "admin: {}")[1:],
        '{ name: "two", ' + server("health: {}")[1:],
    ]
    async with opened(config(*named)) as system:
        one, two = system.listeners
        assert (one.name, two.name) == ("one", "two")
        report = (await page(one.address, "/admin")).json()
        assert set(report["servers"]) == {"one", "two"}
        assert set(report["stores"]) == {"CAS", "AC"}
        assert report["version"] == "1.2.3"
        # Nothing tells about itself where no page was asked for.
        assert (await page(two.address, "/admin")).status_code == 404


async def test_pages_are_where_the_configuration_says():
    services = 'health: { path: "/healthy" }, admin: { path: "/boss" }'
    async with opened(config(server(services))) as system:
        address = system.listeners[0].address
        assert (await page(address, "/healthy")).status_code == 200
        assert (await page(address, "/boss")).status_code == 200
        assert (await page(address, "/status")).status_code == 404
        assert "/healthy" in (await page(address, "/")).text


async def test_a_listener_without_pages_shows_no_metrics():
    async with opened(config(server(CACHE))) as system:
        address = system.listeners[0].address
        assert (await page(address, "/metrics")).status_code == 404
        assert (await page(address, "/")).status_code == 200


async def test_prometheus_may_have_a_listener_of_its_own():
    metrics = 'global: { metrics: { prometheus: { listen_address: "127.0.0.1:0" } } }'
    async with opened(config(server(CACHE), more=metrics)) as system:
        cache, prometheus = system.listeners
        await capabilities(cache.address)
        text = (await page(prometheus.address, "/metrics")).text
        assert 'rpc_method="GetCapabilities",rpc_grpc_status_code="0"} 1' in text
        assert prometheus.url.startswith("http://")


async def test_connections_that_fail_are_counted_by_their_fault():
    async with opened(config(server("health: {}"))) as system:
        address = system.listeners[0].address
        reader, writer = await asyncio.open_connection(*address.split(":"))
        # A connection preface, and a frame of stream 0 that belongs on another (RFC 9113 6.2).
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\1\4\0\0\0\0")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        text = (await page(address, "/metrics")).text
        assert (
            'nativelink_connection_server_failed_total{server="0",reason="PROTOCOL_ERROR"} 1'
            in text
        )


async def test_prometheus_learns_when_the_certificate_of_a_listener_expires(tmp_path: Path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = f"""{{
      name: "secure",
      listener: {{ http: {{
        socket_address: "127.0.0.1:0",
        tls: {{
          cert_file: "{certificate}", key_file: "{key}", client_ca_file: "{authority.file}",
          client_crl_file: "{authority.revoke()}",
        }},
      }} }},
      services: {{ {CACHE} }},
    }}"""
    async with opened(config(tls, server(f"{CACHE} health: {{}},"))) as system:
        lines = (await page(system.listeners[1].address, "/metrics")).text.splitlines()
    assert [line for line in lines if line.startswith("nativelink_tls_server_expiry_time_")] == [
        f'nativelink_tls_server_expiry_time_seconds{{server="secure",file="{file}"}} '
        f"{authority.end()}"
        for file in ("cert_file", "client_ca_file", "client_crl_file")
    ]


async def test_pages_tell_how_full_a_disk_is_and_each_store_has_its_line(tmp_path: Path):
    kept = f"filesystem: {{ content_path: '{tmp_path}/c', temp_path: '{tmp_path}/t' }}"
    text = f"""{{ stores: [{{ name: "CAS", {kept} }}, {{ name: "AC", memory: {{}} }}],
      servers: [{server(CACHE + "health: {}, admin: {}")}] }}"""
    async with opened(Config.model_validate(json5.loads(text))) as system:
        address = system.listeners[0].address
        metrics = (await page(address, "/metrics")).text
        (line,) = (
            line
            for line in metrics.splitlines()
            if line.startswith("nativelink_store_disk_available_bytes{")
        )
        assert 'store_name="CAS"' in line
        assert float(line.split()[-1]) > 0
        stores = (await page(address, "/admin")).json()["stores"]
        assert stores["CAS"]["disk"]["total_bytes"] > stores["CAS"]["disk"]["available_bytes"] > 0
        status = (await page(address, "/status")).text
        assert [
            json.loads(each.rstrip(",]").lstrip("["))["namespace"]
            for each in status.split("\n")
            if each
        ] == [
            "/nativelink/stores/CAS/FilesystemStore",
            "/nativelink/stores/AC/MemoryStore",
        ]


async def test_calls_are_not_counted_when_telemetry_is_disabled():
    async with opened(config(server(CACHE + "admin: {}")), OTEL_SDK_DISABLED="true") as system:
        address = system.listeners[0].address
        await capabilities(address)
        assert "rpc_server_duration" not in (await page(address, "/metrics")).text


async def test_a_listener_may_insist_on_an_identity_but_health_checks_need_none():
    insisting = server(CACHE, more="experimental_identity_header: { required: true }")
    async with opened(config(insisting)) as system:
        address = system.listeners[0].address
        assert await capabilities(address, ("baggage", "enduser.id=alice"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await capabilities(address)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        async with grpc.aio.insecure_channel(address) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            assert (await check(health_pb2.HealthCheckRequest())).status == 1


async def test_a_draining_server_says_so_to_those_who_watch_its_health():
    async with (
        opened(config(server(CACHE))) as system,
        grpc.aio.insecure_channel(system.listeners[0].address) as channel,
    ):
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await system.drain(10)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_call_that_does_not_finish_in_time_is_cut_off():
    async with (
        opened(config(server(CACHE))) as system,
        grpc.aio.insecure_channel(system.listeners[0].address) as channel,
    ):
        write = channel.stream_unary("/google.bytestream.ByteStream/Write")()
        await write.wait_for_connection()
        await wait_until(lambda: system.listeners[0].server.statistics().calls == 1)
        assert not await system.drain(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await write
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


class _Spans(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of traces."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(  # noqa: N802 - the service's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.names += [
            span.name
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_calls_are_traced_to_the_configured_collector():
    spans = _Spans()
    collector = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(spans, collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    tracing = f'global: {{ tracing: {{ otlp: {{ endpoint: "http://127.0.0.1:{port}" }} }} }}'
    try:
        async with opened(config(server(CACHE), more=tracing)) as system:
            await capabilities(system.listeners[0].address)
    finally:
        collector.stop(None).wait()
    assert spans.names == ["build.bazel.remote.execution.v2.Capabilities/GetCapabilities"]


async def test_when_the_system_is_left_its_ports_are_free():
    async with opened(config(server(CACHE), server(CACHE))) as system:
        ports = [int(each.address.rpartition(":")[2]) for each in system.listeners]
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


async def test_a_port_that_is_taken_is_said_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch,
):
    async with opened(config(server(CACHE))) as first:
        taken = first.listeners[0].address
        monkeypatch.setattr(StoreBuilder, "build_all", None)
        with pytest.raises(NativeLinkError) as refused:
            async with opened(config(server(CACHE), server(CACHE, address=taken))):
                pass
        assert refused.value.code is Code.UNAVAILABLE
        assert refused.value.message == (
            f"servers/1: cannot listen on {taken}: another program listens there already; stop "
            "it, or choose another address"
        )


async def test_a_port_that_is_taken_meanwhile_closes_what_was_opened_before():
    port = free_port()
    wanted = f"127.0.0.1:{port}"
    with pytest.raises(NativeLinkError, match=f"servers/1: cannot listen on {wanted}: "):
        async with opened(config(server(CACHE, address=wanted), server(CACHE, address=wanted))):
            pass
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("services", "message"),
    [
        (
            'cas: [{ cas_store: "NONE" }]',
            "servers/0: services/cas/(no name): there is no store 'NONE'; the stores are: AC, CAS",
        ),
        (
            'ac: [{ instance_name: "a", ac_store: "AC" }, { instance_name: "a", ac_store: "AC" }]',
            "servers/0: services/ac/a: the instance stands there twice",
        ),
    ],
)
async def test_what_a_service_cannot_serve_is_said_with_its_place(services: str, message: str):
    with pytest.raises(NativeLinkError) as refused:
        async with opened(config(server(services))):
            pass
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("message_bytes", "batch_bytes"),
    [(1024**2, 1024**2 - 64 * 1024), (64 * 1024, 32 * 1024), (100, 50), (2**30, 2**22 - 64 * 1024)],
)
async def test_the_batch_limit_fits_the_listeners_messages(message_bytes: int, batch_bytes: int):
    small = server(CACHE).replace(
        '"127.0.0.1:0"', f'"127.0.0.1:0", max_decoding_message_size: {message_bytes}'
    )
    async with opened(config(small)) as system:
        answer = await capabilities(system.listeners[0].address)
    assert answer.cache_capabilities.max_batch_total_size_bytes == batch_bytes


async def test_the_status_page_is_a_503_when_a_store_fails(monkeypatch: pytest.MonkeyPatch):
    async with opened(config(server("health: {}"))) as system:

        async def broken(*_args: object) -> int:
            raise NativeLinkError(Code.UNAVAILABLE, "no more memory")

        monkeypatch.setattr("nativelink.stores.memory.MemoryStore.put", broken)
        response = await page(system.listeners[0].address, "/status")
        assert response.status_code == 503
        assert json.loads(response.text)[0]["status"]["Failed"]["message"] == (
            "UNAVAILABLE: no more memory"
        )
