"""Whether all that an asset refers to is there."""

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.remote_asset import presence
from nativelink.services.remote_asset.presence import is_complete
from nativelink.stores.wrap.tree_digests import TreeDigests
from nativelink.stores.wrap.verdicts import Verdicts
from nativelink.testing.calls import digest_message
from nativelink.testing.fakes import DictStore, FakeClock

SHA256 = DigestFunction.SHA256


def add(cas: DictStore, data: bytes) -> Digest:
    digest = SHA256.digest_of(data)
    cas.blobs[digest] = data
    return digest


def directory(
    cas: DictStore, files: list[Digest], directories: list[Digest] | None = None
) -> Digest:
    message = pb.Directory(
        files=[pb.FileNode(name=f"f{n}", digest=digest_message(d)) for n, d in enumerate(files)],
        directories=[
            pb.DirectoryNode(name=f"d{n}", digest=digest_message(d))
            for n, d in enumerate(directories or [])
        ],
    )
    return add(cas, message.SerializeToString())


@pytest.fixture
def cas() -> DictStore:
    return DictStore(chunk_size=7)


async def test_a_tree_is_there_only_with_every_part_of_it(cas: DictStore) -> None:
    file, deep = add(cas, b"a file"), add(cas, b"a deep file")
    lower = directory(cas, [deep])
    root = directory(cas, [file], [directory(cas, [], [lower]), lower])

    assert await is_complete(cas, blobs=(file,), directories=(root,))
    for lost in list(cas.blobs):
        data = cas.blobs.pop(lost)
        assert not await is_complete(cas, blobs=(), directories=(root,)), lost
        cas.blobs[lost] = data


async def test_a_blob_that_is_missing_is_noticed(cas: DictStore) -> None:
    assert not await is_complete(cas, blobs=(add(cas, b"a"), SHA256.digest_of(b"b")))
    assert await is_complete(cas, blobs=())


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\x05abc", pb.Directory(files=[pb.FileNode(name="f")]).SerializeToString(),
     pb.Directory(directories=[pb.DirectoryNode(name="d")]).SerializeToString()],
)  # fmt: skip
async def test_what_is_no_directory_is_no_tree(cas: DictStore, data: bytes) -> None:
    assert not await is_complete(cas, blobs=(), directories=(add(cas, data),))


async def test_a_directory_of_many_files_is_asked_for_in_parts(
    cas: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TreeDigests, "FLUSH_COUNT", 5)
    file = add(cas, b"a file")
    root = directory(cas, [file] * 23)

    assert await is_complete(cas, blobs=(), directories=(root,))
    del cas.blobs[file]
    assert not await is_complete(cas, blobs=(), directories=(root,))


async def test_a_tree_that_is_too_large_is_an_error(
    cas: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_MAX_DIRECTORIES", 3)
    leaves = [directory(cas, [add(cas, bytes((n,)))]) for n in range(3)]

    assert await is_complete(cas, blobs=(), directories=(directory(cas, [], leaves[:2]),))
    with pytest.raises(NativeLinkError) as raised:
        await is_complete(cas, blobs=(), directories=(directory(cas, [], leaves),))
    assert raised.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_cas_that_cannot_be_asked_lacks_nothing(cas: DictStore) -> None:
    class Down(DictStore):
        async def has(self, keys: object) -> list[int | None]:
            raise unavailable("the CAS is down")

    with pytest.raises(NativeLinkError, match="is down"):
        await is_complete(Down(), blobs=(SHA256.digest_of(b"x"),))


async def test_the_empty_directory_is_always_there(cas: DictStore) -> None:
    empty: StoreKey = SHA256.digest_of(b"")
    assert isinstance(empty, Digest)
    assert await is_complete(cas, blobs=(empty,), directories=(empty,))


class Counted(DictStore):
    """Counts reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        self.reads += 1
        await super().get(key, sink, offset=offset, limit=limit)


class TestVerdicts:
    def setup_method(self) -> None:
        self.clock = FakeClock()
        self.cas = Counted()
        self.verdicts = Verdicts(max_seconds=60, now=self.clock.monotonic)
        self.file, self.deep = add(self.cas, b"a file"), add(self.cas, b"a deep file")
        self.lower = directory(self.cas, [self.deep])
        self.root = directory(self.cas, [self.file], [self.lower])

    async def asked(self, *more: Digest) -> tuple[bool, int]:
        """Whether the tree is there, and how many directories were read to find out."""
        before = self.cas.reads
        whole = await is_complete(
            self.cas, blobs=(), directories=(self.root, *more), verdicts=self.verdicts
        )
        return whole, self.cas.reads - before

    async def test_a_tree_that_was_there_is_not_read_again_for_a_while(self) -> None:
        assert await self.asked() == (True, 2)
        assert await self.asked() == (True, 0)
        self.clock.advance(60)
        assert await self.asked() == (True, 2)

    @pytest.mark.parametrize("part", ["file", "deep", "lower", "root"])
    async def test_it_is_as_soon_as_a_part_of_it_is_lost(self, part: str) -> None:
        assert await self.asked() == (True, 2)
        lost = getattr(self, part)
        del self.cas.blobs[lost]
        self.verdicts.removed(lost)
        assert not (await self.asked())[0]

    async def test_what_is_not_there_is_looked_for_each_time(self) -> None:
        data = self.cas.blobs.pop(self.deep)
        assert await self.asked() == (False, 2)
        self.cas.blobs[self.deep] = data
        assert await self.asked() == (True, 2)

    async def test_several_trees_are_read_together(self) -> None:
        for _ in range(2):
            assert await self.asked(self.lower) == (True, 2)
