"""`python -m bench.completeness`: what it is worth to remember that a result was complete.

Action results are read again and again through `completeness_checking` with and without its memory,
in turns within one process: over a CAS in memory, over Redis, and over a bucket. A figure is the
median of the ratios of pairs of rounds; in a pair, what goes first changes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvloop

from nativelink.core.clock import SystemClock
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.retry import Retry
from nativelink.core.streams import NullSink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.stores.cloud.keys import Keys
from nativelink.stores.cloud.object_store import CloudObjectStore
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.remote.redis_address import Login
from nativelink.stores.remote.redis_client import StandardClient
from nativelink.stores.remote.redis_node import Dialing
from nativelink.stores.store import Store, write_bytes
from nativelink.stores.wrap.completeness import CompletenessCheckingStore
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.stores.wrap.verdicts import Verdicts
from tests.stores.cloud.servers import Versity
from tests.stores.remote.redis_server import RedisServer

#: Results, and files of each: a compilation's and a packaging's.
RESULTS = 200
FILES = (2, 50)
CALLERS = 16


@asynccontextmanager
async def memory() -> AsyncIterator[Store]:
    """In this process."""
    yield MemoryStore(eviction=EvictionPolicy(), clock=SystemClock())


@asynccontextmanager
async def redis() -> AsyncIterator[Store]:
    """A server beside this process."""
    with RedisServer() as server:
        dialing = Dialing(
            Login(), connect_timeout_s=3, command_timeout_s=10, connections=3, recorder=None
        )
        client = StandardClient(server.endpoint, dialing, retry=Retry(9, 0.1), max_in_flight=500)
        async with RedisStore(client) as store:
            yield store


@asynccontextmanager
async def bucket() -> AsyncIterator[Store]:
    """A bucket as it is composed: with what is known to be there in front."""
    server = Versity()
    clock = SystemClock()
    try:
        async with CloudObjectStore(server.bucket(), keys=Keys("cas/"), clock=clock) as store:
            eviction = EvictionPolicy(max_seconds=600)
            yield ExistenceCacheStore(store, eviction=eviction, clock=clock, removals=None)
    finally:
        server.close()


CASES: dict[str, Callable[[], AbstractAsyncContextManager[Store]]] = {
    "memory": memory,
    "redis": redis,
    "s3": bucket,
}


async def fill(ac: Store, cas: Store, files: int) -> list[Digest]:
    """Results of so many files, and the actions that they are of."""
    actions = []
    for number in range(RESULTS):
        result = reapi.ActionResult()
        for file in range(files):
            data = random.Random(f"{files} {number} {file}").randbytes(64)
            digest = DigestFunction.SHA256.digest_of(data)
            await write_bytes(cas, digest, data)
            output = result.output_files.add(path=f"out/{file}.o")
            output.digest.hash, output.digest.size_bytes = digest.hash, digest.size_bytes
        action = DigestFunction.SHA256.digest_of(b"%d %d" % (files, number))
        await write_bytes(ac, action, result.SerializeToString())
        actions.append(action)
    return actions


async def rate(store: Store, actions: list[Digest], seconds: float) -> tuple[float, float]:
    """Hits per second, of real time and of this process's processor time."""
    done = 0
    began, cpu = time.perf_counter(), time.process_time()

    async def caller(first: int) -> None:
        nonlocal done
        number = first
        while time.perf_counter() - began < seconds:
            await store.get(actions[number % len(actions)], NullSink())
            number += CALLERS
            done += 1
            # Others' turn, as between any two requests.
            await asyncio.sleep(0)

    await run_all(caller(first) for first in range(CALLERS))
    return done / (time.perf_counter() - began), done / (time.process_time() - cpu)


async def measure(rounds: int, seconds: float) -> list[dict[str, object]]:
    """One dictionary per case."""
    found: list[dict[str, object]] = []
    for name, opened in CASES.items():
        async with opened() as cas, memory() as ac:
            for files in FILES:
                actions = await fill(ac, cas, files)
                verdicts = Verdicts(max_seconds=3600, now=SystemClock().monotonic)
                sides = (
                    CompletenessCheckingStore(ac, cas, verdicts=verdicts),
                    CompletenessCheckingStore(ac, cas),
                )
                for side in sides:
                    await run_all(side.get(action, NullSink()) for action in actions)
                pairs = []
                for turn in range(rounds):
                    order = (0, 1) if turn % 2 else (1, 0)
                    rates = {side: await rate(sides[side], actions, seconds) for side in order}
                    pairs.append((rates[0], rates[1]))
                found.append(
                    {
                        "case": f"{name}, {files} files",
                        "per_s": round(statistics.median(own[0] for own, _ in pairs)),
                        "unremembered_per_s": round(statistics.median(it[0] for _, it in pairs)),
                        "ratio": round(statistics.median(o[0] / it[0] for o, it in pairs), 2),
                        "cpu_ratio": round(statistics.median(o[1] / it[1] for o, it in pairs), 2),
                    }
                )
    return found


def main() -> int:
    """Print one line of JSON per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round")
    options = parser.parse_args()
    uvloop.install()
    for result in asyncio.run(measure(options.rounds, options.seconds)):
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
