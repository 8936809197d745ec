"""A server that speaks MongoDB's protocol, on loopback."""

from __future__ import annotations

import atexit
import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pymongo

from nativelink.stores.remote.mongo import MongoStore
from tests.ports import free_port

__all__ = ["MongoServer", "fresh_collection", "open_mongo", "raw_collection", "shared_mongo"]

JARS = Path(__file__).parents[3] / ".tools/mongo"
_START_S = 120.0
_collections = itertools.count()


class MongoServer:
    """A process that keeps nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, again perhaps, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                *("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                *("-cp", f"{JARS}/*:{JARS}", "LoopbackMongo", str(self.port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Also if it never answers.
        atexit.register(self.process.kill)
        deadline = time.monotonic() + _START_S
        with self.raw(serverSelectionTimeoutMS=100) as raw:
            while True:
                try:
                    raw.admin.command("ping")
                    return
                except pymongo.errors.ConnectionFailure:
                    assert self.process.poll() is None
                    assert time.monotonic() < deadline

    @contextmanager
    def raw(self, **options: Any) -> Iterator[Any]:
        """A client of somebody else's."""
        client: Any = pymongo.MongoClient(self.url, **options)
        try:
            yield client
        finally:
            client.close()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


@cache
def shared_mongo() -> MongoServer:
    """The server that the tests of this process share, each with its own collection."""
    server = MongoServer()
    atexit.register(server.close)
    return server


def fresh_collection() -> str:
    return f"test{next(_collections)}"


@contextmanager
def raw_collection(name: str) -> Iterator[Any]:
    """A collection of the shared server, through somebody else's client."""
    with shared_mongo().raw() as raw:
        yield raw["nativelink"][name]


@asynccontextmanager
async def open_mongo(collection: str | None = None, **options: Any) -> AsyncIterator[MongoStore]:
    """A store on the shared server."""
    async with MongoStore(
        shared_mongo().url,
        database="nativelink",
        collection=collection or fresh_collection(),
        **options,
    ) as store:
        yield store
