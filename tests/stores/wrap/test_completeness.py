"""Results of which a part is missing are not there."""

import random

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, MissingBlob, NativeLinkError
from nativelink.core.streams import BytesSink, BytesSource
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.stores.wrap.completeness import CompletenessCheckingStore
from nativelink.stores.wrap.tree_digests import TreeDigests
from nativelink.testing.fakes import DictStore
from nativelink.testing.faults import FaultyStore, injected

ACTION = DigestFunction.SHA256.digest_of(b"the action")


def message(digest: Digest) -> reapi.Digest:
    return reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


class Fixture:
    """An action cache over a CAS, and a result that grows from test to test."""

    def __init__(self) -> None:
        self.ac = DictStore()
        self.cas = DictStore(chunk_size=1_000)
        self.counted = FaultyStore(self.cas)
        self.store = CompletenessCheckingStore(self.ac, self.counted)

    def blob(self, data: bytes) -> reapi.Digest:
        digest = DigestFunction.SHA256.digest_of(data)
        self.cas.blobs[digest] = data
        return message(digest)

    def remove(self, digest: reapi.Digest) -> None:
        del self.cas.blobs[Digest(digest.hash, digest.size_bytes)]

    def put(self, result: reapi.ActionResult) -> bytes:
        self.ac.blobs[ACTION] = result.SerializeToString()
        return self.ac.blobs[ACTION]

    async def is_there(self) -> bool:
        """What `get` and `has` agree upon."""
        (size,) = await self.store.has([ACTION])
        sink = BytesSink()
        if size is not None:
            await self.store.get(ACTION, sink)
            assert sink.getvalue() == self.ac.blobs[ACTION]
            assert size == sink.size
            return True
        with pytest.raises(NativeLinkError) as caught:
            await self.store.get(ACTION, sink)
        assert caught.value.code is Code.NOT_FOUND
        assert caught.value.details == (MissingBlob(ACTION),)
        assert sink.size == 0
        return False


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def directory(fixture: Fixture, files: int, *, prefix: str = "f") -> reapi.Directory:
    return reapi.Directory(
        files=[
            reapi.FileNode(name=f"{prefix}{n}", digest=fixture.blob(f"{prefix}{n}".encode()))
            for n in range(files)
        ]
    )


async def test_a_result_without_outputs_is_complete(fixture: Fixture):
    fixture.put(reapi.ActionResult(exit_code=1))
    assert await fixture.is_there()
    assert fixture.counted.calls == {}


async def test_every_output_file_is_needed(fixture: Fixture):
    files = [fixture.blob(b"one"), fixture.blob(b"two")]
    fixture.put(
        reapi.ActionResult(
            output_files=[reapi.OutputFile(path=f"{n}", digest=d) for n, d in enumerate(files)]
        )
    )
    assert await fixture.is_there()
    fixture.remove(files[1])
    assert not await fixture.is_there()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
async def test_stdout_and_stderr_are_needed_unless_they_are_inlined(fixture: Fixture, name: str):
    digest = fixture.blob(b"said")
    result = reapi.ActionResult(**{f"{name}_digest": digest})
    fixture.put(result)
    assert await fixture.is_there()
    fixture.remove(digest)
    assert not await fixture.is_there()
    setattr(result, f"{name}_raw", b"said")
    fixture.put(result)
    assert await fixture.is_there()


async def test_a_digest_that_was_set_to_nothing_is_not_needed(fixture: Fixture):
    fixture.put(reapi.ActionResult(stdout_digest=reapi.Digest()))
    assert await fixture.is_there()


async def test_empty_outputs_need_nothing_in_the_cas(fixture: Fixture):
    for function in DigestFunction:
        empty = message(function.digest_of(b""))
        fixture.put(
            reapi.ActionResult(
                stdout_digest=empty,
                output_files=[reapi.OutputFile(path="a", digest=empty)],
                output_directories=[reapi.OutputDirectory(path="d", tree_digest=empty)],
            )
        )
        assert await fixture.is_there()


async def test_a_tree_and_every_file_in_it_is_needed(fixture: Fixture):
    tree = reapi.Tree(
        root=directory(fixture, 3, prefix="root"),
        children=[directory(fixture, 5, prefix=f"child{n}.") for n in range(4)],
    )
    digest = fixture.blob(tree.SerializeToString())
    fixture.put(
        reapi.ActionResult(output_directories=[reapi.OutputDirectory(path="d", tree_digest=digest)])
    )
    assert await fixture.is_there()
    for needed in (
        digest,
        tree.root.files[2].digest,
        tree.children[0].files[0].digest,
        tree.children[3].files[4].digest,
    ):
        key = Digest(needed.hash, needed.size_bytes)
        data = fixture.cas.blobs.pop(key)
        assert not await fixture.is_there()
        fixture.cas.blobs[key] = data
    assert await fixture.is_there()


async def test_all_blobs_of_a_result_are_asked_for_at_once(fixture: Fixture):
    trees = [
        fixture.blob(reapi.Tree(root=directory(fixture, 9, prefix=f"t{n}.")).SerializeToString())
        for n in range(40)
    ]
    fixture.put(
        reapi.ActionResult(
            output_files=[reapi.OutputFile(path="a", digest=fixture.blob(b"a"))],
            stdout_digest=fixture.blob(b"out"),
            output_directories=[reapi.OutputDirectory(path="d", tree_digest=d) for d in trees],
        )
    )
    await fixture.store.get(ACTION, BytesSink())
    assert fixture.counted.calls == {"get": 40, "has": 1}


async def test_directories_below_a_root_digest_are_needed(fixture: Fixture):
    leaf = directory(fixture, 2, prefix="leaf")
    leaf_digest = fixture.blob(leaf.SerializeToString())
    middle = reapi.Directory(
        directories=[
            reapi.DirectoryNode(name="x", digest=leaf_digest),
            reapi.DirectoryNode(name="y", digest=leaf_digest),
        ]
    )
    middle_digest = fixture.blob(middle.SerializeToString())
    root = directory(fixture, 1, prefix="root")
    root.directories.add(name="middle", digest=middle_digest)
    root_digest = fixture.blob(root.SerializeToString())
    tree_digest = fixture.blob(reapi.Tree(root=root, children=[middle, leaf]).SerializeToString())
    output = reapi.OutputDirectory(path="d", root_directory_digest=root_digest)
    result = reapi.ActionResult(output_directories=[output])
    fixture.put(result)
    assert await fixture.is_there()
    assert fixture.counted.calls["get"] == 2 * 3, "a directory was read twice"
    output.tree_digest.CopyFrom(tree_digest)
    for needed in (root_digest, middle_digest, leaf_digest, leaf.files[1].digest, tree_digest):
        del result.output_directories[:]
        result.output_directories.append(output)
        fixture.put(result)
        key = Digest(needed.hash, needed.size_bytes)
        data = fixture.cas.blobs.pop(key)
        assert not await fixture.is_there()
        fixture.cas.blobs[key] = data
        assert await fixture.is_there()


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xff no result",
        reapi.ActionResult(
            output_files=[reapi.OutputFile(digest=reapi.Digest(hash="zz", size_bytes=1))]
        ).SerializeToString(),
        reapi.ActionResult(
            output_files=[reapi.OutputFile(digest=reapi.Digest(hash="0" * 64, size_bytes=-1))]
        ).SerializeToString(),
        reapi.ActionResult(stdout_digest=reapi.Digest(size_bytes=5)).SerializeToString(),
        reapi.ActionResult(output_directories=[reapi.OutputDirectory()]).SerializeToString(),
    ],
)
async def test_a_value_that_makes_no_sense_is_not_there(fixture: Fixture, value: bytes):
    fixture.ac.blobs[ACTION] = value
    assert not await fixture.is_there()


async def test_a_tree_that_is_no_tree_makes_a_result_incomplete(fixture: Fixture):
    tree = reapi.Tree(root=directory(fixture, 3)).SerializeToString()
    for broken in (tree[:-1], b"\xff" * 30, b"\x0b", b"\x00\x00", b"\x0a\x05ab"):
        digest = fixture.blob(broken)
        fixture.put(
            reapi.ActionResult(
                output_directories=[reapi.OutputDirectory(path="d", tree_digest=digest)]
            )
        )
        assert not await fixture.is_there(), broken


async def test_a_cas_that_cannot_be_asked_is_an_error_and_no_miss(fixture: Fixture):
    tree = fixture.blob(reapi.Tree(root=directory(fixture, 3)).SerializeToString())
    fixture.put(
        reapi.ActionResult(output_directories=[reapi.OutputDirectory(path="d", tree_digest=tree)])
    )
    error = injected()
    fixture.counted.has_error = error
    with pytest.raises(NativeLinkError) as caught:
        await fixture.store.get(ACTION, BytesSink())
    assert caught.value is error
    fixture.counted.has_error, fixture.counted.get_error = None, error
    with pytest.raises(NativeLinkError) as caught:
        await fixture.store.has([ACTION])
    assert caught.value is error


async def test_writes_pass_through_unchecked(fixture: Fixture):
    result = reapi.ActionResult(stdout_digest=message(DigestFunction.SHA256.digest_of(b"later")))
    data = result.SerializeToString()
    assert await fixture.store.put(ACTION, BytesSource(data)) == len(data)
    assert not await fixture.is_there()
    fixture.blob(b"later")
    assert await fixture.is_there()


async def test_a_huge_tree_is_asked_for_in_parts_and_given_up_at_the_first_hole(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(TreeDigests, "FLUSH_COUNT", 100)
    seed = random.Random(1)
    digests = [Digest(seed.randbytes(32).hex(), 10) for _ in range(1_000)]
    for digest in digests:
        fixture.cas.blobs[digest] = b"0123456789"
    root = reapi.Directory(
        files=[reapi.FileNode(name=f"{n}", digest=message(d)) for n, d in enumerate(digests)]
    )
    children = [reapi.Directory(files=[node]) for node in root.files]
    tree = fixture.blob(reapi.Tree(children=children).SerializeToString())
    fixture.put(
        reapi.ActionResult(output_directories=[reapi.OutputDirectory(path="d", tree_digest=tree)])
    )
    await fixture.store.get(ACTION, BytesSink())
    assert 8 <= fixture.counted.calls["has"] <= 12
    fixture.counted.calls.clear()
    del fixture.cas.blobs[digests[10]]
    with pytest.raises(NativeLinkError):
        await fixture.store.get(ACTION, BytesSink())
    assert fixture.counted.calls["has"] == 1
