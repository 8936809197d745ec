"""`python -m bench.transfers`: what compressed and chunked transfers cost beside the bare library.

In one process, without a network, in processor time of all threads, the least of some rounds that
take turns:

- ByteStream's Read and Write of a blob of 64 MiB through the service, plain, and as one zstd
  frame, against one call of the library over the same bytes at the same level;
- SplitBlob and SpliceBlob of it, against BLAKE3 of blob and chunks.

The store has the blob in memory, and forgets what it is given; requests are of 16 KiB, as Bazel
sends them. So plain transfers cost next to nothing here: with a network, as in docs/benchmarks.md,
one of 64 MiB costs the server 20 ms of processor time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import backports.zstd as zstd

from bench.reduction import MIB, Pieces, least, run, text
from bench.report import machine as machine_described
from nativelink.core.digest import DigestFunction
from nativelink.core.rpc import CallContext, Method, Peer
from nativelink.core.streams import Chunk, drain
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.services.bytestream import ByteStreamInstance, ByteStreamService
from nativelink.services.chunking import Chunking
from nativelink.services.fast_cdc import FastCdc2020
from nativelink.stores.join.cutting import Cutting
from nativelink.testing.fakes import DictStore

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = 64 * MIB
REQUEST_BYTES = 16 * 1024
AVERAGE = 512 * 1024
LEVEL = 1
MUST = 0.7
BLAKE3 = DigestFunction.BLAKE3


class Forgetful(DictStore):
    """Keeps what it was made with, and nothing that is put."""

    async def put(self, key: Any, source: Any) -> int:
        del key
        return await drain(source)


class Requests:
    """What a client sends that uploads `stream`, made before the clock runs."""

    def __init__(self, name: str, stream: bytes) -> None:
        last = len(stream) - 1
        self._messages = [
            bs.WriteRequest(
                resource_name="" if at else name,
                write_offset=at,
                data=stream[at : at + REQUEST_BYTES],
                finish_write=at + REQUEST_BYTES > last,
            ).SerializeToString()
            for at in range(0, len(stream), REQUEST_BYTES)
        ]
        self._left: Iterator[bytes] = iter(())

    def again(self) -> Requests:
        """Begin from the first."""
        self._left = iter(self._messages)
        return self

    async def read(self) -> Chunk | None:
        return next(self._left, None)


class Answers:
    """Takes what a server sends."""

    def __init__(self) -> None:
        self.size = 0

    async def write(self, *parts: Chunk) -> None:
        self.size += sum(map(len, parts))


def streaming(data: bytes, rounds: int) -> dict[str, float]:
    """Rates of ByteStream, and of the library."""
    digest = DigestFunction.SHA256.digest_of(data)
    store = Forgetful()
    store.blobs[digest] = data
    empty = Forgetful()
    frame = zstd.compress(data, LEVEL)
    prefix = {"plain": "blobs", "zstd": "compressed-blobs/zstd"}
    sent = {
        kind: Requests(f"uploads/u/{prefix[kind]}/{digest.hash}/{digest.size_bytes}", stream)
        for kind, stream in (("plain", data), ("zstd", frame))
    }
    wire: dict[str, int] = {}

    def call(work: Callable[[dict[str, Method]], Any], blobs: Forgetful = store) -> None:
        async def within() -> None:
            async with ByteStreamService({"": ByteStreamInstance(blobs, zstd=True)}) as service:
                await work({each.path.rpartition("/")[2]: each for each in service.methods()})

        run(within())

    def read(kind: str) -> None:
        answers = Answers()
        name = f"{prefix[kind]}/{digest.hash}/{digest.size_bytes}"
        request = bs.ReadRequest(resource_name=name)
        call(lambda methods: methods["Read"].handler(request, _context(), answers))
        wire[kind] = answers.size

    def write(kind: str) -> None:
        call(lambda methods: methods["Write"].handler(sent[kind].again(), _context()), empty)

    took = least(
        rounds,
        {
            "read": lambda: read("plain"),
            "read_zstd": lambda: read("zstd"),
            "library_compress": lambda: zstd.compress(data, LEVEL),
            "write": lambda: write("plain"),
            "write_zstd": lambda: write("zstd"),
            "library_decompress": lambda: zstd.decompress(frame),
        },
    )
    return {
        "wire_share": round(wire["zstd"] / wire["plain"], 3),
        **{f"{name}_mb_per_s": round(len(data) / seconds / 1e6) for name, seconds in took.items()},
        "read_ratio": round(took["library_compress"] / took["read_zstd"], 2),
        "write_ratio": round(took["library_decompress"] / took["write_zstd"], 2),
    }


def chunked(data: bytes, rounds: int) -> dict[str, float]:
    """Rates of SplitBlob and SpliceBlob, and of hashing."""
    blob = BLAKE3.digest_of(data)
    chunker = FastCdc2020(AVERAGE)
    cutting = Cutting(Pieces(data), chunker, 10_000)
    run(cutting.cut())
    parts = {BLAKE3.digest_of(part): part for part in cutting.batch}
    chunks = [BLAKE3.digest_of(part) for part in cutting.batch]

    def chunking(*, whole: bool) -> Chunking:
        store = Forgetful()
        store.blobs.update({blob: data} if whole else parts)
        return Chunking(
            store, Forgetful(), chunker=chunker, max_chunk_count=50_000, default_function=BLAKE3
        )

    def cut() -> None:
        view = memoryview(data)
        while view:
            view = view[chunker.cut(view) :]

    def hashes() -> None:
        BLAKE3.digest_of(data)
        for part in cutting.batch:
            BLAKE3.digest_of(part)

    took = least(
        rounds,
        {
            "split": lambda: run(chunking(whole=True).split(blob)),
            "splice": lambda: run(chunking(whole=False).splice(blob, chunks, 1)),
            "cut": cut,
            "hash_twice": hashes,
        },
    )
    return {
        "chunks": len(chunks),
        **{f"{name}_mb_per_s": round(len(data) / seconds / 1e6) for name, seconds in took.items()},
        "split_to_cutting_and_hashing": round(
            (took["cut"] + took["hash_twice"]) / took["split"], 2
        ),
    }


def _context() -> CallContext:
    return CallContext("/bench", (), Peer("bench"))


def main() -> int:
    """Run, print, write; fail where what must be reached is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.transfers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="no file is written")
    options = parser.parse_args()
    outcome: dict[str, Any] = {"machine": machine_described()}
    for kind, data in (
        ("compressible", text(SIZE)),
        ("incompressible", random.Random(3).randbytes(SIZE)),
    ):
        outcome[kind] = {
            "streams": streaming(data, options.rounds),
            "chunks": chunked(data, options.rounds),
        }
    shown = json.dumps(outcome, indent=1)
    print(shown)
    if not options.quick:
        (DOCS / "benchmarks-transfers.json").write_text(shown + "\n")
    ratios = [
        outcome[kind]["streams"][f"{way}_ratio"]
        for kind in ("compressible", "incompressible")
        for way in ("read", "write")
    ]
    return 0 if min(ratios) >= MUST else 1


if __name__ == "__main__":
    sys.exit(main())
