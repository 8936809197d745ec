"""`python -m bench.reduction`: what compression and dedup cost beside the bare library calls.

In one process and on one core, in processor time, the least of some rounds that take turns:

- `compression` with LZ4 against `lz4.block` over the same blocks of 64 KiB, both ways;
- `dedup` against hashing (BLAKE3) plus a plain scan: the same gear hash compiled from C, where
  there is a compiler, else hashing alone;

for 64 MiB that compress well and 64 MiB that do not. Backends keep nothing when written and give
the same bytes again and again when read, so that only the wrapper is measured. Then four blobs of
1 GiB pass at once through dedup over compression, in and out, while resident memory is sampled,
over a directory and over a bucket (`--memory --backend s3` does that alone).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import blake3
import lz4.block

from nativelink.core.clock import SystemClock
from nativelink.core.digest import Digest, StoreKey, is_empty
from nativelink.core.retry import Retry
from nativelink.core.streams import Chunk, Sink, Source, drain
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.join.chunker import Chunker, _table
from nativelink.stores.join.dedup import DedupStore
from nativelink.stores.store import Store
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import Lz4Codec
from nativelink.testing.fakes import DictStore

MIB = 2**20
BLOCK = 65_536
SIZES = (65_536, 262_144, 524_288)
MUST = 0.7
MUST_RSS_MIB = 200

SCAN = """
#include <stdint.h>
#include <stddef.h>
size_t cut(const uint8_t *b, size_t n, size_t min, size_t normal, size_t max,
           uint32_t hard, uint32_t easy, const uint32_t *table) {
    if (n <= min) return n;
    if (n > max) n = max;
    uint32_t hash = 0;
    for (size_t i = min; i < n; i++) {
        hash = (hash >> 1) + table[b[i]];
        if (!(hash & (i < normal ? hard : easy))) return i;
    }
    return n;
}
"""


class Pieces:
    """A source of a blob in pieces of 1 MiB, as calls bring it."""

    def __init__(self, data: bytes, times: int = 1, mark: bytes = b"") -> None:
        self.size: int | None = len(data) * times
        self._data = memoryview(data)
        self._times = times
        self._mark = mark
        self._at = 0

    async def read(self) -> Chunk:
        if self._at >= (self.size or 0):
            return b""
        start = self._at % len(self._data)
        self._at += MIB
        piece = self._data[start : start + MIB]
        if self._mark:
            # Other bytes in each MiB of each blob, so that dedup has something to store.
            mark = self._mark + b"%d" % self._at
            return mark + bytes(piece[len(mark) :])
        return piece


class Forgetting:
    """A backend that takes everything and keeps nothing, but for what it is told to give."""

    def __init__(self, given: bytes = b"") -> None:
        self._given = memoryview(given)

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        return [0 if is_empty(key) else None for key in keys]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        del key, offset, limit
        for start in range(0, len(self._given), MIB):
            await sink.write(self._given[start : start + MIB])

    async def put(self, key: StoreKey, source: Source) -> int:
        del key
        return await drain(source)


class Dropping:
    """A sink that keeps nothing."""

    async def write(self, chunk: Chunk, /) -> None:
        del chunk


def text(size: int) -> bytes:
    """Bytes that compress well, without long repetition."""
    noise = random.Random(1)
    words = [noise.randbytes(noise.randint(2, 9)).hex() for _ in range(2000)]
    lines = " ".join(noise.choices(words, k=size // 8)).encode()
    return (lines * (size // len(lines) + 1))[:size]


def least(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least processor seconds of each, in turns."""
    took = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            took[name] = min(took[name], time.process_time() - started)
    return took


def each(work: Callable[[bytes], object], blocks: Sequence[bytes]) -> None:
    """Call `work` for every block and keep nothing of what it makes."""
    for block in blocks:
        work(block)


#: Runs one transfer, on a loop that is there already: making one costs as much as some MiB.
Run = Callable[[Coroutine[Any, Any, object]], object]


def compressing(data: bytes, rounds: int, run: Run) -> dict[str, float]:
    """MB/s and ratios of LZ4."""
    key = Digest(hashlib.sha256(data).hexdigest(), len(data))
    kept = DictStore()

    def store(backend: Store) -> CompressionStore:
        return CompressionStore(backend, Lz4Codec(), block_size=BLOCK, max_block_size=BLOCK)

    run(store(kept).put(key, Pieces(data)))
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    packed = [lz4.block.compress(block, store_size=False) for block in blocks]
    took = least(
        rounds,
        {
            "put": lambda: run(store(Forgetting()).put(key, Pieces(data))),
            "bare_put": lambda: each(
                lambda block: lz4.block.compress(block, store_size=False), blocks
            ),
            "get": lambda: run(store(Forgetting(kept.blobs[key])).get(key, Dropping())),
            "bare_get": lambda: each(
                lambda block: lz4.block.decompress(block, uncompressed_size=BLOCK), packed
            ),
        },
    )
    return {
        "stored_share": round(len(kept.blobs[key]) / len(data), 3),
        "put_mb_per_s": round(len(data) / took["put"] / 1e6),
        "put_ratio": round(took["bare_put"] / took["put"], 2),
        "get_mb_per_s": round(len(data) / took["get"] / 1e6),
        "get_ratio": round(took["bare_get"] / took["get"], 2),
    }


def compiled_scan() -> Callable[[bytes], None] | None:
    """The chunker's definition in C, None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "scan.c").write_text(SCAN)
        library = Path(root) / "scan.so"
        subprocess.run(
            [compiler, "-O3", "-shared", "-fPIC", "-o", library, Path(root) / "scan.c"], check=True
        )
        cut = ctypes.CDLL(str(library)).cut
    cut.restype = ctypes.c_size_t
    cut.argtypes = [
        ctypes.c_void_p,
        *[ctypes.c_size_t] * 4,
        *[ctypes.c_uint32] * 2,
        ctypes.c_void_p,
    ]
    table = (ctypes.c_uint32 * 256)(*_table())
    low, _, high = SIZES

    def scan(data: bytes) -> None:
        base = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        at = 0
        while at < len(data):
            length = cut(base + at, len(data) - at, low, 163_840, high, 0x7FFFF, 0x1FFFF, table)
            blake3.blake3(memoryview(data)[at : at + length]).digest()
            at += length

    return scan


def deduplicating(data: bytes, rounds: int, run: Run) -> dict[str, float]:
    """MB/s and ratios of dedup."""
    key = Digest(hashlib.sha256(data).hexdigest(), len(data))
    low, normal, high = SIZES
    chunker = Chunker(min_size=low, normal_size=normal, max_size=high)

    def cut() -> None:
        view = memoryview(data)
        while view:
            view = view[chunker.cut(view) :]

    def store(index: Store, content: Store) -> DedupStore:
        return DedupStore(index, content, chunker=chunker, max_concurrent=10)

    index, content = DictStore(), DictStore()
    run(store(index, content).put(key, Pieces(data)))
    scan = compiled_scan()
    took = least(
        rounds,
        {
            "put": lambda: run(store(Forgetting(), Forgetting()).put(key, Pieces(data))),
            "cut": cut,
            "hash": lambda: blake3.blake3(data).digest(),
            "sha256": lambda: hashlib.sha256(data).digest(),
            "get": lambda: run(store(index, content).get(key, Dropping())),
            **({} if scan is None else {"scan": lambda: scan(data)}),
        },
    )
    rates = {f"{name}_mb_per_s": round(len(data) / took[name] / 1e6) for name in took}
    return rates | {
        "put_to_hash_and_own_scan": round((took["hash"] + took["cut"]) / took["put"], 2),
        **(
            {}
            if scan is None
            else {"put_to_hash_and_compiled_scan": round(took["scan"] / took["put"], 2)}
        ),
    }


def resident_mib() -> float:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no /proc/self/status")


@asynccontextmanager
async def directory() -> AsyncIterator[Store]:
    """A store over a directory."""
    with tempfile.TemporaryDirectory() as root:
        async with FilesystemStore(
            content_path=Path(root) / "c",
            temp_path=Path(root) / "t",
            eviction=EvictionPolicy(),
            clock=SystemClock(),
        ) as disk:
            yield disk


@asynccontextmanager
async def bucket() -> AsyncIterator[Store]:
    """A store over a bucket of versitygw, a process of its own."""
    from tests.stores.cloud.servers import Versity

    server = Versity()
    try:
        async with CloudObjectStore(
            server.bucket(retry=Retry(6, 0.3, 0.5)), keys=Keys("content/"), clock=SystemClock()
        ) as store:
            yield store
    finally:
        server.close()


BACKENDS: dict[str, Callable[[], AbstractAsyncContextManager[Store]]] = {
    "directory": directory,
    "s3": bucket,
}


async def memory(count: int, gib: float, backend: str) -> dict[str, float]:
    """Resident memory while blobs pass through dedup over LZ4 over a backend, in and out."""
    low, normal, high = SIZES
    half = text(8 * MIB) + random.Random(2).randbytes(8 * MIB)
    times = int(gib * 1024 / 16)
    async with BACKENDS[backend]() as content:
        store = DedupStore(
            DictStore(),
            CompressionStore(content, Lz4Codec(), block_size=BLOCK, max_block_size=BLOCK),
            chunker=Chunker(min_size=low, normal_size=normal, max_size=high),
            max_concurrent=10,
        )
        await store.put("warm", Pieces(half))
        await store.get("warm", Dropping())
        before = peak = resident_mib()
        outcome: dict[str, float] = {"rss_idle_mib": round(before)}
        done = False

        async def sample() -> None:
            nonlocal peak
            while not done:
                peak = max(peak, resident_mib())
                await asyncio.sleep(0.02)

        for name, transfer in (
            ("put", lambda n: store.put(f"{n}", Pieces(half, times, b"%d:" % n))),
            ("get", lambda n: store.get(f"{n}", Dropping())),
        ):
            done, peak = False, before
            started = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                sampling = tasks.create_task(sample())
                async with asyncio.TaskGroup() as transfers:
                    for number in range(count):
                        transfers.create_task(transfer(number))
                done = True
                await sampling
            took = time.perf_counter() - started
            outcome[f"{name}_mb_per_s"] = round(count * gib * 1024 * MIB / took / 1e6)
            outcome[f"{name}_rss_growth_mib"] = round(peak - before, 1)
    return outcome


def main() -> int:
    """Run, print; fail where what must be reached is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.reduction", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only that; a run calls itself so")
    parser.add_argument("--backend", choices=BACKENDS, default="directory", help="of --memory")
    parser.add_argument("--gib", type=float, default=1.0, help="size of each of four blobs")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(asyncio.run(memory(4, options.gib, options.backend))))
        return 0
    size = 64 * MIB
    outcome: dict[str, Any] = {}
    with asyncio.Runner() as runner:
        for kind, data in (
            ("compressible", text(size)),
            ("incompressible", random.Random(3).randbytes(size)),
        ):
            outcome[kind] = {
                "lz4": compressing(data, options.rounds, runner.run),
                "dedup": deduplicating(data, options.rounds, runner.run),
            }
    # In a process that never held anything else.
    command = [sys.executable, "-m", "bench.reduction", "--memory", "--gib", str(options.gib)]
    for key, backend in (("memory", "directory"), ("memory_s3", "s3")):
        done = subprocess.run(
            [*command, "--backend", backend], check=True, stdout=subprocess.PIPE, text=True
        )
        outcome[key] = json.loads(done.stdout)
    print(json.dumps(outcome, indent=1))
    reached = all(
        outcome[kind]["lz4"][f"{way}_ratio"] >= MUST
        and outcome[kind]["dedup"]["put_mb_per_s"] >= 100
        for kind in ("compressible", "incompressible")
        for way in ("put", "get")
    ) and all(
        outcome[key][f"{way}_rss_growth_mib"] <= MUST_RSS_MIB
        for key in ("memory", "memory_s3")
        for way in ("put", "get")
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
