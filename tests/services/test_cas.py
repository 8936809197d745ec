from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey, digest_function
from nativelink.core.errors import Code, NativeLinkError, resource_exhausted
from nativelink.core.streams import Sink, Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.cas import CasInstance, CasService
from nativelink.services.limits import (
    MAX_BATCH_ENTRIES,
    MAX_BATCH_TOTAL_SIZE_BYTES,
    MAX_MESSAGE_BYTES,
)
from nativelink.services.tree import TreeWalk
from nativelink.stores.store import DelegatingStore, write_bytes
from nativelink.testing.calls import Caller, FakeMessageSink, digest_message
from nativelink.testing.fakes import DictStore

SHA256 = DigestFunction.SHA256
Response = pb.FindMissingBlobsResponse


async def stored(store: DictStore, *blobs: bytes) -> list[Digest]:
    digests = [SHA256.digest_of(data) for data in blobs]
    for digest, data in zip(digests, blobs, strict=True):
        await write_bytes(store, digest, data)
    return digests


def caller(store: DictStore | DelegatingStore, **settings: int) -> Caller:
    return Caller(
        CasService({"": CasInstance(store), "a/b": CasInstance(DictStore())}, **settings).methods()
    )


def find(digests: Sequence[Digest], instance: str = "", function: int = 0) -> bytes:
    return pb.FindMissingBlobsRequest(
        instance_name=instance,
        blob_digests=map(digest_message, digests),
        digest_function=function,
    ).SerializeToString()


def code_of(raised: pytest.ExceptionInfo[NativeLinkError]) -> Code:
    return raised.value.code


class RecordingStore(DelegatingStore):
    """Remembers the digest function that each operation ran under, and the keys it was given."""

    def __init__(self) -> None:
        super().__init__(DictStore())
        self.functions: list[DigestFunction | None] = []
        self.keys: list[StoreKey] = []

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        self.functions.append(digest_function.get())
        self.keys += keys
        return await super().has(keys)


class FailingStore(DelegatingStore):
    """Fails for some keys."""

    def __init__(self, *bad: Digest) -> None:
        super().__init__(DictStore())
        self.bad = bad

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if key in self.bad:
            raise NativeLinkError(Code.UNAVAILABLE, "the back end is away")
        await super().get(key, sink, offset=offset, limit=limit)

    async def put(self, key: StoreKey, source: Source) -> int:
        if key in self.bad:
            raise resource_exhausted("the disk is full")
        return await super().put(key, source)


class TestFindMissingBlobs:
    async def test_what_is_absent_comes_back_in_order_duplicates_and_all(self) -> None:
        store = DictStore()
        there = await stored(store, b"one", b"two")
        absent = [SHA256.digest_of(bytes([n])) for n in range(3)]
        asked = [absent[2], there[0], absent[0], absent[2], there[1], absent[1]]
        service = caller(store)
        for _ in range(2):
            answer = await service.unary("FindMissingBlobs", find(asked), Response)
            assert answer.missing_blob_digests == [digest_message(absent[n]) for n in (2, 0, 2, 1)]

    async def test_nothing_is_missing_from_an_empty_question(self) -> None:
        answer = await caller(DictStore()).unary("FindMissingBlobs", b"", Response)
        assert not answer.missing_blob_digests

    async def test_the_empty_blob_is_never_missing(self) -> None:
        empty = [function.digest_of(b"") for function in DigestFunction]
        answer = await caller(DictStore()).unary("FindMissingBlobs", find(empty), Response)
        assert not answer.missing_blob_digests

    async def test_an_instance_name_may_contain_slashes(self) -> None:
        store = DictStore()
        (digest,) = await stored(store, b"one")
        answer = await caller(store).unary("FindMissingBlobs", find([digest], "a/b"), Response)
        assert answer.missing_blob_digests == [digest_message(digest)]

    async def test_an_unknown_instance_is_not_found_and_the_known_ones_are_named(self) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await caller(DictStore()).unary("FindMissingBlobs", find([], "mian"), Response)
        assert code_of(raised) is Code.NOT_FOUND
        assert "'mian'" in raised.value.message
        assert "instances: '', 'a/b'" in raised.value.message

    async def test_a_malformed_digest_is_an_invalid_argument(self) -> None:
        request = pb.FindMissingBlobsRequest(blob_digests=[pb.Digest(hash="abc", size_bytes=1)])
        with pytest.raises(NativeLinkError, match="'abc'") as raised:
            await caller(DictStore()).unary("FindMissingBlobs", request, Response)
        assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_a_digest_function_that_is_not_the_default_reaches_the_store(self) -> None:
        store = RecordingStore()
        service = caller(store)
        for function in (0, 1, 9):
            await service.unary("FindMissingBlobs", find([], "", function), Response)
        assert store.functions == [None, None, DigestFunction.BLAKE3]
        assert digest_function.get() is None

    @pytest.mark.parametrize(("function", "name"), [(2, "SHA1"), (77, "77")])
    async def test_other_digest_functions_are_refused_by_name(
        self, function: int, name: str
    ) -> None:
        with pytest.raises(NativeLinkError, match=f"{name} is not supported; SHA256 and BLAKE3"):
            await caller(DictStore()).unary("FindMissingBlobs", find([], "", function), Response)


class TestBatchReadBlobs:
    @staticmethod
    async def read(
        store: DictStore | DelegatingStore, messages: Sequence[pb.Digest], **settings: int
    ) -> list[pb.BatchReadBlobsResponse.Response]:
        answer = await caller(store, **settings).unary(
            "BatchReadBlobs",
            pb.BatchReadBlobsRequest(digests=messages),
            pb.BatchReadBlobsResponse,
        )
        return list(answer.responses)

    async def test_each_blob_has_its_own_status(self) -> None:
        store = FailingStore(SHA256.digest_of(b"bad"))
        there = await stored(store._backend, b"one", b"x" * 300, b"bad", b"y" * 300)
        absent = SHA256.digest_of(b"absent")
        malformed = pb.Digest(hash="zz", size_bytes=3)
        asked = [*map(digest_message, (*there, absent, there[0])), malformed]
        entries = await self.read(store, asked)
        assert [entry.digest for entry in entries] == asked
        assert [entry.data for entry in entries] == [
            b"one",
            b"x" * 300,
            b"",
            b"y" * 300,
            b"",
            b"one",
            b"",
        ]
        assert [entry.status.code for entry in entries] == [
            Code.OK,
            Code.OK,
            Code.UNAVAILABLE,
            Code.OK,
            Code.NOT_FOUND,
            Code.OK,
            Code.INVALID_ARGUMENT,
        ]
        assert str(absent) in entries[4].status.message
        assert "'zz'" in entries[6].status.message

    async def test_the_empty_blob_can_be_read(self) -> None:
        (entry,) = await self.read(DictStore(), [digest_message(SHA256.digest_of(b""))])
        assert (entry.status.code, entry.data) == (Code.OK, b"")

    async def test_a_blob_in_pieces_is_put_together(self) -> None:
        store = DictStore(chunk_size=7)
        (digest,) = await stored(store, bytes(range(100)))
        (entry,) = await self.read(store, [digest_message(digest)])
        assert entry.data == bytes(range(100))

    @pytest.mark.parametrize("kept", [b"shor", b"longer"])
    async def test_a_blob_of_another_size_than_its_digest_says_is_data_loss(
        self, kept: bytes
    ) -> None:
        store = DictStore()
        (digest,) = await stored(store, b"short")
        store.blobs[digest] = kept
        (entry,) = await self.read(store, [digest_message(digest)])
        assert entry.status.code in {Code.DATA_LOSS, Code.RESOURCE_EXHAUSTED}
        assert not entry.data

    async def test_the_advertised_limit_is_enforced(self) -> None:
        store = DictStore()
        digests = [digest_message(digest) for digest in await stored(store, b"a" * 60, b"b" * 40)]
        assert len(await self.read(store, digests, max_batch_total_size_bytes=100)) == 2
        with pytest.raises(NativeLinkError, match="100 bytes is too large; 99") as raised:
            await self.read(store, digests, max_batch_total_size_bytes=99)
        assert code_of(raised) is Code.INVALID_ARGUMENT

    @pytest.mark.slow
    async def test_an_answer_is_no_longer_than_clients_take(self) -> None:
        """Whoever keeps to the advertised limit is answered, however small the blobs are."""
        store = DictStore()
        blobs = [b"%0100d" % n for n in range(MAX_BATCH_ENTRIES)]
        digests = await stored(store, *blobs)
        absent = [SHA256.digest_of(b"%d" % n) for n in range(len(blobs))]
        for asked, expected in ((digests, Code.OK), (absent, Code.NOT_FOUND)):
            request = pb.BatchReadBlobsRequest(digests=map(digest_message, asked))
            assert request.ByteSize() < MAX_MESSAGE_BYTES
            service = caller(store).method("BatchReadBlobs")
            answer = await service.handler(request, None)
            assert len(answer) <= MAX_MESSAGE_BYTES
            codes = [
                entry.status.code
                for entry in pb.BatchReadBlobsResponse.FromString(answer).responses
            ]
            assert len(codes) == len(asked)
            assert codes[0] == expected
            assert set(codes) <= {expected, Code.RESOURCE_EXHAUSTED}

    async def test_a_batch_that_fits_is_answered_in_full(self) -> None:
        store = DictStore()
        size = (MAX_BATCH_TOTAL_SIZE_BYTES) // 585
        digests = await stored(store, *(b"%0*d" % (size, n) for n in range(585)))
        entries = await self.read(store, list(map(digest_message, digests)))
        assert {entry.status.code for entry in entries} == {Code.OK}

    async def test_a_batch_of_more_entries_than_an_answer_holds_is_refused(self) -> None:
        empty = [digest_message(SHA256.digest_of(b""))] * (MAX_BATCH_ENTRIES + 1)
        with pytest.raises(NativeLinkError, match="32769 blobs is too large; 32768") as raised:
            await self.read(DictStore(), empty)
        assert code_of(raised) is Code.INVALID_ARGUMENT


class TestBatchUpdateBlobs:
    Request = pb.BatchUpdateBlobsRequest.Request

    @staticmethod
    async def update(
        store: DictStore | DelegatingStore,
        requests: Sequence[pb.BatchUpdateBlobsRequest.Request],
        **settings: int,
    ) -> list[pb.BatchUpdateBlobsResponse.Response]:
        answer = await caller(store, **settings).unary(
            "BatchUpdateBlobs",
            pb.BatchUpdateBlobsRequest(requests=requests),
            pb.BatchUpdateBlobsResponse,
        )
        return list(answer.responses)

    def request(self, data: bytes, sent: bytes | None = None) -> pb.BatchUpdateBlobsRequest.Request:
        return self.Request(
            digest=digest_message(SHA256.digest_of(data)), data=data if sent is None else sent
        )

    async def test_one_bad_entry_does_not_spoil_the_others(self) -> None:
        bad = SHA256.digest_of(b"bad")
        store = FailingStore(bad)
        compressed = self.request(b"zipped")
        compressed.compressor = pb.Compressor.ZSTD
        requests = [
            self.request(b"one"),
            self.request(b"three", b"tree"),
            self.request(b"bad"),
            compressed,
            self.Request(digest=pb.Digest(hash="zz"), data=b""),
            self.request(b"one"),
            self.request(b""),
        ]
        entries = await self.update(store, requests)
        assert [entry.digest for entry in entries] == [request.digest for request in requests]
        assert [entry.status.code for entry in entries] == [
            Code.OK,
            Code.INVALID_ARGUMENT,
            Code.RESOURCE_EXHAUSTED,
            Code.INVALID_ARGUMENT,
            Code.INVALID_ARGUMENT,
            Code.OK,
            Code.OK,
        ]
        assert "4 bytes were sent" in entries[1].status.message
        assert "ZSTD" in entries[3].status.message
        assert store._backend.blobs == {SHA256.digest_of(b"one"): b"one"}

    async def test_the_advertised_limit_is_enforced(self) -> None:
        store = DictStore()
        requests = [self.request(b"a" * 60), self.request(b"b" * 40)]
        with pytest.raises(NativeLinkError, match="100 bytes is too large; 99"):
            await self.update(store, requests, max_batch_total_size_bytes=99)
        assert not store.blobs
        await self.update(store, requests, max_batch_total_size_bytes=100)
        assert len(store.blobs) == 2

    @pytest.mark.slow
    async def test_an_answer_that_is_all_errors_is_no_longer_than_clients_take(self) -> None:
        requests = [self.request(b"%d" % n, b"") for n in range(MAX_BATCH_ENTRIES)]
        service = caller(DictStore()).method("BatchUpdateBlobs")
        answer = await service.handler(pb.BatchUpdateBlobsRequest(requests=requests), None)
        assert len(answer) <= MAX_MESSAGE_BYTES
        entries = pb.BatchUpdateBlobsResponse.FromString(answer).responses
        assert {entry.status.code for entry in entries} == {Code.INVALID_ARGUMENT}
        assert len(entries) == len(requests)
        assert entries[0].status.message.startswith("0 bytes were sent")

    @pytest.mark.slow
    async def test_a_request_within_the_limits_can_be_taken(self) -> None:
        size = MAX_BATCH_TOTAL_SIZE_BYTES // MAX_BATCH_ENTRIES
        requests = [self.request(b"%0*d" % (size, n)) for n in range(MAX_BATCH_ENTRIES)]
        request = pb.BatchUpdateBlobsRequest(requests=requests)
        assert request.ByteSize() > MAX_MESSAGE_BYTES
        method = caller(DictStore()).method("BatchUpdateBlobs")
        assert request.ByteSize() <= method.min_message_bytes


class Tree:
    """Directories in a store, named by what is in them."""

    def __init__(self) -> None:
        self.store = DictStore()

    async def add(self, name: str, *children: Digest) -> Digest:
        directory = pb.Directory(
            files=[pb.FileNode(name=name, digest=digest_message(SHA256.digest_of(name.encode())))],
            directories=[
                pb.DirectoryNode(name=f"{name}{index}", digest=digest_message(child))
                for index, child in enumerate(children)
            ],
        )
        (digest,) = await stored(self.store, directory.SerializeToString())
        return digest

    async def pages(
        self, root: Digest, *, page_size: int = 0, token: str = "", **settings: int
    ) -> list[tuple[list[str], str]]:
        """The pages as the names in their directories, and their tokens."""
        request = pb.GetTreeRequest(
            root_digest=digest_message(root), page_size=page_size, page_token=token
        )
        answers = await caller(self.store, **settings).server_stream(
            "GetTree", request, pb.GetTreeResponse
        )
        return [
            (
                [directory.files[0].name for directory in answer.directories],
                answer.next_page_token,
            )
            for answer in answers
        ]


class TestGetTree:
    @pytest.fixture
    def tree(self) -> Tree:
        return Tree()

    async def diamond(self, tree: Tree) -> Digest:
        leaf = await tree.add("leaf")
        left, right = await tree.add("left", leaf), await tree.add("right", leaf)
        return await tree.add("root", left, right)

    async def test_every_directory_comes_once_the_root_first(self, tree: Tree) -> None:
        root = await self.diamond(tree)
        assert await tree.pages(root) == [(["root", "left", "right", "leaf"], "")]

    async def test_pages_have_no_more_directories_than_asked_for(self, tree: Tree) -> None:
        root = await self.diamond(tree)
        pages = await tree.pages(root, page_size=3)
        assert [names for names, _ in pages] == [["root", "left", "right"], ["leaf"]]
        assert pages[-1][1] == ""

    async def test_a_page_token_goes_on_where_its_page_ended(self, tree: Tree) -> None:
        root = await self.diamond(tree)
        pages = await tree.pages(root, page_size=1)
        assert [names for names, _ in pages] == [["root"], ["left"], ["right"], ["leaf"]]
        for index, (_, token) in enumerate(pages[:-1]):
            assert await tree.pages(root, page_size=1, token=token) == pages[index + 1 :]

    async def test_a_page_is_no_larger_than_a_message(self, tree: Tree) -> None:
        children = [await tree.add(f"child{n:03}") for n in range(40)]
        root = await tree.add("root", *children)
        size = len(tree.store.blobs[children[0]])
        root_size = len(tree.store.blobs[root])
        # Tags and lengths count too: two bytes for a child, three for the root.
        limit = root_size + 3 + 3 * (size + 2)
        pages = await tree.pages(root, max_batch_total_size_bytes=limit)
        assert len(pages[0][0]) == 4
        assert sum(len(names) for names, _ in pages) == 41
        assert len(pages) > 1

    async def test_a_directory_that_is_larger_than_a_page_has_a_page_of_its_own(
        self, tree: Tree
    ) -> None:
        root = await self.diamond(tree)
        pages = await tree.pages(root, max_batch_total_size_bytes=1)
        assert [names for names, _ in pages] == [["root"], ["left"], ["right"], ["leaf"]]

    async def test_what_is_missing_below_the_root_is_left_out(self, tree: Tree) -> None:
        root = await self.diamond(tree)
        left = next(key for key, data in tree.store.blobs.items() if b"left0" in data[-120:])
        tree.store.remove(left)
        assert await tree.pages(root) == [(["root", "right", "leaf"], "")]

    async def test_a_missing_root_is_not_found(self, tree: Tree) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await tree.pages(SHA256.digest_of(b"absent"))
        assert code_of(raised) is Code.NOT_FOUND

    async def test_the_empty_directory_is_a_tree(self, tree: Tree) -> None:
        request = pb.GetTreeRequest(root_digest=digest_message(SHA256.digest_of(b"")))
        (answer,) = await caller(tree.store).server_stream("GetTree", request, pb.GetTreeResponse)
        assert answer.directories == [pb.Directory()]

    async def test_a_token_of_another_tree_is_an_invalid_argument(self, tree: Tree) -> None:
        root = await self.diamond(tree)
        for token in (str(SHA256.digest_of(b"elsewhere")), "nonsense"):
            with pytest.raises(NativeLinkError) as raised:
                await tree.pages(root, token=token)
            assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_a_blob_that_is_no_directory_is_named(self, tree: Tree) -> None:
        (digest,) = await stored(tree.store, b"\xff\xff\xff")
        with pytest.raises(NativeLinkError, match=f"blob {digest} is not a Directory") as raised:
            await tree.pages(digest)
        assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_a_negative_page_size_is_an_invalid_argument(self, tree: Tree) -> None:
        with pytest.raises(NativeLinkError, match="page_size -1"):
            await tree.pages(await tree.add("root"), page_size=-1)

    async def test_a_page_of_many_tiny_directories_is_no_longer_than_clients_take(
        self, tree: Tree
    ) -> None:
        children = [await tree.add(f"{n:04}") for n in range(1000)]
        root = await tree.add("root", *children)
        limit = 20 * 1024
        sink = FakeMessageSink()
        request = pb.GetTreeRequest(root_digest=digest_message(root))
        service = caller(tree.store, max_batch_total_size_bytes=limit)
        pages = await service.server_stream("GetTree", request, pb.GetTreeResponse, sink)
        assert sum(len(page.directories) for page in pages) == 1001
        # A page token, and nothing else, comes on top of the limit.
        assert max(len(message) for message in sink.messages[1:]) <= limit + 90

    async def test_few_large_directories_are_in_memory_at_once(self, tree: Tree) -> None:
        blobs = [
            pb.Directory(files=[pb.FileNode(name=f"{n}" * 50_000)]).SerializeToString()
            for n in range(10, 50)
        ]
        root = await tree.add("root", *await stored(tree.store, *blobs))
        reading = most = 0

        class WatchingStore(DelegatingStore):
            async def get(
                self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
            ) -> None:
                nonlocal reading, most
                assert isinstance(key, Digest)
                reading += key.size_bytes
                most = max(most, reading)
                await asyncio.sleep(0)
                await super().get(key, sink, offset=offset, limit=limit)
                reading -= key.size_bytes

        request = pb.GetTreeRequest(root_digest=digest_message(root))
        service = caller(WatchingStore(tree.store), max_batch_total_size_bytes=500_000)
        pages = await service.server_stream("GetTree", request, pb.GetTreeResponse)
        assert sum(len(page.directories) for page in pages) == 41
        assert 300_000 < most <= 500_000

    async def test_a_directory_of_an_absurd_size_is_not_fetched(self, tree: Tree) -> None:
        huge = Digest("a" * 64, 2**40)
        for root in (huge, await tree.add("root", huge)):
            with pytest.raises(NativeLinkError, match="is not a Directory") as raised:
                await tree.pages(root)
            assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_a_tree_without_an_end_in_sight_is_refused(self, tree: Tree) -> None:
        children = [SHA256.digest_of(b"%d" % n) for n in range(100)]
        root = await tree.add("root", *children)
        sink = FakeMessageSink()
        walk = TreeWalk(tree.store, root, page_size=0, max_page_bytes=1000, max_directories=101)
        await walk.send(sink, "")
        walk = TreeWalk(tree.store, root, page_size=0, max_page_bytes=1000, max_directories=100)
        with pytest.raises(NativeLinkError, match="more than 100 directories") as raised:
            await walk.send(sink, "")
        assert code_of(raised) is Code.RESOURCE_EXHAUSTED

    async def test_a_tree_of_two_to_the_thirtieth_paths_is_thirty_directories(
        self, tree: Tree
    ) -> None:
        directory = await tree.add("leaf")
        for level in range(30):
            directory = await tree.add(f"level{level}", directory, directory)
        ((names, _),) = await tree.pages(directory)
        assert len(names) == 31

    async def test_directories_travel_without_a_copy(self, tree: Tree) -> None:
        root = await tree.add("root")
        sink = FakeMessageSink()
        request = pb.GetTreeRequest(root_digest=digest_message(root))
        await caller(tree.store).server_stream("GetTree", request, pb.GetTreeResponse, sink)
        assert len(sink.parts[0]) == 2
        assert sink.parts[0][1] == tree.store.blobs[root]


@pytest.mark.parametrize(
    ("name", "request_type", "reply"),
    [
        ("SplitBlob", pb.SplitBlobRequest, pb.SplitBlobResponse),
        ("SpliceBlob", pb.SpliceBlobRequest, pb.SpliceBlobResponse),
    ],
)
async def test_chunking_says_that_it_is_not_enabled(
    name: str,
    request_type: type[pb.SplitBlobRequest],
    reply: type[pb.SplitBlobResponse],
) -> None:
    with pytest.raises(NativeLinkError, match=f"{name} is not enabled") as raised:
        await caller(DictStore()).unary(name, request_type(), reply)
    assert code_of(raised) is Code.UNIMPLEMENTED
