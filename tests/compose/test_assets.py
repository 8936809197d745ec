"""Remote Asset services as a configuration composes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import json5
import pytest

from nativelink.compose.assets import asset_methods
from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import FakeClock, wait_until
from tests.services.archives.making import Entry, tar
from tests.transport.http_client.site import Site, answer, open_site

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)
DOWNLOADS = "downloads: { allowed_hosts: ['127.0.0.1:*'], connect_timeout_s: 1, retry: {} }"

WITHOUT_CA = DOWNLOADS[:-1] + ", ca_file: '/absent.pem' }"


class Server:
    """The methods of one listener, and its stores."""

    def __init__(self, stores: StoreBuilder, caller: Caller) -> None:
        self._stores = stores
        self._caller = caller

    async def put(self, store: str) -> None:
        await write_bytes((await self._stores.named(store)).store, DIGEST, BLOB)

    async def push(self, **fields: Any) -> None:
        request = pb.PushBlobRequest(
            blob_digest=digest_message(DIGEST), **{"uris": ["urn:x"], **fields}
        )
        await self._caller.unary("PushBlob", request, pb.PushBlobResponse)

    async def fetch(self, **fields: Any) -> pb.FetchBlobResponse:
        request = pb.FetchBlobRequest(**{"uris": ["urn:x"], **fields})
        return await self._caller.unary("FetchBlob", request, pb.FetchBlobResponse)

    async def fetch_directory(self, **fields: Any) -> pb.FetchDirectoryResponse:
        request = pb.FetchDirectoryRequest(**{"uris": ["urn:x"], **fields})
        return await self._caller.unary("FetchDirectory", request, pb.FetchDirectoryResponse)


async def open_server(environment: Environment, services: str) -> Server:
    text = f"""{{
      stores: [{{ name: 'CAS', memory: {{}} }}, {{ name: 'OTHER', memory: {{}} }},
               {{ name: 'ASSETS', memory: {{}} }}],
      servers: [{{ listener: {{ http: {{ socket_address: '127.0.0.1:0' }} }},
                   services: {{ {services} }} }}],
    }}"""
    config = Config.model_validate(json5.loads(text))
    stores = StoreBuilder(config.stores, environment)
    methods = await asset_methods(config.servers[0].services, stores, environment)
    return Server(stores, Caller(methods))


async def test_what_is_pushed_is_fetched_from_the_cas_of_the_instance(
    environment: Environment,
) -> None:
    server = await open_server(
        environment,
        """cas: [{ cas_store: 'OTHER', instance_name: 'other' }, { cas_store: 'CAS' }],
        fetch: [{ fetch_store: 'ASSETS' }], push: [{ push_store: 'ASSETS' }]""",
    )
    await server.put("OTHER")
    with pytest.raises(NativeLinkError) as raised:
        await server.push()
    assert raised.value.code is Code.FAILED_PRECONDITION

    await server.put("CAS")
    await server.push()

    assert (await server.fetch()).blob_digest == digest_message(DIGEST)


async def test_another_cas_can_be_named(environment: Environment) -> None:
    server = await open_server(
        environment,
        """cas: [{ cas_store: 'CAS' }],
        fetch: [{ fetch_store: 'ASSETS', cas_store: 'OTHER' }, { fetch_store: 'ASSETS',
                  instance_name: 'strict' , cas_store: 'CAS' }],
        push: [{ push_store: 'ASSETS', cas_store: 'OTHER' }]""",
    )
    await server.put("OTHER")
    await server.push()

    assert (await server.fetch()).status.code == Code.OK
    assert (await server.fetch(instance_name="strict")).status.code == Code.NOT_FOUND


async def test_without_a_cas_everything_is_believed(environment: Environment) -> None:
    server = await open_server(
        environment, "fetch: [{ fetch_store: 'ASSETS' }], push: [{ push_store: 'ASSETS' }]"
    )
    await server.push()

    found = (await server.fetch()).blob_digest
    assert Digest(found.hash, found.size_bytes) == DIGEST


async def test_a_read_only_instance_refuses_pushes(environment: Environment) -> None:
    server = await open_server(environment, "push: [{ push_store: 'ASSETS', read_only: true }]")

    with pytest.raises(NativeLinkError) as raised:
        await server.push()
    assert raised.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("downloads", "said"),
    [
        ("", "downloads nothing"),
        ("downloads: {}", "downloads nothing"),
        (DOWNLOADS, "only https"),
        (DOWNLOADS[:-1] + ", insecure_allow_http: true }", "not of the public internet"),
    ],
)
async def test_nothing_is_downloaded_that_is_not_allowed(
    environment: Environment, downloads: str, said: str
) -> None:
    server = await open_server(
        environment,
        f"cas: [{{ cas_store: 'CAS' }}], fetch: [{{ fetch_store: 'ASSETS', {downloads} }}]",
    )

    response = await server.fetch(uris=["http://127.0.0.1:9/x"])

    assert response.status.code in {Code.NOT_FOUND, Code.PERMISSION_DENIED}
    assert said in response.status.message


@pytest.mark.parametrize(
    ("services", "said"),
    [
        (f"fetch: [{{ fetch_store: 'ASSETS', {DOWNLOADS} }}]", "downloads need a CAS"),
        ("fetch: [{ fetch_store: 'NONE' }]", "services/fetch/(no name): there is no store 'NONE'"),
        (
            "push: [{ push_store: 'ASSETS' }, { push_store: 'OTHER' }]",
            "services/push/(no name): the instance stands there twice",
        ),
        (
            f"fetch: [{{ fetch_store: 'ASSETS', cas_store: 'CAS', {WITHOUT_CA} }}]",
            "services/fetch/(no name): downloads: ca_file",
        ),
    ],
)
async def test_what_cannot_work_does_not_start(
    environment: Environment, services: str, said: str
) -> None:
    with pytest.raises(NativeLinkError) as raised:
        await open_server(environment, services)
    assert said in raised.value.message
    assert raised.value.code is Code.INVALID_ARGUMENT


class Web:
    """A server that may download from a site of the test.

    Args:
        environment: what it is made with.
        site: where it may download from.
        keys: further keys of `downloads`.
    """

    def __init__(self, environment: Environment, site: Site, keys: str) -> None:
        self._environment = environment
        self._site = site
        self._services = f"""cas: [{{ cas_store: 'CAS' }}], fetch: [{{ fetch_store: 'ASSETS',
          downloads: {{ allowed_hosts: ['127.0.0.1:*'], allowed_networks: ['127.0.0.0/8'],
                        insecure_allow_http: true, {keys} }} }}]"""
        self._server: Server | None = None

    async def code(self, *, directory: bool = False, **fields: Any) -> Code:
        """What becomes of a fetch."""
        if self._server is None:
            self._server = await open_server(self._environment, self._services)
        fetch = self._server.fetch_directory if directory else self._server.fetch
        response = await fetch(uris=[self._site.url("/x")], **fields)
        return Code(response.status.code)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as running:
        running.pages["/x"] = answer(BLOB)
        yield running


async def test_a_download_says_who_asks(environment: Environment, site: Site) -> None:
    assert await Web(environment, site, "").code() is Code.OK
    assert site.asked[0].headers["user-agent"] == "nativelink/1.2.3"


@pytest.mark.parametrize(("size", "code"), [(6, Code.OK), (5, Code.RESOURCE_EXHAUSTED)])
async def test_the_size_is_limited(
    environment: Environment, site: Site, size: int, code: Code
) -> None:
    assert await Web(environment, site, f"max_size_bytes: {size}").code() is code


@pytest.mark.parametrize(("retries", "code"), [(1, Code.UNAVAILABLE), (2, Code.OK)])
async def test_tries_are_counted(
    environment: Environment, site: Site, retries: int, code: Code
) -> None:
    busy = answer(b"", "503 Service Unavailable")
    site.pages["/x"] = [busy, busy, answer(BLOB)]

    web = Web(environment, site, f"retry: {{ max_retries: {retries}, delay: 0.001 }}")

    assert await web.code() is code


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ("", Code.OK),
        ("max_unpacked_bytes: 1000", Code.RESOURCE_EXHAUSTED),
        ("max_unpacked_entries: 1", Code.RESOURCE_EXHAUSTED),
    ],
)
async def test_an_archive_becomes_a_directory_within_limits(
    environment: Environment, site: Site, keys: str, code: Code
) -> None:
    site.pages["/x"] = answer(tar(Entry("d/f", BLOB)))
    web = Web(environment, site, keys)

    assert await web.code(directory=True) is code


async def test_what_has_no_checksum_is_reused_for_a_while(
    environment: Environment, site: Site
) -> None:
    web = Web(environment, site, "reuse_unverified_s: 60")
    clock = environment.clock
    assert isinstance(clock, FakeClock)

    asked = []
    for _ in range(3):
        assert await web.code() is Code.OK
        asked.append(len(site.asked))
        clock.advance(31)

    assert asked == [1, 1, 2]


async def test_what_does_not_fit_into_memory_goes_to_the_named_directory(
    environment: Environment, site: Site, tmp_path: Path
) -> None:
    site.pages["/x"] = answer(bytes(600_000))

    assert await Web(environment, site, f"temp_path: '{tmp_path}'").code() is Code.OK
    with pytest.raises(NativeLinkError, match="no room"):
        await Web(environment, site, f"temp_path: '{tmp_path}/absent'").code()


async def test_so_many_are_downloaded_at_a_time(environment: Environment, site: Site) -> None:
    waiting, may_go = 0, asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        waiting += 1
        await may_go.wait()
        await answer(BLOB)(writer)

    site.pages["/x"] = slow
    # Half of them from one host.
    web = Web(environment, site, "max_concurrent: 4")
    assert isinstance(environment.clock, FakeClock)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(web.code())
        await wait_until(lambda: waiting == 1)
        others = []
        for _ in range(2):
            # Who asks for newer contents than a download under way brings does not join it.
            environment.clock.advance(1)
            now = timestamp_pb2.Timestamp(seconds=int(environment.clock.time()))
            others.append(group.create_task(web.code(oldest_content_accepted=now)))
            await wait_until(lambda: waiting == 2)
        await asyncio.sleep(0)
        assert waiting == 2
        may_go.set()

    assert [first.result(), *(each.result() for each in others)] == [Code.OK] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ("timeout_s: 1", Code.DEADLINE_EXCEEDED),
        ("idle_timeout_s: 1, retry: { max_retries: 0 }", Code.UNAVAILABLE),
    ],
)
async def test_time_is_limited(environment: Environment, site: Site, keys: str, code: Code) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await wait_until(writer.transport.is_closing)

    site.pages["/x"] = silent

    assert await Web(environment, site, keys).code() is code
