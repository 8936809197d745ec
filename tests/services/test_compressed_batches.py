"""Zstandard in BatchUpdateBlobs and BatchReadBlobs (REAPI v2, `compressor`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import backports.zstd as zstd
import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.zstandard import Decompressor
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services import compression
from nativelink.services.cas import CasInstance, CasService
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.stores.store import write_bytes
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import DictStore

SHA256 = DigestFunction.SHA256
IDENTITY, ZSTD, BROTLI = pb.Compressor.IDENTITY, pb.Compressor.ZSTD, pb.Compressor.BROTLI
TEXT = b"the same words again and again, " * 40
NOISE = random.Random(2).randbytes(1000)
LONG = TEXT * 200


def caller(store: DictStore, *, enabled: bool = True) -> Caller:
    return Caller(CasService({"": CasInstance(store, zstd=enabled)}).methods())


async def read(
    blobs: Sequence[bytes],
    acceptable: Sequence[pb.Compressor.Value],
    *,
    enabled: bool = True,
) -> list[pb.BatchReadBlobsResponse.Response]:
    store = DictStore()
    digests = [SHA256.digest_of(blob) for blob in blobs]
    for digest, blob in zip(digests, blobs, strict=True):
        await write_bytes(store, digest, blob)
    digests.append(SHA256.digest_of(b"absent"))
    request = pb.BatchReadBlobsRequest(
        digests=map(digest_message, digests), acceptable_compressors=acceptable
    )
    answer = await caller(store, enabled=enabled).unary(
        "BatchReadBlobs", request, pb.BatchReadBlobsResponse
    )
    *entries, absent = answer.responses
    assert [entry.digest for entry in entries] == [digest_message(each) for each in digests[:-1]]
    assert {entry.status.code for entry in entries} <= {0}
    assert (absent.status.code, absent.compressor) == (Code.NOT_FOUND, IDENTITY)
    return entries


class TestRead:
    async def test_what_becomes_shorter_is_compressed_for_who_accepts_it(self) -> None:
        blobs = [TEXT, b"short", NOISE, b"", LONG, TEXT]
        entries = await read(blobs, [BROTLI, ZSTD])
        assert [entry.compressor for entry in entries] == [
            ZSTD,
            IDENTITY,
            IDENTITY,
            IDENTITY,
            ZSTD,
            ZSTD,
        ]
        for blob, entry in zip(blobs, entries, strict=True):
            if entry.compressor == ZSTD:
                assert len(entry.data) < len(blob) // 4
                assert zstd.decompress(entry.data) == blob
            else:
                assert entry.data == blob

    @pytest.mark.parametrize(
        ("acceptable", "enabled"), [([], True), ([IDENTITY, BROTLI], True), ([ZSTD], False)]
    )
    async def test_nobody_else_gets_it(
        self, acceptable: list[pb.Compressor.Value], enabled: bool
    ) -> None:
        (entry,) = await read([TEXT], acceptable, enabled=enabled)
        assert (entry.compressor, entry.data) == (IDENTITY, TEXT)


def entry(
    blob: bytes,
    data: bytes | None = None,
    *,
    compressor: pb.Compressor.Value = ZSTD,
    size: int | None = None,
) -> pb.BatchUpdateBlobsRequest.Request:
    digest = digest_message(SHA256.digest_of(blob))
    if size is not None:
        digest.size_bytes = size
    return pb.BatchUpdateBlobsRequest.Request(
        digest=digest, data=zstd.compress(blob) if data is None else data, compressor=compressor
    )


async def update(
    store: DictStore, *entries: pb.BatchUpdateBlobsRequest.Request, enabled: bool = True
) -> list[tuple[int, str]]:
    answer = await caller(store, enabled=enabled).unary(
        "BatchUpdateBlobs",
        pb.BatchUpdateBlobsRequest(requests=entries),
        pb.BatchUpdateBlobsResponse,
    )
    return [(each.status.code, each.status.message) for each in answer.responses]


class TestUpdate:
    async def test_plain_and_compressed_entries_are_stored_alike(self) -> None:
        store = DictStore()
        twice = zstd.compress(NOISE[:10]) + zstd.compress(NOISE[10:])
        outcomes = await update(
            store,
            entry(TEXT),
            entry(b"plain", b"plain", compressor=IDENTITY),
            entry(LONG),
            entry(NOISE, twice),
            entry(b""),
        )
        assert outcomes == [(0, "")] * 5
        kept = {digest: data for digest, data in store.blobs.items() if data}
        assert kept == {SHA256.digest_of(d): d for d in (TEXT, b"plain", LONG, NOISE)}

    async def test_each_bad_entry_has_its_own_status(self) -> None:
        store = DictStore()
        frame = zstd.compress(TEXT)
        outcomes = await update(
            store,
            entry(TEXT, frame[:-3]),
            entry(TEXT, TEXT),
            entry(TEXT, b""),
            entry(TEXT[1:], frame),
            entry(TEXT + b"!", frame),
            entry(TEXT, frame + b"more"),
            entry(TEXT, TEXT, compressor=BROTLI),
            entry(TEXT, TEXT, compressor=77),
            entry(TEXT, zstd.compress(bytes(3_000_000))),
            entry(TEXT, zstd.compress(TEXT[::-1])),
            entry(LONG),
        )
        assert [code for code, _ in outcomes] == [Code.INVALID_ARGUMENT] * 10 + [0]
        messages = [message for _, message in outcomes]
        assert "no zstd" in messages[1]
        assert "more than the 1279 bytes" in messages[3]
        assert "1280 of the blob's 1281 bytes" in messages[4]
        assert messages[6] == "compressor BROTLI is not enabled here; IDENTITY and ZSTD are"
        assert messages[7].startswith("compressor 77 is")
        assert "more than the 1280 bytes" in messages[8]
        assert "have the SHA256 hash" in messages[9]
        assert list(store.blobs) == [SHA256.digest_of(LONG)]

    async def test_few_of_a_batch_are_unpacked_at_a_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thirty thousand decoders of two megabytes of frames would take a gigabyte."""
        alive: list[int] = [0]

        class Counting(Decompressor):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                alive.append(alive[-1] + 1)

            def __del__(self) -> None:
                alive.append(alive[-1] - 1)

        monkeypatch.setattr(compression, "Decompressor", Counting)
        # Between two frames, others have a turn.
        twice = zstd.compress(b"") + zstd.compress(b"x")

        outcomes = await update(DictStore(), *[entry(b"x", twice) for _ in range(100)])

        assert outcomes == [(0, "")] * 100
        assert len(alive) == 201
        assert max(alive) <= 16

    async def test_without_the_setting_zstd_is_refused(self) -> None:
        store = DictStore()
        ((code, message),) = await update(store, entry(TEXT), enabled=False)
        assert code == Code.INVALID_ARGUMENT
        assert message == "compressor ZSTD is not enabled here; IDENTITY is"
        assert not store.blobs

    @pytest.mark.parametrize("size", [MAX_BATCH_TOTAL_SIZE_BYTES + 1, 2**62])
    async def test_a_batch_is_as_large_as_its_digests_say(self, size: int) -> None:
        store = DictStore()
        with pytest.raises(NativeLinkError, match=f"a batch of {size} bytes") as caught:
            await update(store, entry(bytes(100), zstd.compress(bytes(size % 2**23)), size=size))
        assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(NativeLinkError, match="is too large"):
            await update(store, *[entry(LONG)] * 17)

    async def test_digests_that_say_nothing_do_not_make_a_batch_small(self) -> None:
        store = DictStore()
        large = bytes(MAX_BATCH_TOTAL_SIZE_BYTES + 1)
        for size in (-(2**62), 0):
            with pytest.raises(NativeLinkError, match="is too large"):
                await update(store, entry(b"", large, size=size))
