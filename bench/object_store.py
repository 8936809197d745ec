"""`python -m bench.object_store`: what our store costs over the library that it calls.

Small and larger objects are written and read through the store and by bare calls of obstore, in
turns, at the same concurrency, against versitygw or moto in a process of its own; and 1,000
digests are looked for twice. A figure is the median of the rounds; what goes first changes.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable

import obstore
import uvloop
from obstore.store import S3Store

from nativelink.core.clock import SystemClock
from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from tests.stores.cloud.servers import BUCKET, KEY, REGION, SECRET, Moto, S3Server, Versity

SERVERS = {"moto": Moto, "versitygw": Versity}
#: Size in bytes, objects, at the same time.
CASES = ((4096, 600, 16), (1024 * 1024, 120, 8))


def blobs(size: int, count: int) -> list[tuple[Digest, bytes]]:
    """So many different blobs."""
    made = (random.Random(number).randbytes(size) for number in range(count))
    return [(Digest(hashlib.sha256(data).hexdigest(), size), data) for data in made]


async def rate(
    count: int, concurrency: int, call: Callable[[int], Awaitable[object]]
) -> tuple[float, float]:
    """Calls per second, and microseconds of our processor time per call."""
    pending = iter(range(count))

    async def work() -> None:
        for number in pending:
            await call(number)

    begun, cpu = time.perf_counter(), time.process_time()
    await run_all(work() for _ in range(concurrency))
    return (
        count / (time.perf_counter() - begun),
        (time.process_time() - cpu) / count * 1e6,
    )


async def compare(server: S3Server, rounds: int) -> list[dict[str, object]]:
    """What was measured against one server."""
    found: list[dict[str, object]] = []
    store = CloudObjectStore(server.bucket(), keys=Keys("ours/"), clock=SystemClock())
    bare = S3Store(
        BUCKET,
        config={
            "endpoint": f"http://127.0.0.1:{server.port}",
            "region": REGION,
            "access_key_id": KEY,
            "secret_access_key": SECRET,
        },
        client_options={"allow_http": True, "http1_only": True},
        retry_config={"max_retries": 0},
    )
    for size, count, concurrency in CASES:
        values = blobs(size, count)
        # As long as ours are: a request's signature is made of them.
        names = [f"bare/{digest}" for digest, _ in values]

        async def bare_write(
            number: int,
            values: list[tuple[Digest, bytes]] = values,
            names: list[str] = names,
        ) -> None:
            await obstore.put_async(bare, names[number], values[number][1], use_multipart=False)

        async def bare_read(number: int, names: list[str] = names) -> None:
            bytes(await (await obstore.get_async(bare, names[number])).bytes_async())

        async def our_write(number: int, values: list[tuple[Digest, bytes]] = values) -> None:
            await write_bytes(store, *values[number])

        async def our_read(number: int, values: list[tuple[Digest, bytes]] = values) -> None:
            await read_bytes(store, values[number][0])

        calls = {"write": (bare_write, our_write), "read": (bare_read, our_read)}
        for name, pair in calls.items():
            results = []
            for turn in range(rounds):
                order = (0, 1) if turn % 2 else (1, 0)
                done = {side: await rate(count, concurrency, pair[side]) for side in order}
                results.append((done[0], done[1]))
            theirs, ours = (statistics.median(row[side][0] for row in results) for side in (0, 1))
            their_us, our_us = (min(row[side][1] for row in results) for side in (0, 1))
            ratio = statistics.median(row[1][0] / row[0][0] for row in results)
            found.append(
                {
                    "case": f"{name} {size // 1024} KiB",
                    "per_s": round(ours),
                    "bare_per_s": round(theirs),
                    "ratio": round(ratio, 2),
                    "cpu_us": round(our_us),
                    "bare_cpu_us": round(their_us),
                }
            )
    cached = ExistenceCacheStore(
        store,
        eviction=EvictionPolicy(max_seconds=600),
        clock=SystemClock(),
        removals=None,
    )
    digests = [digest for digest, _ in blobs(16, 1000)]
    await run_all(write_bytes(store, *each) for each in blobs(16, 1000))
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        await cached.has(digests)
        times.append(time.perf_counter() - begun)
    found.append(
        {
            "case": "find 1,000, then again",
            "first_ms": round(times[0] * 1e3, 1),
            "again_ms": round(times[1] * 1e3, 3),
            "ratio": round(times[0] / times[1]),
        }
    )
    return found


def main() -> None:
    """Print one line of JSON per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=SERVERS, default="versitygw")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    server = SERVERS[options.server]()
    # The server and its loader on a core each, where there are two.
    os.sched_setaffinity(server.process.pid, {cores[-1]})
    os.sched_setaffinity(0, {cores[0]})
    uvloop.install()
    for result in asyncio.run(compare(server, options.rounds)):
        print(json.dumps(result))
    server.close()


if __name__ == "__main__":
    main()
