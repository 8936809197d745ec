"""Remote Asset services as a configuration composes them."""

from __future__ import annotations

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
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import Caller, digest_message

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
