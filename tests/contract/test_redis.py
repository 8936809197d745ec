"""`redis_store` in its other modes keeps the store contract too."""

from __future__ import annotations

import atexit
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest

from nativelink.stores.remote.redis_client import RedisClient
from nativelink.stores.store import Store
from nativelink.testing.store_machine import StoreMachine
from tests.stores.remote.redis_cluster import RedisCluster
from tests.stores.remote.redis_server import open_redis
from tests.stores.remote.redis_suite import RedisContract


@cache
def cluster() -> RedisCluster:
    made = RedisCluster()
    atexit.register(made.close)
    return made


@pytest.mark.slow
@pytest.mark.xdist_group("redis cluster")
class TestRedisCluster(RedisContract):
    def client(self) -> RedisClient:
        return cluster().client()

    def raw(self) -> Any:
        return cluster().raw_cluster()


class RedisMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with open_redis(read_chunk_size=10_000, max_chunk_uploads=2) as store:
            yield store


TestRedisMachine = RedisMachine.TestCase
