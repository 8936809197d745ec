"""Input trees: fetched once, checked, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pytest

from nativelink.core.digest import EMPTY_DIGESTS, Digest
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.testing.fakes import DictStore
from nativelink.testing.faults import FaultyStore
from nativelink.worker.directory_message import parse_directory
from nativelink.worker.tree import InputTree, TreeFetcher, TreeLimits

EMPTY = next(iter(EMPTY_DIGESTS))


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest(), len(data))


def message(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


FILE = digest_of(b"file")


class Cas:
    """A CAS and what is put into it."""

    def __init__(self) -> None:
        self.backend = DictStore()
        self.store = FaultyStore(self.backend)

    def directory(
        self,
        *,
        files: Sequence[str] = (),
        directories: Sequence[tuple[str, Digest]] = (),
        symlinks: Sequence[tuple[str, str]] = (),
        change: Callable[[pb.Directory], None] = lambda _: None,
    ) -> Digest:
        directory = pb.Directory()
        for name in files:
            directory.files.add(name=name, digest=message(FILE))
        for name, digest in directories:
            directory.directories.add(name=name, digest=message(digest))
        for name, target in symlinks:
            directory.symlinks.add(name=name, target=target)
        change(directory)
        data = directory.SerializeToString()
        digest = digest_of(data)
        self.backend.blobs[digest] = data
        return digest

    async def fetch(self, root: Digest, limits: TreeLimits | None = None) -> InputTree:
        return await TreeFetcher(self.store, limits=limits).fetch(root)

    async def refusal(self, root: Digest, limits: TreeLimits | None = None) -> NativeLinkError:
        with pytest.raises(NativeLinkError) as caught:
            await self.fetch(root, limits)
        return caught.value


@pytest.fixture
def cas() -> Cas:
    return Cas()


async def test_a_tree_has_every_directory_at_each_of_its_paths(cas: Cas) -> None:
    leaf = cas.directory(files=["x"])
    middle = cas.directory(directories=[("one", leaf), ("two", leaf)])
    root = cas.directory(files=["f"], directories=[("left", middle), ("right", leaf)])
    tree = await cas.fetch(root)
    assert [path for path, _ in tree.walk()] == ["", "left", "left/one", "left/two", "right"]
    assert tree.nodes == 9
    assert tree.depth == 3
    assert tree.file_digests() == {FILE}


async def test_each_directory_is_read_once_and_not_again_for_the_next_action(cas: Cas) -> None:
    leaf = cas.directory(files=["x"])
    root = cas.directory(directories=[(f"d{number}", leaf) for number in range(10)])
    fetcher = TreeFetcher(cas.store)
    await fetcher.fetch(root)
    assert cas.store.calls["get"] == 2
    other = cas.directory(files=["y"], directories=[("d", leaf)])
    await fetcher.fetch(other)
    assert cas.store.calls["get"] == 3


async def test_what_is_kept_is_bounded_and_a_larger_tree_is_fetched_all_the_same(cas: Cas) -> None:
    leaves = [cas.directory(files=[f"x{number}"]) for number in range(20)]
    root = cas.directory(directories=[(f"d{number}", leaf) for number, leaf in enumerate(leaves)])
    fetcher = TreeFetcher(cas.store, kept_entries=10)
    assert (await fetcher.fetch(root)).nodes == 41
    assert (await fetcher.fetch(root)).nodes == 41


async def test_the_empty_root_is_an_empty_directory(cas: Cas) -> None:
    tree = await cas.fetch(EMPTY)
    assert [path for path, _ in tree.walk()] == [""]
    assert tree.nodes == 1


async def test_all_directories_that_are_missing_are_named(cas: Cas) -> None:
    lost = [digest_of(b"lost %d" % number) for number in range(5)]
    there = cas.directory(directories=[("deep", lost[4])])
    root = cas.directory(
        directories=[*((f"d{number}", lost[number]) for number in range(4)), ("e", there)]
    )
    error = await cas.refusal(root)
    assert error.code is Code.FAILED_PRECONDITION
    assert set(error.details) == {MissingBlob(digest) for digest in lost}
    error = await cas.refusal(lost[0])
    assert error.details == (MissingBlob(lost[0]),)


async def test_a_store_that_is_down_is_no_missing_input(cas: Cas) -> None:
    root = cas.directory(files=["x"])
    cas.store.go_down()
    assert (await cas.refusal(root)).code is Code.UNAVAILABLE


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "a" * 256])
@pytest.mark.parametrize("kind", ["files", "directories", "symlinks"])
async def test_a_name_that_no_file_can_have_is_refused(cas: Cas, name: str, kind: str) -> None:
    def add(directory: pb.Directory) -> None:
        if kind == "files":
            directory.files.add(name=name, digest=message(FILE))
        elif kind == "directories":
            directory.directories.add(name=name, digest=message(EMPTY))
        else:
            directory.symlinks.add(name=name, target="x")

    root = cas.directory(directories=[("sub", cas.directory(change=add))])
    error = await cas.refusal(root)
    assert error.code is Code.INVALID_ARGUMENT
    assert repr(name[:100]) in error.message


async def test_a_name_that_stands_twice_is_refused(cas: Cas) -> None:
    for root in (
        cas.directory(files=["same", "same"]),
        cas.directory(files=["same"], directories=[("same", EMPTY)]),
        cas.directory(files=["same"], symlinks=[("same", "x")]),
        cas.directory(directories=[("same", EMPTY)], symlinks=[("same", "x")]),
    ):
        error = await cas.refusal(root)
        assert error.code is Code.INVALID_ARGUMENT
        assert "'same' stands twice" in error.message


async def test_entries_need_not_be_sorted(cas: Cas) -> None:
    tree = await cas.fetch(cas.directory(files=["z", "a", "m"]))
    assert [file.name for file in tree.directories[tree.root].files] == ["z", "a", "m"]


@pytest.mark.parametrize("target", ["", "a\0b", "x" * 4096])
async def test_a_link_to_nothing_that_can_be_named_is_refused(cas: Cas, target: str) -> None:
    error = await cas.refusal(cas.directory(symlinks=[("link", target)]))
    assert error.code is Code.INVALID_ARGUMENT
    assert "'link'" in error.message


async def test_a_malformed_directory_or_digest_is_refused(cas: Cas) -> None:
    garbage = b"\xff\xff\xff\xff"
    cas.backend.blobs[digest_of(garbage)] = garbage
    error = await cas.refusal(digest_of(garbage))
    assert error.code is Code.INVALID_ARGUMENT
    assert "no Directory" in error.message

    def add(directory: pb.Directory) -> None:
        directory.files.add(name="f", digest=pb.Digest(hash="xyz", size_bytes=3))

    root = cas.directory(change=add)
    error = await cas.refusal(root)
    assert error.code is Code.INVALID_ARGUMENT
    assert str(root) in error.message


async def test_a_digest_too_large_for_a_directory_is_not_read(cas: Cas) -> None:
    error = await cas.refusal(Digest("ab" * 32, 1 << 40))
    assert error.code is Code.INVALID_ARGUMENT
    assert cas.store.calls["get"] == 0


async def test_a_tree_that_expands_to_billions_is_refused_at_once(cas: Cas) -> None:
    below = cas.directory(files=["x"])
    for _ in range(60):
        below = cas.directory(directories=[(name, below) for name in "abcdefgh"])
    error = await cas.refusal(below)
    assert error.code is Code.INVALID_ARGUMENT
    assert "1000000 are allowed" in error.message


async def test_a_tree_that_is_too_deep_is_refused(cas: Cas) -> None:
    below = EMPTY
    for _ in range(5):
        below = cas.directory(directories=[("d", below)])
    assert (await cas.fetch(below, TreeLimits(depth=6))).depth == 6
    assert "nested more than 5" in (await cas.refusal(below, TreeLimits(depth=5))).message


async def test_a_chain_that_is_short_on_one_way_and_too_deep_on_another_is_refused(
    cas: Cas,
) -> None:
    below = EMPTY
    for _ in range(5):
        below = cas.directory(directories=[("d", below), ("e", EMPTY)])
    assert "nested more than 5" in (await cas.refusal(below, TreeLimits(depth=5))).message


async def test_a_directory_that_contains_itself_is_refused(cas: Cas) -> None:
    """No hash can do that, but a store may give what it should not."""
    forged = digest_of(b"forged")
    other = cas.directory(directories=[("b", forged)])
    directory = pb.Directory()
    directory.directories.add(name="a", digest=message(other))
    cas.backend.blobs[forged] = directory.SerializeToString()
    error = await cas.refusal(forged)
    assert error.code is Code.INVALID_ARGUMENT
    assert "contains itself" in error.message


def test_node_properties_are_taken_without_what_nobody_may_ask_for() -> None:
    directory = pb.Directory()
    node = directory.files.add(name="f", digest=message(FILE), is_executable=True)
    node.node_properties.unix_mode.value = 0o4750
    node.node_properties.mtime.seconds = 5
    node.node_properties.mtime.nanos = 7
    directory.node_properties.unix_mode.value = 0o700
    link = directory.symlinks.add(name="l", target="t")
    link.node_properties.mtime.seconds = 9
    parsed = parse_directory(FILE, directory.SerializeToString())
    assert parsed.files[0] == ("f", FILE, True, 0o750, 5_000_000_007)
    assert parsed.mode == 0o700
    assert parsed.mtime_ns is None
    assert parsed.links[0].mtime_ns == 9_000_000_000


class WholeTrees:
    """Gives trees in one call, as a remote store does."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.messages = messages
        self.calls = 0

    async def get_tree(self, root: Digest) -> Sequence[bytes]:
        self.calls += 1
        return self.messages


async def test_a_tree_that_comes_in_one_call_needs_no_reads(cas: Cas) -> None:
    leaf = cas.directory(files=["x"])
    root = cas.directory(directories=[("d", leaf)])
    source = WholeTrees([cas.backend.blobs[root], cas.backend.blobs[leaf]])
    fetcher = TreeFetcher(cas.store, source=source)
    assert (await fetcher.fetch(root)).nodes == 3
    assert cas.store.calls["get"] == 0
    await fetcher.fetch(root)
    assert source.calls == 1


async def test_what_one_call_left_out_or_made_up_is_read(cas: Cas) -> None:
    leaf = cas.directory(files=["x"])
    root = cas.directory(directories=[("d", leaf)])
    wrong = pb.Directory()
    wrong.files.add(name="evil", digest=message(FILE))
    source = WholeTrees([cas.backend.blobs[root], wrong.SerializeToString()])
    tree = await TreeFetcher(cas.store, source=source).fetch(root)
    assert [file.name for file in tree.directories[leaf].files] == ["x"]
    assert cas.store.calls["get"] == 1


@pytest.mark.slow
async def test_a_tree_of_50_000_files_is_fetched_with_one_read_per_directory(cas: Cas) -> None:
    leaves = [
        cas.directory(files=[f"file_{number}_{other}" for other in range(100)])
        for number in range(500)
    ]
    root = cas.directory(directories=[(f"d{number}", leaf) for number, leaf in enumerate(leaves)])
    tree = await cas.fetch(root)
    assert tree.nodes == 50_501
    assert cas.store.calls == {"get": 501}
