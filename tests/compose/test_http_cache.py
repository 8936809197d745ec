"""The HTTP cache of a composed system, beside gRPC on the same port and stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import json5
import pytest

from nativelink.compose.system import open_system
from nativelink.config import Config
from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.testing.reapi import ReapiClient, digest_of
from tests import plain_http

T = TypeVar("T")
BLOB = b"one blob\n" * 1000
ACTION = pb.Action(command_digest=digest_of(BLOB)).SerializeToString()
HASH = DigestFunction.SHA256.digest_of(BLOB).hash
ACTION_HASH = DigestFunction.SHA256.digest_of(ACTION).hash
RESULT = pb.ActionResult(exit_code=5)
ALL = """
  cas: [{ instance_name: "a/b", cas_store: "CAS" }],
  bytestream: [{ instance_name: "a/b", cas_store: "CAS" }],
  capabilities: [{ instance_name: "a/b" }],
  ac: [{ instance_name: "a/b", ac_store: "AC" }],
  http_cache: [{ instance_name: "a/b" }],
"""
MEMORY = '{ name: "CAS", memory: {} }, { name: "AC", memory: {} }'


def disk(name: str) -> str:
    return (
        f'{{ filesystem: {{ content_path: "$ROOT/{name}", temp_path: "$ROOT/{name}-temp", '
        "eviction_policy: { max_count: 100 } } }"
    )


STORES = {
    "memory": MEMORY,
    "disk": f'{{ name: "CAS", {disk("c")[1:-1]} }}, {{ name: "AC", {disk("a")[1:-1]} }}',
    "as in all_in_one": f"""
      {{ name: "CAS", verify: {{ verify_size: true, verify_hash: true, backend: {{ fast_slow: {{
        fast: {{ size_partitioning: {{ size: 100, lower_store: {{ memory: {{}} }},
          upper_store: {{ noop: {{}} }} }} }},
        slow: {disk("c")} }} }} }} }},
      {{ name: "AC", completeness_checking: {{ cas_store: {{ ref_store: {{ name: "CAS" }} }},
        backend: {{ fast_slow: {{ fast: {{ memory: {{}} }}, slow: {disk("a")} }} }} }} }}""",
    "shards": """
      { name: "CAS", shard: { stores: [
        { store: { memory: {} }, weight: 1 }, { store: { memory: {} }, weight: 1 } ] } },
      { name: "AC", existence_cache: { backend: { cache_metrics: { cache_type: "ac",
        backend: { memory: {} } } } } }""",
    "made smaller": """
      { name: "CAS", compression: { compression_algorithm: { lz4: {} }, backend: { dedup: {
        index_store: { memory: {} }, content_store: { memory: {} } } } } },
      { name: "AC", memory: {} }""",
}


class Both:
    """One server by HTTP and by gRPC."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.http = plain_http.async_client(base_url=f"http://{address}")

    async def grpc(self, work: Callable[[ReapiClient], T]) -> T:
        def run() -> T:
            with ReapiClient(self._address, instance="a/b", timeout_s=120) as client:
                return work(client)

        return await asyncio.to_thread(run)


@asynccontextmanager
async def both(stores: str, services: str = ALL, more: str = "") -> AsyncIterator[Both]:
    text = (
        f"{{ stores: [{stores}], servers: [{{ listener: {{ http: "
        f'{{ socket_address: "127.0.0.1:0" }} }}, services: {{ {services} }}, {more} }}] }}'
    )
    config = Config.model_validate(json5.loads(text))
    async with open_system(config, version="1.2.3", environ={}, clock=SystemClock()) as system:
        it = Both(system.listeners[0].address)
        async with it.http:
            yield it


@pytest.fixture(params=STORES)
async def each(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Both]:
    async with both(STORES[request.param].replace("$ROOT", str(tmp_path))) as it:
        yield it


async def test_either_protocol_finds_blobs_of_the_other(each: Both) -> None:
    assert (await each.http.put(f"/a/b/cas/{HASH}", content=BLOB)).status_code == 200
    assert await each.grpc(lambda client: client.read(digest_of(BLOB))) == BLOB
    await each.grpc(lambda client: client.write(ACTION))
    assert (await each.http.get(f"/a/b/cas/{ACTION_HASH}")).content == ACTION


async def test_either_protocol_finds_results_of_the_other(each: Both) -> None:
    stored = RESULT.SerializeToString()
    await each.http.put(f"/a/b/cas/{ACTION_HASH}", content=ACTION)
    assert (await each.http.put(f"/a/b/ac/{ACTION_HASH}", content=stored)).status_code == 200
    assert await each.grpc(lambda it: it.get_action_result(digest_of(ACTION))) == RESULT
    other = pb.ActionResult(exit_code=6)
    await each.grpc(lambda it: it.update_action_result(digest_of(BLOB), other))
    assert (await each.http.get(f"/a/b/ac/{HASH}")).content == other.SerializeToString()


async def test_entries_that_are_no_results_are_kept_beside_them(each: Both) -> None:
    for path in (f"/a/b/ac/{'0' * 64}", "/a/b/cache/ccache/12/34"):
        assert (await each.http.put(path, content=b"\xff raw")).status_code == 200
        assert (await each.http.get(path)).content == b"\xff raw"
        assert (await each.http.head(path)).headers["content-length"] == "5"


async def test_wrong_bytes_are_refused_whatever_the_store_is(each: Both) -> None:
    assert (await each.http.put(f"/a/b/cas/{HASH}", content=b"other")).status_code == 400
    assert (await each.http.head(f"/a/b/cas/{HASH}")).status_code == 404


async def test_a_result_whose_outputs_are_gone_is_no_result_over_http(tmp_path: Path) -> None:
    lost = pb.ActionResult(output_files=[pb.OutputFile(path="x", digest=digest_of(BLOB))])
    async with both(STORES["as in all_in_one"].replace("$ROOT", str(tmp_path))) as it:
        await it.http.put(f"/a/b/cas/{ACTION_HASH}", content=ACTION)
        path = f"/a/b/ac/{ACTION_HASH}"
        assert (await it.http.put(path, content=lost.SerializeToString())).status_code == 200
        assert (await it.http.get(path)).status_code == 404
        await it.http.put(f"/a/b/cas/{HASH}", content=BLOB)
        assert (await it.http.get(path)).content == lost.SerializeToString()


async def test_blobs_survive_a_restart(tmp_path: Path) -> None:
    stores = STORES["disk"].replace("$ROOT", str(tmp_path))
    async with both(stores) as it:
        await it.http.put(f"/a/b/cas/{HASH}", content=BLOB)
        await it.http.put("/a/b/cache/x", content=b"raw")
    async with both(stores) as it:
        assert (await it.http.get(f"/a/b/cas/{HASH}-{len(BLOB)}")).content == BLOB
        assert (await it.http.get("/a/b/cache/x")).content == b"raw"


@pytest.mark.parametrize(
    ("services", "status"),
    [
        ('ac: [{ ac_store: "AC", read_only: true }], http_cache: [{}]', 403),
        ('ac: [{ ac_store: "AC", read_only: true }], http_cache: [{ read_only: false }]', 200),
        ('ac: [{ ac_store: "AC" }], http_cache: [{ read_only: true }]', 403),
        ('http_cache: [{ ac_store: "AC" }]', 200),
    ],
)
async def test_who_may_write_is_what_the_action_cache_says(services: str, status: int) -> None:
    async with both(MEMORY, services) as it:
        assert (await it.http.put("/cache/x", content=b"x")).status_code == status


async def test_there_is_no_cas_where_none_is_named() -> None:
    async with both(MEMORY, 'http_cache: [{ ac_store: "AC" }]') as it:
        assert (await it.http.put(f"/cas/{HASH}", content=BLOB)).status_code == 404
    async with both(MEMORY, 'http_cache: [{ ac_store: "AC", cas_store: "CAS" }]') as it:
        assert (await it.http.put(f"/cas/{HASH}", content=BLOB)).status_code == 200


async def test_the_landing_page_says_where_it_is() -> None:
    async with both(MEMORY) as it:
        assert "/a/b/cas/" in (await it.http.get("/")).text


async def test_requests_are_counted_by_what_came_of_them() -> None:
    async with both(MEMORY, 'http_cache: [{ ac_store: "AC" }], admin: {}') as it:
        await it.http.get("/cache/x")
        await it.http.put("/cache/x", content=b"x")
        for _ in range(2):
            await it.http.get("/cache/x")
        await it.http.get("/ac/no-hash")
        await it.http.request("BREW", "/cache/x")
        page = (await it.http.get("/metrics")).text
    counted = {
        tuple(re.findall(r'="([^"]*)"', line)): int(line.split()[-1])
        for line in page.splitlines()
        if line.startswith("nativelink_http_server_request_duration_seconds_count{")
    }
    assert counted == {
        ("/cache", "GET", "404"): 1,
        ("/cache", "PUT", "200"): 1,
        ("/cache", "GET", "200"): 2,
        ("/ac", "GET", "400"): 1,
        ("/cache", "_OTHER", "405"): 1,
    }


async def test_a_listener_that_asks_who_sends_asks_here_too() -> None:
    more = "experimental_identity_header: { required: true }"
    async with both(MEMORY, more=more) as it:
        assert (await it.http.get("/a/b/cache/x")).status_code == 400
        answer = await it.http.get("/a/b/cache/x", headers={"baggage": "enduser.id=me"})
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("services", "why"),
    [
        ("http_cache: [{}]", "no ac_store is named"),
        ('http_cache: [{ ac_store: "AC" }, { ac_store: "AC" }]', "twice"),
        ('http_cache: [{ ac_store: "NONE" }]', "no store 'NONE'"),
    ],
)
async def test_what_cannot_be_served_is_refused(services: str, why: str) -> None:
    with pytest.raises(NativeLinkError, match=why):
        async with both(MEMORY, services):
            pass
