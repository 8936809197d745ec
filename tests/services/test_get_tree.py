"""GetTree: a tree's directories in pages."""

from __future__ import annotations

import asyncio

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.tree import TreeWalk
from nativelink.stores.store import DelegatingStore
from nativelink.testing.calls import FakeMessageSink, digest_message
from nativelink.testing.fakes import DictStore
from tests.services.cas_calls import SHA256, caller, code_of, stored


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
            with pytest.raises(NativeLinkError, match="page_token") as raised:
                await tree.pages(root, token=token)
            assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_what_is_lost_between_two_pages_is_no_mistake_of_the_client(
        self, tree: Tree
    ) -> None:
        leaf = await tree.add("leaf")
        middle = await tree.add("middle", leaf)
        root = await tree.add("root", await tree.add("first"), middle)
        pages = await tree.pages(root, page_size=3)
        assert pages[1][0] == ["leaf"]
        tree.store.remove(middle)

        with pytest.raises(NativeLinkError, match="1 of its directories") as raised:
            await tree.pages(root, page_size=3, token=pages[0][1])
        assert code_of(raised) is Code.NOT_FOUND

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
