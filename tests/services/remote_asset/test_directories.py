"""FetchDirectory of what nobody pushed: archives, and parts of directories."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, not_found, unavailable
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.proto.google.protobuf import duration_pb2, timestamp_pb2
from nativelink.services.archives.limits import ArchiveLimits
from nativelink.services.archives.tree import File, Symlink, Tree
from nativelink.services.archives.unpacker import Unpacker
from nativelink.services.aside import Aside
from nativelink.services.remote_asset import directories
from nativelink.services.remote_asset.directories import Directories, _tree_of
from nativelink.services.remote_asset.downloads import Downloads
from nativelink.services.remote_asset.fetch import FetchInstance, FetchService
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.services.remote_asset.qualifiers import Headers
from nativelink.testing.calls import Caller
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from tests.services.archives.making import SHA256, Entry, folder, link, tar, unpack, zipped

BLAKE3 = DigestFunction.BLAKE3
URI, MIRROR = "https://a.org/pkg.tar", "https://b.org/pkg.tar"
ENTRIES = (Entry("pkg/src/a", b"a"), Entry("pkg/src/b", b"b", 0o755), folder("pkg/none"))
ARCHIVE = tar(*ENTRIES)


def sri(data: bytes) -> tuple[str, str]:
    return "checksum.sri", "sha256-" + base64.b64encode(hashlib.sha256(data).digest()).decode()


class CountingUnpacker(Unpacker):
    """Waits for a gate, and counts.

    Attributes:
        begun: archives so far.
        gate: open unless a test closes it.
    """

    def __init__(self, cas: DictStore, folder: Path) -> None:
        super().__init__(cas, limits=ArchiveLimits(1_000_000, 100), folder=folder)
        self.begun = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def unpack(self, archive: Digest, function: DigestFunction) -> Digest | NativeLinkError:
        self.begun += 1
        await self.gate.wait()
        return await super().unpack(archive, function)


class Server:
    """A service that downloads from a web of one page."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.cas = DictStore()
        self.assets = DictStore()
        self.index = AssetIndex(self.assets, clock=self.clock)
        self.page = ARCHIVE
        self.asked: list[str] = []
        self.results: list[tuple[str, str]] = []
        self.downloads = Downloads(self, self.cas, index=self.index, clock=self.clock)
        self.unpacker = CountingUnpacker(self.cas, folder)
        self.directories = Directories(self.unpacker, index=self.index, clock=self.clock)
        instances = {
            "": FetchInstance(self.index, self.cas, self.downloads, self.directories),
            "plain": FetchInstance(self.index, self.cas),
        }
        service = FetchService(instances, clock=self.clock, recorder=self)
        self._caller = Caller(service.methods())

    async def read(self, uri: str, _headers: Headers, sink: Sink, /) -> None:
        self.asked.append(uri)
        if uri != URI:
            raise not_found(f"{uri}: the origin answered 404")
        await sink.write(self.page)

    def fetched(self, kind: str, result: str, /) -> None:
        self.results.append((kind, result))

    async def push(self, kind: Kind, digest: Digest, *qualifiers: tuple[str, str]) -> None:
        await self.index.store(kind, [Asset(URI, qualifiers, digest)])

    async def fetch(self, *qualifiers: tuple[str, str], **fields: Any) -> pb.FetchDirectoryResponse:
        request = pb.FetchDirectoryRequest(
            **{"uris": [URI], **fields},
            qualifiers=[pb.Qualifier(name=name, value=value) for name, value in qualifiers],
        )
        return await self._caller.unary("FetchDirectory", request, pb.FetchDirectoryResponse)

    async def root(self, *qualifiers: tuple[str, str], **fields: Any) -> Digest:
        response = await self.fetch(*qualifiers, **fields)
        assert response.status.code == Code.OK, response.status.message
        found = response.root_directory_digest
        return Digest(found.hash, found.size_bytes)

    async def code(self, *qualifiers: tuple[str, str], **fields: Any) -> Code:
        response = await self.fetch(*qualifiers, **fields)
        assert not response.HasField("root_directory_digest")
        return Code(response.status.code)

    def directory(self, digest: Digest) -> reapi.Directory:
        return reapi.Directory.FromString(self.cas.blobs[digest])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    async with server.downloads, server.directories:
        yield server


class TestArchives:
    async def test_one_is_downloaded_and_unpacked_once(self, server: Server) -> None:
        expected = (await unpack(ARCHIVE)).root

        response = await server.fetch(sri(ARCHIVE))
        again = await server.fetch(sri(ARCHIVE))

        assert response == again
        assert response.status.code == Code.OK
        assert response.uri == URI
        assert response.root_directory_digest.hash == expected.hash
        assert [each.name for each in response.qualifiers] == ["checksum.sri"]
        assert response.digest_function == SHA256.value
        assert server.asked == [URI]
        assert server.unpacker.begun == 1
        assert server.results == [("directory", "downloaded"), ("directory", "known")]

    async def test_the_checksum_is_the_archives(self, server: Server) -> None:
        assert await server.code(sri(b"other")) is Code.ABORTED
        assert server.unpacker.begun == 0

    async def test_one_that_was_pushed_is_not_downloaded(self, server: Server) -> None:
        archive = zipped(*ENTRIES)
        server.cas.blobs[SHA256.digest_of(archive)] = archive
        await server.push(Kind.BLOB, SHA256.digest_of(archive), ("vcs.commit", "1"))

        root = await server.root(("vcs.commit", "1"))

        assert root == (await unpack(ARCHIVE)).root
        assert server.asked == []
        assert server.results == [("directory", "unpacked")]

    async def test_without_a_checksum_the_origin_is_asked_each_time(self, server: Server) -> None:
        await server.root()
        server.page = tar(Entry("new", b"new"))

        root = await server.root()

        assert [file.name for file in server.directory(root).files] == ["new"]
        server.page = ARCHIVE
        await server.root()
        # What this archive is unpacked to is known from the first time.
        assert server.unpacker.begun == 2
        assert len(server.asked) == 3

    async def test_what_is_older_than_accepted_is_downloaded_again(self, server: Server) -> None:
        await server.root(sri(ARCHIVE))
        server.clock.advance(100)
        now = timestamp_pb2.Timestamp(seconds=int(server.clock.time()))

        await server.root(sri(ARCHIVE), oldest_content_accepted=now)

        assert len(server.asked) == 2
        assert server.unpacker.begun == 1

    async def test_what_the_cas_lost_is_unpacked_again(self, server: Server) -> None:
        root = await server.root(sri(ARCHIVE))
        del server.cas.blobs[SHA256.digest_of(b"a")]

        assert await server.root(sri(ARCHIVE)) == root

        assert server.cas.blobs[SHA256.digest_of(b"a")] == b"a"
        assert server.unpacker.begun == 2
        assert len(server.asked) == 1

    async def test_a_cas_that_keeps_nothing_is_this_servers_error(self, server: Server) -> None:
        class Losing(DictStore):
            async def put(self, key: Any, source: Any) -> int:
                size = await super().put(key, source)
                if size == 1:
                    del self.blobs[key]
                return size

        server.unpacker._cas = losing = Losing()
        losing.blobs = server.cas.blobs

        with pytest.raises(NativeLinkError, match="too small") as raised:
            await server.fetch(sri(ARCHIVE))
        assert raised.value.code is Code.RESOURCE_EXHAUSTED

    async def test_digests_are_of_the_function_that_is_asked_for(self, server: Server) -> None:
        await server.root(sri(ARCHIVE))

        root = await server.root(sri(ARCHIVE), digest_function=BLAKE3.name)

        assert root == BLAKE3.digest_of(server.cas.blobs[root])

    async def test_what_is_no_archive_is_told_in_the_answer(self, server: Server) -> None:
        server.page = b"<html>"

        response = await server.fetch()

        assert response.status.code == Code.ABORTED
        assert response.status.message == (
            f"the archive {SHA256.digest_of(b'<html>')} cannot be unpacked: it is neither a tar "
            "nor a zip"
        )
        assert server.results == [("directory", "aborted")]

    async def test_one_that_holds_too_much_is_told_in_the_answer(self, server: Server) -> None:
        server.page = tar(*(Entry(f"{n}") for n in range(101)))

        assert await server.code() is Code.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize(
        ("resource_type", "page", "code"),
        [
            ("application/zip", zipped(*ENTRIES), Code.OK),
            ("Application/ZIP; q=1", zipped(*ENTRIES), Code.OK),
            ("application/zip", ARCHIVE, Code.ABORTED),
            ("application/x-tar", ARCHIVE, Code.OK),
            ("application/gzip", zipped(*ENTRIES), Code.ABORTED),
            ("application/octet-stream", zipped(*ENTRIES), Code.OK),
        ],
    )
    async def test_it_must_be_of_the_type_that_is_asked_for(
        self, server: Server, resource_type: str, page: bytes, code: Code
    ) -> None:
        server.page = page

        response = await server.fetch(("resource_type", resource_type))

        assert response.status.code == code

    async def test_qualifiers_that_nobody_could_vouch_for_are_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match=r"vcs\.branch") as raised:
            await server.fetch(("vcs.branch", "main"))
        assert raised.value.code is Code.INVALID_ARGUMENT

    async def test_without_downloads_none_is_unpacked(self, server: Server) -> None:
        server.cas.blobs[SHA256.digest_of(ARCHIVE)] = ARCHIVE
        await server.push(Kind.BLOB, SHA256.digest_of(ARCHIVE))

        assert await server.code(instance_name="plain") is Code.NOT_FOUND

    async def test_a_client_cannot_say_what_an_archive_unpacks_to(self, server: Server) -> None:
        root = await server.root(sri(ARCHIVE))
        name = f"sha256:{SHA256.digest_of(ARCHIVE)}"
        for kind in (Kind.BLOB, Kind.DIRECTORY):
            asset = Asset(name, (), SHA256.digest_of(b""), SHA256)
            await server.index.store(kind, [asset])

        assert await server.root(sri(ARCHIVE)) == root


class TestParts:
    @pytest.mark.parametrize("path", ["pkg/src", "./pkg//src/"])
    async def test_a_part_is_a_directory_of_the_archive(self, server: Server, path: str) -> None:
        root = await server.root(sri(ARCHIVE), ("directory", path))

        files = server.directory(root).files
        assert [(file.name, file.is_executable) for file in files] == [("a", False), ("b", True)]
        response = await server.fetch(sri(ARCHIVE), ("directory", path))
        assert [each.name for each in response.qualifiers] == ["checksum.sri", "directory"]

    async def test_all_parts_of_one_are_unpacked_once(self, server: Server) -> None:
        whole = await server.root(sri(ARCHIVE))

        assert await server.root(sri(ARCHIVE), ("directory", "")) == whole
        assert await server.root(sri(ARCHIVE), ("directory", "pkg/none")) == SHA256.digest_of(b"")
        assert server.unpacker.begun == 1
        assert len(server.asked) == 1

    @pytest.mark.parametrize("path", ["absent", "pkg/src/a", "pkg/none/x"])
    async def test_one_that_is_not_there_is_told_in_the_answer(
        self, server: Server, path: str
    ) -> None:
        response = await server.fetch(("directory", path))

        assert response.status.code == Code.NOT_FOUND
        assert response.status.message == f"{URI} has no directory {path!r}"

    @pytest.mark.parametrize("path", ["/pkg", "..", "pkg/../pkg", "x" * 5000])
    async def test_a_path_that_leads_out_is_refused(self, server: Server, path: str) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.fetch(("directory", path))
        assert raised.value.code is Code.INVALID_ARGUMENT
        assert server.asked == []

    async def test_there_is_one_path_at_most(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="more than once"):
            await server.fetch(("directory", "a"), ("directory", "b"))

    async def test_a_directory_that_was_pushed_has_parts_too(self, server: Server) -> None:
        made = await unpack(ARCHIVE)
        server.cas.blobs |= made.cas.blobs
        await server.push(Kind.DIRECTORY, made.root)

        for instance in ("", "plain"):
            root = await server.root(("directory", "pkg/src"), instance_name=instance)
            assert [file.name for file in server.directory(root).files] == ["a", "b"]
        assert server.asked == []

    async def test_what_was_pushed_as_a_part_is_taken_first(self, server: Server) -> None:
        await server.push(Kind.DIRECTORY, SHA256.digest_of(b""), ("directory", "pkg"))

        assert await server.root(("directory", "pkg")) == SHA256.digest_of(b"")


class TestSymlinksOfParts:
    @pytest.mark.parametrize("path", ["a/b/c", "a/b"])
    @pytest.mark.parametrize("is_zip", [False, True])
    async def test_one_that_leads_out_of_the_part_is_told_in_the_answer(
        self, server: Server, path: str, *, is_zip: bool
    ) -> None:
        entries = (link("a/b/c/l", "../../../etc/passwd"), Entry("etc/passwd", b"root"))
        server.page = zipped(*entries) if is_zip else tar(*entries)
        whole = await server.root()

        for _ in range(2):
            response = await server.fetch(("directory", path))
            assert response.status.code == Code.ABORTED
            assert f"{path!r}" in response.status.message
            assert "'../../../etc/passwd' leads out" in response.status.message
            assert not response.HasField("root_directory_digest")
        assert await server.root() == whole
        assert server.unpacker.begun == 1

    async def test_one_that_leads_out_through_another_one_does_so_too(self, server: Server) -> None:
        server.page = tar(folder("a/d/e"), link("a/up", "d/.."), link("a/d/e/l", "../../up/../x"))

        assert await server.code(("directory", "a")) is Code.ABORTED
        assert await server.code(("directory", "a/d")) is Code.ABORTED

    async def test_one_that_stays_in_the_part_is_fine(self, server: Server) -> None:
        server.page = tar(Entry("a/b/f", b"f"), link("a/b/c/l", "../f"), link("l", "a/b"))

        root = await server.root(("directory", "a/b"))
        assert [file.name for file in server.directory(root).files] == ["f"]
        assert await server.root(("directory", "a/b")) == root
        assert await server.code(("directory", "a/b/c")) is Code.ABORTED

    async def test_a_part_is_looked_through_once_while_it_is_remembered(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_at: list[Digest] = []

        async def tree_of(cas: DictStore, root: Digest, max_entries: int, aside: Aside) -> Tree:
            looked_at.append(root)
            return await _tree_of(cas, root, max_entries, aside)

        monkeypatch.setattr(directories, "_tree_of", tree_of)
        monkeypatch.setattr(directories, "_MAX_CONFINED", 1)

        roots = [
            await server.root(sri(ARCHIVE), ("directory", path))
            for path in ("pkg", "./pkg", "pkg/src", "pkg")
        ]

        assert looked_at == roots[1:]

    async def test_a_part_is_looked_through_beside_all_other_work(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A part may have 200,000 entries, whose symlinks take seconds to be followed."""
        threads: set[int] = set()

        class Noting(Tree):
            def add(self, names: Sequence[str], leaf: File | Symlink) -> None:
                threads.add(threading.get_ident())
                super().add(names, leaf)

            def require_confined(self) -> Iterator[None]:
                threads.add(threading.get_ident())
                return super().require_confined()

        monkeypatch.setattr(directories, "Tree", Noting)

        await server.root(("directory", "pkg"))

        assert threads
        assert threading.get_ident() not in threads

    async def test_a_part_of_what_was_pushed_is_as_it_was_pushed(self, server: Server) -> None:
        made = await unpack(tar(link("a/l", "../f"), Entry("f", b"f")))
        server.cas.blobs |= made.cas.blobs
        await server.push(Kind.DIRECTORY, made.root)

        root = await server.root(("directory", "a"))

        assert [each.target for each in server.directory(root).symlinks] == ["../f"]


class TestChecksumsOfDirectories:
    async def test_one_that_was_pushed_with_its_archives_checksum_is_found(
        self, server: Server
    ) -> None:
        root = SHA256.digest_of(b"")
        await server.push(Kind.DIRECTORY, root, sri(ARCHIVE))

        assert await server.root(sri(ARCHIVE), instance_name="plain") == root


class TestTogether:
    async def test_who_asks_for_the_same_shares_the_work(self, server: Server) -> None:
        server.unpacker.gate.clear()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(server.root(sri(ARCHIVE))) for _ in range(5)]
            await wait_until(lambda: server.unpacker.begun == 1)
            server.unpacker.gate.set()

        assert len({call.result() for call in calls}) == 1
        assert server.unpacker.begun == 1

    async def test_it_goes_on_when_its_call_ends(self, server: Server) -> None:
        server.unpacker.gate.clear()
        timeout = duration_pb2.Duration(nanos=1_000_000)

        response = await server.fetch(sri(ARCHIVE), timeout=timeout)

        assert response.status.code == Code.DEADLINE_EXCEEDED
        server.unpacker.gate.set()
        await server.root(sri(ARCHIVE))
        assert server.unpacker.begun <= 1

    async def test_it_ends_after_its_time(self, server: Server) -> None:
        server.directories._timeout_s = 0.001
        server.unpacker.gate.clear()

        assert await server.code(sri(ARCHIVE)) is Code.DEADLINE_EXCEEDED

    async def test_what_cannot_be_remembered_is_unpacked_again(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Full(AssetIndex):
            async def store(self, kind: Kind, assets: Any) -> None:
                raise unavailable("the index is down")

        server.directories._index = Full(DictStore(), clock=server.clock)

        for _ in range(2):
            await server.root(sri(ARCHIVE))

        assert server.unpacker.begun == 2
        assert "will be unpacked again" in caplog.text
