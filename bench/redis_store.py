"""`redis_store` beside bare redis-py: `python -m bench.redis_store`.

Both do the same commands on a `redis-server` of their own, in turns within one process; a figure is
the median of the ratios of pairs of rounds. In a pair, what goes first changes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import redis.asyncio
import uvloop

from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.core.retry import Retry
from nativelink.core.streams import BytesSource, NullSink
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_client import StandardClient
from nativelink.stores.remote.redis_node import Dialing

_KEYS = 1_000
_BLOB = bytes(range(256)) * 16

#: One operation on the key of a number.
Operation = Callable[[int], Awaitable[object]]


def _key(number: int) -> Digest:
    return Digest(f"{number:064x}", len(_BLOB))


def ours(store: RedisStore) -> dict[str, Operation]:
    """What a server does."""

    async def find(number: int) -> None:
        await store.has([_key(number + each) for each in range(1_000)])

    return {
        "write 4 KiB": lambda number: store.put(_key(number % _KEYS), BytesSource(_BLOB)),
        "read 4 KiB": lambda number: store.get(_key(number % _KEYS), NullSink()),
        "find 1,000": find,
    }


def bare(client: redis.asyncio.Redis) -> dict[str, Operation]:
    """The same commands by redis-py, pipelined where we do so."""

    async def write(number: int) -> None:
        final = str(_key(number % _KEYS))
        temp = f"temp-{uuid.uuid4()}-{{{final}}}"
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.setrange(temp, 0, _BLOB)
            pipeline.strlen(temp)
            pipeline.rename(temp, final)
            await pipeline.execute()

    async def read(number: int) -> None:
        data = await client.getrange(str(_key(number % _KEYS)), 0, 65_535)
        assert len(data) == len(_BLOB)

    async def find(number: int) -> None:
        async with client.pipeline(transaction=False) as pipeline:
            for each in range(1_000):
                name = str(_key(number + each))
                pipeline.strlen(name)
                pipeline.exists(name)
            await pipeline.execute()

    return {"write 4 KiB": write, "read 4 KiB": read, "find 1,000": find}


async def _rate(operation: Operation, concurrency: int, seconds: float) -> tuple[float, float]:
    """Operations per second, of real time and of this process's CPU time."""
    done = 0
    began, cpu = time.perf_counter(), time.process_time()

    async def caller(first: int) -> None:
        nonlocal done
        number = first
        while time.perf_counter() - began < seconds:
            await operation(number)
            number += concurrency
            done += 1

    await run_all(caller(first) for first in range(concurrency))
    return done / (time.perf_counter() - began), done / (time.process_time() - cpu)


@contextmanager
def _server() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield port
        finally:
            process.kill()
            process.wait()


async def _measure(rounds: int, seconds: float) -> list[dict[str, object]]:
    results: list[dict[str, object]] = []
    with _server() as port:
        dialing = Dialing(
            Login(), connect_timeout_s=3, command_timeout_s=10, connections=3, recorder=None
        )
        client = StandardClient(
            Endpoint("127.0.0.1", port), dialing, retry=Retry(9, 0.1), max_in_flight=500
        )
        async with RedisStore(client) as store, redis.asyncio.Redis(port=port) as peer:
            mine, theirs = ours(store), bare(peer)
            for number in range(_KEYS):
                await mine["write 4 KiB"](number)
            for name in mine:
                for concurrency in (1, 32) if name != "find 1,000" else (1,):
                    pairs = []
                    for turn in range(rounds):
                        sides = [mine[name], theirs[name]]
                        order = (0, 1) if turn % 2 else (1, 0)
                        rates = {
                            side: await _rate(sides[side], concurrency, seconds) for side in order
                        }
                        pairs.append((rates[0], rates[1]))
                    results.append(
                        {
                            "case": name,
                            "concurrency": concurrency,
                            "per_s": round(statistics.median(own[0] for own, _ in pairs)),
                            "redis_py_per_s": round(statistics.median(it[0] for _, it in pairs)),
                            "ratio": round(
                                statistics.median(own[0] / it[0] for own, it in pairs), 2
                            ),
                            "cpu_ratio": round(
                                statistics.median(own[1] / it[1] for own, it in pairs), 2
                            ),
                        }
                    )
    return results


def main() -> int:
    """Print one line of JSON per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one round")
    options = parser.parse_args()
    # The loop that the program runs on, for both.
    uvloop.install()
    for result in asyncio.run(_measure(options.rounds, options.seconds)):
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
