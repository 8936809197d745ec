"""The Fetch service: what it finds, what it has downloaded, and how it says that it could not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, not_found
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.proto.google.protobuf import duration_pb2, timestamp_pb2
from nativelink.services.remote_asset.downloads import Downloads
from nativelink.services.remote_asset.fetch import FetchInstance, FetchService
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.services.remote_asset.qualifiers import Headers
from nativelink.services.request_metadata import HEADER
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import DictStore, FakeClock

SHA256, BLAKE3 = DigestFunction.SHA256, DigestFunction.BLAKE3
X, Y = SHA256.digest_of(b"x"), SHA256.digest_of(b"y")
URI, OTHER = "https://a.org/x", "https://b.org/x"


def sri(data: bytes) -> tuple[str, str]:
    return "checksum.sri", "sha256-" + base64.b64encode(hashlib.sha256(data).digest()).decode()


class Origin:
    """A web with one page."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Headers]] = []

    async def read(self, uri: str, headers: Headers, sink: Sink, /) -> None:
        self.asked.append((uri, headers))
        if uri != URI:
            raise not_found(f"{uri}: the origin answered 404")
        await sink.write(b"x")


class Server:
    """A service with an instance that downloads, and others that do not."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.cas = DictStore()
        self.cas.blobs = {X: b"x", Y: b"y"}
        self.index = AssetIndex(DictStore(), clock=self.clock)
        self.origin = Origin()
        self.results: list[tuple[str, str]] = []
        self.downloads = Downloads(
            self.origin, self.cas, index=self.index, clock=self.clock, folder=folder
        )
        self._methods = (
            FetchService(
                {
                    "": FetchInstance(self.index, self.cas),
                    "blind": FetchInstance(self.index),
                    "web": FetchInstance(self.index, self.cas, self.downloads),
                },
                clock=self.clock,
                recorder=self,
            )
        ).methods()
        self._caller = Caller(self._methods)

    def asked_by(self, tool: str, version: str) -> None:
        """Let the calls from now on be those of a client."""
        details = reapi.ToolDetails(tool_name=tool, tool_version=version)
        metadata = reapi.RequestMetadata(tool_details=details).SerializeToString()
        self._caller = Caller(self._methods, [(HEADER, base64.b64encode(metadata))])

    def fetched(self, kind: str, result: str, /) -> None:
        self.results.append((kind, result))

    async def push(
        self, digest: Digest = X, uri: str = URI, kind: Kind = Kind.BLOB, **fields: Any
    ) -> None:
        qualifiers = fields.pop("qualifiers", ())
        await self.index.store(kind, [Asset(uri, qualifiers, digest, **fields)])

    async def fetch(
        self,
        *qualifiers: tuple[str, str],
        uris: Sequence[str] = (URI,),
        instance: str = "",
        **fields: Any,
    ) -> pb.FetchBlobResponse:
        request = pb.FetchBlobRequest(
            instance_name=instance,
            uris=uris,
            qualifiers=[pb.Qualifier(name=name, value=value) for name, value in qualifiers],
            **fields,
        )
        return await self._caller.unary("FetchBlob", request, pb.FetchBlobResponse)

    async def digest(self, *qualifiers: tuple[str, str], **fields: Any) -> Digest | None:
        """What is found; None if nothing is."""
        response = await self.fetch(*qualifiers, **fields)
        if response.status.code == Code.NOT_FOUND:
            assert not response.HasField("blob_digest")
            return None
        assert response.status.code == Code.OK
        return Digest(response.blob_digest.hash, response.blob_digest.size_bytes)

    async def fetch_directory(self, **fields: Any) -> pb.FetchDirectoryResponse:
        request = pb.FetchDirectoryRequest(**{"uris": [URI], **fields})
        return await self._caller.unary("FetchDirectory", request, pb.FetchDirectoryResponse)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    async with server.downloads:
        yield server


class TestWhatWasPushed:
    async def test_it_is_found_with_what_is_known_of_it(self, server: Server) -> None:
        expires = timestamp_pb2.Timestamp(seconds=2_000_000_000)
        await server.push(qualifiers=(("b", "2"), ("a", "1")), expires_at=expires, function=SHA256)

        response = await server.fetch(("a", "1"), ("b", "2"))

        assert response.HasField("status")
        assert response == pb.FetchBlobResponse(
            status=response.status,
            uri=URI,
            qualifiers=[pb.Qualifier(name="a", value="1"), pb.Qualifier(name="b", value="2")],
            expires_at=expires,
            blob_digest=digest_message(X),
            digest_function=SHA256.name,
        )
        assert (response.status.code, response.status.message) == (0, "")
        assert server.results == [("blob", "known")]

    async def test_the_first_uri_that_is_known_counts(self, server: Server) -> None:
        await server.push(Y, OTHER)

        response = await server.fetch(uris=["urn:unknown", OTHER])

        assert response.uri == OTHER
        await server.push(X, "urn:unknown")
        assert await server.digest(uris=["urn:unknown", OTHER]) == X

    async def test_all_qualifiers_must_be_the_same(self, server: Server) -> None:
        await server.push(qualifiers=(("a", "1"),))

        assert await server.digest() is None
        assert await server.digest(("a", "2")) is None
        assert await server.digest(("a", "1"), ("b", "2")) is None
        assert await server.digest(("a", "1")) == X

    async def test_with_a_checksum_request_headers_make_no_difference(self, server: Server) -> None:
        header = ("http_header:Authorization", "Bearer secret")
        await server.push(qualifiers=(sri(b"x"),))
        await server.push(Y, OTHER)

        response = await server.fetch(header, sri(b"x"))
        assert response.blob_digest == digest_message(X)
        assert [each.name for each in response.qualifiers] == ["checksum.sri"]
        assert await server.digest(header, uris=[OTHER]) is None

    async def test_credentials_are_not_given_back(self, server: Server) -> None:
        header = ("http_header:Authorization", "Bearer secret")
        await server.push(qualifiers=(header,))

        response = await server.fetch(header)

        assert response.blob_digest == digest_message(X)
        assert list(response.qualifiers) == []

    async def test_it_ends_when_it_is_said_to(self, server: Server) -> None:
        expires = timestamp_pb2.Timestamp(seconds=int(server.clock.time()) + 10)
        await server.push(expires_at=expires)

        assert await server.digest() == X
        server.clock.advance(10)
        assert await server.digest() is None

    async def test_what_is_older_than_the_client_accepts_is_not_found(self, server: Server) -> None:
        pushed = int(server.clock.time())
        await server.push()
        server.clock.advance(100)

        for oldest, found in ((pushed, X), (pushed + 1, None)):
            accepted = timestamp_pb2.Timestamp(seconds=oldest)
            assert await server.digest(oldest_content_accepted=accepted) == found

    async def test_what_is_not_in_the_cas_any_more_is_not_named(self, server: Server) -> None:
        await server.push()
        del server.cas.blobs[X]

        assert await server.digest() is None
        # That instance knows of no CAS, and cannot tell.
        assert await server.digest(instance="blind") == X

    @pytest.mark.parametrize("kind", ["references_blobs", "references_directories"])
    async def test_what_it_needs_must_be_there_too(self, server: Server, kind: str) -> None:
        empty = SHA256.digest_of(b"")
        fields: dict[str, Any] = {kind: (empty, SHA256.digest_of(b"\x0a\x00"))}
        await server.push(**fields)
        assert await server.digest() is None
        server.cas.blobs[SHA256.digest_of(b"\x0a\x00")] = b"\x0a\x00"

        assert await server.digest() == (X if kind == "references_blobs" else None)

    async def test_a_blob_of_another_function_is_not_what_is_asked_for(
        self, server: Server
    ) -> None:
        blake = BLAKE3.digest_of(b"x")
        server.cas.blobs[blake] = b"x"
        await server.push(blake, function=BLAKE3)
        await server.push(X, OTHER)

        assert await server.digest() is None
        assert await server.digest(digest_function=BLAKE3.name) == blake
        # Nobody said which function: then it was the server's own.
        assert await server.digest(uris=[OTHER]) == X
        assert await server.digest(uris=[OTHER], digest_function=BLAKE3.name) is None

    async def test_contents_that_contradict_the_checksum_are_not_named(
        self, server: Server
    ) -> None:
        # Somebody wrote into the store behind the service's back.
        await server.push(Y, qualifiers=(sri(b"x"),))

        assert await server.digest(sri(b"x")) is None

    async def test_a_directory_is_found_with_all_that_is_in_it(self, server: Server) -> None:
        directory = reapi.Directory(files=[reapi.FileNode(name="f", digest=digest_message(X))])
        data = directory.SerializeToString()
        root = SHA256.digest_of(data)
        server.cas.blobs[root] = data
        await server.push(root, kind=Kind.DIRECTORY)

        response = await server.fetch_directory()
        assert response.status.code == Code.OK
        assert response.uri == URI
        assert response.root_directory_digest == digest_message(root)
        assert response.digest_function == SHA256.value
        assert await server.digest() is None

        del server.cas.blobs[X]
        assert (await server.fetch_directory()).status.code == Code.NOT_FOUND


class TestWhatIsUnknown:
    async def test_the_call_succeeds_and_says_so(self, server: Server) -> None:
        response = await server.fetch(("a", "1"), uris=[URI, OTHER])

        assert response.status.code == Code.NOT_FOUND
        assert response.status.message == (
            f"no blob is known here for {URI!r} and 1 more with exactly the qualifiers a, and this "
            "server downloads nothing"
        )
        assert response.uri == URI
        assert server.results == [("blob", "not_found")]
        directory = await server.fetch_directory()
        assert directory.status.code == Code.NOT_FOUND
        assert directory.status.message == f"no directory is known here for {URI!r}"
        assert not directory.HasField("root_directory_digest")

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"instance": "none"}, Code.NOT_FOUND),
            ({"uris": []}, Code.INVALID_ARGUMENT),
            ({"digest_function": "MD5"}, Code.INVALID_ARGUMENT),
            ({"timeout": duration_pb2.Duration(seconds=-1)}, Code.INVALID_ARGUMENT),
        ],
    )
    async def test_a_wrong_request_fails(
        self, server: Server, fields: dict[str, Any], code: Code
    ) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.fetch(**fields)
        assert raised.value.code is code


class TestDownloads:
    async def test_what_nobody_pushed_is_downloaded_once(self, server: Server) -> None:
        header = ("http_header:X", "1")
        server.cas.blobs.clear()

        response = await server.fetch(sri(b"x"), header, instance="web")
        again = await server.fetch(sri(b"x"), instance="web")

        assert response == again
        assert response.blob_digest == digest_message(X)
        assert server.cas.blobs == {X: b"x"}
        assert server.origin.asked == [(URI, (("X", "1"),))]
        assert server.results == [("blob", "downloaded"), ("blob", "known")]

    async def test_what_was_lost_is_downloaded_again(self, server: Server) -> None:
        await server.fetch(sri(b"x"), instance="web")
        del server.cas.blobs[X]

        assert await server.digest(sri(b"x"), instance="web") == X
        assert server.cas.blobs[X] == b"x"

    async def test_what_is_too_old_is_downloaded_again(self, server: Server) -> None:
        await server.fetch(sri(b"x"), instance="web")
        server.clock.advance(100)
        now = timestamp_pb2.Timestamp(seconds=int(server.clock.time()))

        for _ in range(2):
            await server.fetch(sri(b"x"), instance="web", oldest_content_accepted=now)
        assert len(server.origin.asked) == 2

    async def test_what_was_pushed_is_not(self, server: Server) -> None:
        await server.push(Y)

        assert await server.digest(instance="web") == Y
        assert server.origin.asked == []

    async def test_the_blob_has_the_function_that_was_asked_for(self, server: Server) -> None:
        response = await server.fetch(instance="web", digest_function=BLAKE3.name)

        assert response.digest_function == BLAKE3.value
        assert response.blob_digest == digest_message(BLAKE3.digest_of(b"x"))

    async def test_other_schemes_are_passed_over(self, server: Server) -> None:
        assert await server.digest(uris=["urn:x", URI], instance="web") == X
        assert await server.digest(uris=["urn:x", "ftp://a.org/x"], instance="web") is None
        assert [uri for uri, _ in server.origin.asked] == [URI]

    async def test_headers_are_of_the_uri_that_they_were_meant_for(self, server: Server) -> None:
        await server.fetch(("http_header_url:2:X", "2"), uris=["urn:x", OTHER, URI], instance="web")

        assert server.origin.asked == [(OTHER, ()), (URI, (("X", "2"),))]

    async def test_what_the_origin_refuses_is_told_in_the_answer(self, server: Server) -> None:
        response = await server.fetch(uris=[OTHER], instance="web")

        assert response.status.code == Code.NOT_FOUND
        assert response.status.message == f"{OTHER}: the origin answered 404"
        assert response.uri == OTHER

    async def test_contents_with_another_checksum_are_told_in_the_answer(
        self, server: Server
    ) -> None:
        response = await server.fetch(sri(b"other"), instance="web")

        assert response.status.code == Code.ABORTED
        assert not response.HasField("blob_digest")
        assert server.results == [("blob", "aborted")]

    @pytest.mark.parametrize("version", ["4.2.3- (@non-git)", "7.7.1", "8.1.9", "unknown", ""])
    async def test_bazel_that_reads_no_status_gets_an_error(
        self, server: Server, version: str
    ) -> None:
        server.asked_by("bazel", version)

        for checksum, uri, code in (
            (b"other", URI, Code.FAILED_PRECONDITION),
            (b"x", OTHER, Code.NOT_FOUND),
        ):
            with pytest.raises(NativeLinkError, match=uri) as raised:
                await server.fetch(sri(checksum), uris=[uri], instance="web")
            assert raised.value.code is code
        assert await server.digest(sri(b"x"), instance="web") == X

    @pytest.mark.parametrize(
        ("tool", "version"), [("bazel", "8.2.0"), ("bazel", "10.0.0-pre"), ("bst", "2.8.1")]
    )
    async def test_who_reads_the_status_finds_it_there(
        self, server: Server, tool: str, version: str
    ) -> None:
        server.asked_by(tool, version)

        response = await server.fetch(uris=[OTHER], instance="web")

        assert response.status.code == Code.NOT_FOUND

    async def test_qualifiers_that_nobody_could_vouch_for_are_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match=r"vcs\.commit") as raised:
            await server.fetch(("vcs.commit", "abc"), instance="web")
        assert raised.value.code is Code.INVALID_ARGUMENT

        await server.push(qualifiers=(("vcs.commit", "abc"),))
        assert await server.digest(("vcs.commit", "abc"), instance="web") == X
