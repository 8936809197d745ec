"""FindMissingBlobs, and what a CAS without chunking says of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey, digest_function
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import DelegatingStore
from nativelink.testing.calls import digest_message
from nativelink.testing.fakes import DictStore
from tests.services.cas_calls import SHA256, caller, code_of, stored

Response = pb.FindMissingBlobsResponse


def find(digests: Sequence[Digest], instance: str = "", function: int = 0) -> bytes:
    return pb.FindMissingBlobsRequest(
        instance_name=instance,
        blob_digests=map(digest_message, digests),
        digest_function=function,
    ).SerializeToString()


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
