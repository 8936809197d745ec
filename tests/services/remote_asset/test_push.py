"""The Push service: what it takes, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.services.remote_asset.push import PushInstance, PushService
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import DictStore, FakeClock

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
X, Y = SHA256.digest_of(b"x"), SHA256.digest_of(b"y")
URI, OTHER = "https://a.org/x", "urn:x"


def sri(data: bytes) -> pb.Qualifier:
    value = "sha256-" + base64.b64encode(hashlib.sha256(data).digest()).decode()
    return pb.Qualifier(name="checksum.sri", value=value)


class Server:
    """A service with a CAS that it knows, one without, and a read-only one."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cas = DictStore()
        self.cas.blobs = {X: b"x"}
        self.store = DictStore()
        self.index = AssetIndex(self.store, clock=self.clock)
        self._caller = Caller(
            PushService(
                {
                    "main": PushInstance(self.index, cas=self.cas),
                    "blind": PushInstance(self.index),
                    "fixed": PushInstance(self.index, read_only=True),
                }
            ).methods()
        )

    async def push(self, digest: Digest | None = X, instance: str = "main", **fields: Any) -> None:
        request = pb.PushBlobRequest(
            instance_name=instance,
            blob_digest=None if digest is None else digest_message(digest),
            **{"uris": [URI], **fields},
        )
        await self._caller.unary("PushBlob", request, pb.PushBlobResponse)

    async def push_directory(self, digest: Digest = X, **fields: Any) -> None:
        request = pb.PushDirectoryRequest(
            instance_name="main", root_directory_digest=digest_message(digest), **fields
        )
        await self._caller.unary("PushDirectory", request, pb.PushDirectoryResponse)

    async def refused(self, **fields: Any) -> NativeLinkError:
        with pytest.raises(NativeLinkError) as raised:
            await self.push(**fields)
        assert self.store.blobs == {}
        return raised.value


@pytest.fixture
def server() -> Server:
    return Server()


async def test_a_blob_is_known_under_every_uri_with_everything_that_was_said(
    server: Server,
) -> None:
    server.cas.blobs[Y] = b"y"
    expires = timestamp_pb2.Timestamp(seconds=2_000_000_000)

    await server.push(
        uris=[URI, OTHER],
        qualifiers=[sri(b"x"), pb.Qualifier(name="a", value="1")],
        expire_at=expires,
        references_blobs=[digest_message(X)],
        references_directories=[digest_message(Y)],
        digest_function=SHA256.name,
    )

    qualifiers = (("checksum.sri", sri(b"x").value), ("a", "1"))
    for uri in (URI, OTHER):
        (asset,) = await server.index.find(Kind.BLOB, uri, [qualifiers])
        assert (asset.digest, asset.function, asset.expires_at) == (X, SHA256, expires)
        assert (asset.references_blobs, asset.references_directories) == ((X,), (Y,))
        assert asset.content_time == server.clock.time()


async def test_a_directory_is_no_blob(server: Server) -> None:
    await server.push_directory(uris=[URI])

    assert await server.index.find(Kind.BLOB, URI, [()]) == []
    (asset,) = await server.index.find(Kind.DIRECTORY, URI, [()])
    assert asset == Asset(URI, (), X, content_time=server.clock.time())


async def test_a_later_push_replaces_an_earlier_one(server: Server) -> None:
    await server.push(qualifiers=[pb.Qualifier(name="a", value="1")])
    server.cas.blobs[Y] = b"y"
    server.clock.advance(1)
    await server.push(Y, qualifiers=[pb.Qualifier(name="a", value="1")])

    (asset,) = await server.index.find(Kind.BLOB, URI, [(("a", "1"),)])
    assert asset.digest == Y


async def test_what_is_not_in_the_cas_cannot_be_pushed(server: Server) -> None:
    failure = await server.refused(digest=Y)

    assert failure.code is Code.FAILED_PRECONDITION
    assert failure.details == (MissingBlob(Y),)


@pytest.mark.parametrize("field", ["references_blobs", "references_directories"])
async def test_nor_can_what_refers_to_something_that_is_not(server: Server, field: str) -> None:
    failure = await server.refused(**{field: [digest_message(Y)]})

    assert failure.code is Code.FAILED_PRECONDITION
    assert failure.details == (MissingBlob(Y),)


async def test_missing_blobs_are_named_with_their_function(server: Server) -> None:
    digest = BLAKE3.digest_of(b"y")

    failure = await server.refused(digest=digest, digest_function=BLAKE3.name)

    assert failure.details == (MissingBlob(digest, "blake3/"),)


async def test_a_server_without_a_cas_believes_its_clients(server: Server) -> None:
    await server.push(Y, "blind")

    (asset,) = await server.index.find(Kind.BLOB, URI, [()])
    assert asset.digest == Y


async def test_a_checksum_that_the_digest_contradicts_is_refused(server: Server) -> None:
    failure = await server.refused(qualifiers=[sri(b"y")])

    assert failure.code is Code.INVALID_ARGUMENT
    assert str(X) in failure.message


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"instance": "fixed"}, Code.PERMISSION_DENIED),
        ({"instance": "none"}, Code.NOT_FOUND),
        ({"uris": []}, Code.INVALID_ARGUMENT),
        ({"uris": [""]}, Code.INVALID_ARGUMENT),
        ({"digest": None}, Code.INVALID_ARGUMENT),
        ({"digest": Digest("x" * 64, 1)}, Code.INVALID_ARGUMENT),
        ({"digest_function": "MD5"}, Code.INVALID_ARGUMENT),
        ({"references_blobs": [reapi.Digest(hash="x")]}, Code.INVALID_ARGUMENT),
        ({"qualifiers": [pb.Qualifier(name="checksum.sri", value="x")]}, Code.INVALID_ARGUMENT),
        ({"qualifiers": [pb.Qualifier(value="x")]}, Code.INVALID_ARGUMENT),
    ],
)
async def test_what_is_wrong_is_refused(server: Server, fields: dict[str, Any], code: Code) -> None:
    assert (await server.refused(**fields)).code is code


async def test_what_buildstream_asks_first_is_answered_as_it_expects(server: Server) -> None:
    # It pushes nothing at all to find out whether it may push.
    failure = await server.refused(digest=None, uris=[])

    assert failure.code is Code.INVALID_ARGUMENT
