"""What is stored of assets, under which keys."""

from __future__ import annotations

import logging

import blake3
import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.streams import Sink
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.proto.nativelink.v1 import remote_asset_pb2 as stored
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind, artifact_key
from nativelink.testing.fakes import DictStore, FakeClock

SHA256 = DigestFunction.SHA256
X, Y = SHA256.digest_of(b"x"), SHA256.digest_of(b"y")
URI = "https://a.org/x"
A, B = ("a", "1"), ("b", "2")


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def index(store: DictStore, clock: FakeClock) -> AssetIndex:
    return AssetIndex(store, clock=clock)


async def digests(index: AssetIndex, *identities: tuple[tuple[str, str], ...]) -> list[Digest]:
    return [each.digest for each in await index.find(Kind.BLOB, URI, identities or ((),))]


def written_by_nativelink(
    store: DictStore, digest: Digest, *qualifiers: tuple[str, str], uri: str = URI
) -> None:
    """Store an entry byte by byte, as NativeLink v1.6.6 does."""

    def field(number: int, data: bytes) -> bytes:
        assert len(data) < 128
        return bytes((number << 3 | 2, len(data))) + data

    value = field(1, uri.encode())
    for name, text in qualifiers:
        value += field(2, field(1, name.encode()) + field(2, text.encode()))
    value += field(3, field(1, digest.hash.encode()) + bytes((2 << 3, digest.size_bytes)))
    value += field(4, b"\x08\x80\xa8\xd6\xb9\x07") + b"\x28\x01"
    hashed = "".join((uri, *(text for pair in qualifiers for text in pair))).encode()
    store.blobs[Digest(blake3.blake3(hashed).hexdigest(), len(hashed))] = value


async def test_the_bytes_of_a_blob_are_those_of_nativelink(
    index: AssetIndex, store: DictStore
) -> None:
    theirs = DictStore()
    written_by_nativelink(theirs, X, B, A)

    expires = timestamp_pb2.Timestamp(seconds=2_000_000_000)
    await index.store(Kind.BLOB, [Asset(URI, (B, A), X, SHA256, expires)])

    ((key, value),) = theirs.blobs.items()
    assert key == artifact_key(URI, (B, A))
    assert store.blobs[key] == value


async def test_what_nativelink_stored_is_found(index: AssetIndex, store: DictStore) -> None:
    written_by_nativelink(store, X, B, A)

    (asset,) = await index.find(Kind.BLOB, URI, [(B, A)])

    assert asset.digest == X
    assert asset.function is SHA256
    assert asset.expires_at == timestamp_pb2.Timestamp(seconds=2_000_000_000)
    assert asset.content_time is None


async def test_the_order_of_qualifiers_says_nothing(index: AssetIndex) -> None:
    await index.store(Kind.BLOB, [Asset(URI, (B, A, B), X)])

    assert await digests(index, (A, B)) == [X]
    assert await digests(index, (B, A)) == [X]
    assert await digests(index, (A, B, A)) == [X]
    assert await digests(index, (A,)) == []
    assert await digests(index, (A, B, ("c", "3"))) == []


async def test_the_latest_push_counts_whatever_its_order(
    index: AssetIndex, clock: FakeClock
) -> None:
    await index.store(Kind.BLOB, [Asset(URI, (B, A), X)])
    clock.advance(1)
    await index.store(Kind.BLOB, [Asset(URI, (A, B), Y)])

    assert await digests(index, (B, A)) == [Y]


async def test_what_nativelink_stored_over_ours_counts(index: AssetIndex, store: DictStore) -> None:
    await index.store(Kind.BLOB, [Asset(URI, (B, A), X, references_blobs=(Y,))])
    written_by_nativelink(store, Y, B, A)

    (asset,) = await index.find(Kind.BLOB, URI, [(B, A)])

    assert asset.digest == Y
    assert asset.references_blobs == ()


async def test_assets_whose_texts_run_together_alike_are_not_mixed_up(
    index: AssetIndex,
) -> None:
    await index.store(Kind.BLOB, [Asset(URI + "a", (("b", ""),), X)])

    assert artifact_key(URI, (("a", "b"),)) == artifact_key(URI + "a", (("b", ""),))
    assert await digests(index, (("a", "b"),)) == []


async def test_blobs_and_directories_of_one_name_are_two_things(index: AssetIndex) -> None:
    await index.store(Kind.BLOB, [Asset(URI, (), X)])
    await index.store(Kind.DIRECTORY, [Asset(URI, (), Y)])

    assert [each.digest for each in await index.find(Kind.BLOB, URI, [()])] == [X]
    assert [each.digest for each in await index.find(Kind.DIRECTORY, URI, [()])] == [Y]


@pytest.mark.parametrize("kind", Kind)
async def test_everything_that_is_known_comes_back(
    index: AssetIndex, clock: FakeClock, kind: Kind
) -> None:
    expires = timestamp_pb2.Timestamp(seconds=2_000_000_000, nanos=5)
    asset = Asset(URI, (A, B), X, DigestFunction.BLAKE3, expires, 12.5, (X, Y), (Y,))
    await index.store(kind, [asset])

    assert await index.find(kind, URI, [(A, B)]) == [asset]


async def test_a_push_happens_now(index: AssetIndex, clock: FakeClock) -> None:
    await index.store(Kind.BLOB, [Asset(URI, (), X)])

    (asset,) = await index.find(Kind.BLOB, URI, [()])

    assert asset.content_time == clock.time()


async def test_the_record_of_other_contents_is_not_taken_for_these(
    index: AssetIndex, store: DictStore
) -> None:
    await index.store(Kind.BLOB, [Asset(URI, (), X, references_blobs=(X,))])
    before = dict(store.blobs)
    await index.store(Kind.BLOB, [Asset(URI, (), Y, references_blobs=(Y,))])
    # A slower push of the first wins the race for the entry.
    store.blobs[artifact_key(URI, ())] = before[artifact_key(URI, ())]

    (asset,) = await index.find(Kind.BLOB, URI, [()])

    assert (asset.digest, asset.references_blobs) == (X, (X,))


@pytest.mark.parametrize(
    "value",
    [b"\xff\xff", b"", stored.RemoteAssetArtifact(uri=URI).SerializeToString()],
)
async def test_what_is_no_asset_is_not_there(
    index: AssetIndex, store: DictStore, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    store.blobs[artifact_key(URI, ())] = value

    with caplog.at_level(logging.WARNING):
        assert await digests(index) == []
    assert "is no asset" in caplog.text


async def test_a_store_that_cannot_be_asked_is_no_missing_asset(clock: FakeClock) -> None:
    class Down(DictStore):
        async def get(
            self, key: object, sink: Sink, *, offset: int = 0, limit: int | None = None
        ) -> None:
            raise unavailable("the store is down")

    with pytest.raises(NativeLinkError, match="is down"):
        await AssetIndex(Down(), clock=clock).find(Kind.BLOB, URI, [()])


async def test_trees_of_laxer_rules_are_not_found(index: AssetIndex, store: DictStore) -> None:
    # The first rules for archives took zips and tars whose last entries they had not read.
    await index.store(Kind.UNPACKED, [Asset("sha256:x", (), X, SHA256)])
    data = b"8:sha256:x"
    domain = "nativelink v1 remote asset unpacked"

    assert Digest(blake3.blake3(data, derive_key_context=domain).hexdigest(), 10) not in store.blobs
    newer = blake3.blake3(data, derive_key_context=f"{domain} 2").hexdigest()
    assert Digest(newer, 10) in store.blobs
