"""Back ends as processes that die in the middle of a build and come back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.clients.front import Front
from tests.clients.served import Served
from tests.execution.gate import wait_for
from tests.stores.cloud.servers import KEY, REGION, SECRET, Moto, S3Server, Versity
from tests.stores.remote.mongo_server import MongoServer
from tests.stores.remote.redis_cluster import RedisCluster, WatchedRedis
from tests.stores.remote.redis_server import RedisServer

__all__ = ["BACKENDS", "Backend"]

#: A minute in all: enough for a server to come back, also where others keep the machine busy.
RETRY = {"max_retries": 8, "delay": 0.3, "jitter": 0.5}
#: What a dead back end must see before it comes back.
ATTEMPTS = 2


class Backend(ABC):
    """A back end, and the stores of a server that uses it.

    Args:
        folder: for its files.
        lifetimes: whoever leaves them ends it.

    Attributes:
        keeps: what it acknowledged is still there when it comes back.
        environment: variables of the server that uses it.
    """

    keeps = True

    def __init__(self, folder: Path, lifetimes: ExitStack) -> None:
        self.folder = folder
        self.lifetimes = lifetimes
        self.environment: dict[str, str] = {}

    @abstractmethod
    def store(self, role: str) -> dict[str, Any]:
        """The store for the role `cas` or `ac`."""

    @abstractmethod
    def kill(self, chance: Callable[[int], int]) -> None:
        """End it, or a part of it that `chance` chooses, as a crash would."""

    @abstractmethod
    def restore(self) -> None:
        """Let it come back once somebody missed it."""


class Fronted(Backend):
    """A back end of one process, behind a front."""

    def __init__(self, folder: Path, lifetimes: ExitStack) -> None:
        super().__init__(folder, lifetimes)
        self.front = lifetimes.enter_context(Front())
        self.front.to(self.start())

    @abstractmethod
    def start(self) -> int:
        """Start it, ready for use; its port."""

    @abstractmethod
    def end(self) -> None:
        """Kill it."""

    def kill(self, chance: Callable[[int], int]) -> None:
        del chance
        self.end()
        self.front.away()

    def restore(self) -> None:
        wait_for(lambda: self.front.refused >= ATTEMPTS, f"{ATTEMPTS} attempts to connect")
        self.front.to(self.start())


class OneRedis(Fronted):
    """A Redis that writes everything down before it answers."""

    server: RedisServer | None = None

    def start(self) -> int:
        if self.server is None:
            options = ("--appendonly", "yes", "--appendfsync", "always")
            self.server = RedisServer(*options)
            self.lifetimes.callback(self.server.close)
        else:
            self.server.start()
        return self.server.port

    def end(self) -> None:
        assert self.server is not None
        self.server.kill()

    def store(self, role: str) -> dict[str, Any]:
        address = f"redis://127.0.0.1:{self.front.port}"
        return {"redis_store": {"addresses": [address], "key_prefix": f"{role}:", "retry": RETRY}}


class Bucket(Fronted):
    """A server of Amazon's protocol."""

    kind: type[S3Server]
    server: S3Server

    def start(self) -> int:
        self.server = self.kind()
        self.lifetimes.callback(self.server.close)
        self.environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        return self.server.port

    def end(self) -> None:
        self.server.kill()

    def store(self, role: str) -> dict[str, Any]:
        return {
            "experimental_cloud_object_store": {
                "provider": "aws",
                "region": REGION,
                "bucket": "bucket-of-tests",
                "endpoint": f"http://127.0.0.1:{self.front.port}",
                "insecure_allow_http": True,
                "key_prefix": f"{role}/",
                "retry": RETRY,
            }
        }


class MotoBucket(Bucket):
    """moto keeps everything in memory: it comes back empty."""

    kind = Moto
    keeps = False


class VersityBucket(Bucket):
    """versitygw keeps objects as files."""

    kind = Versity

    def start(self) -> int:
        if not hasattr(self, "server"):
            return super().start()
        self.server.start()
        return self.server.port


class Mongo(Fronted):
    """MongoDB's protocol over a map in memory: it comes back empty."""

    keeps = False
    server: MongoServer | None = None

    def start(self) -> int:
        if self.server is None:
            self.server = MongoServer()
            self.lifetimes.callback(self.server.close)
        else:
            self.server.start()
        return self.server.port

    def end(self) -> None:
        assert self.server is not None
        self.server.close()

    def store(self, role: str) -> dict[str, Any]:
        return {
            "experimental_mongo": {
                "connection_string": f"mongodb://127.0.0.1:{self.front.port}",
                "cas_collection": role,
                "command_timeout_ms": 60_000,
            }
        }


class Upstream(Fronted):
    """Another server of ours, over a directory."""

    server: Served | None = None

    def start(self) -> int:
        if self.server is None:
            stores = [
                {
                    "name": name,
                    "filesystem": {
                        "content_path": str(self.folder / name / "content"),
                        "temp_path": str(self.folder / name / "temp"),
                        "eviction_policy": {"max_bytes": "1gb"},
                    },
                }
                for name in ("CAS", "AC")
            ]
            self.server = Served(self.folder / "upstream", self.lifetimes, {"stores": stores})
        else:
            self.server.start()
        return self.server.port

    def end(self) -> None:
        assert self.server is not None
        self.server.kill()

    def store(self, role: str) -> dict[str, Any]:
        return {
            "grpc": {
                "instance_name": "main",
                "endpoints": [{"address": f"grpc://127.0.0.1:{self.front.port}"}],
                "store_type": role,
                "retry": RETRY,
            }
        }


class Cluster(Backend):
    """Three masters and their replicas: a replica takes over, the dead one comes back as one."""

    # Replication is asynchronous: the last writes may go with the master.
    keeps = False

    def __init__(self, folder: Path, lifetimes: ExitStack) -> None:
        super().__init__(folder, lifetimes)
        self.cluster = RedisCluster()
        lifetimes.callback(self.cluster.close)
        self.dead = 0

    def store(self, role: str) -> dict[str, Any]:
        addresses = [f"redis://127.0.0.1:{port}" for port in self.cluster.servers]
        return {
            "redis_store": {
                "addresses": addresses,
                "mode": "cluster",
                "key_prefix": f"{role}:",
                "retry": RETRY,
            }
        }

    def kill(self, chance: Callable[[int], int]) -> None:
        masters = sorted(self.cluster.masters())
        self.dead = masters[chance(len(masters))]
        self.cluster.servers[self.dead].kill()

    def restore(self) -> None:
        def replaced() -> bool:
            masters = self.cluster.masters()
            return len(masters) == 3 and self.dead not in masters

        wait_for(replaced, "a replica takes over")
        self.cluster.servers[self.dead].start()
        wait_for(self.cluster.in_step, "the one that was killed is a replica")


class Watched(Backend):
    """A master, a replica, three sentinels; the replica takes over."""

    keeps = False

    def __init__(self, folder: Path, lifetimes: ExitStack) -> None:
        super().__init__(folder, lifetimes)
        self.redis = WatchedRedis()
        lifetimes.callback(self.redis.close)
        self.dead: RedisServer | None = None

    def store(self, role: str) -> dict[str, Any]:
        sentinels = [
            f"redis+sentinel://127.0.0.1:{each.port}/?sentinelServiceName={self.redis.service}"
            for each in self.redis.sentinels
        ]
        return {
            "redis_store": {
                "addresses": sentinels,
                "mode": "sentinel",
                "key_prefix": f"{role}:",
                "retry": RETRY,
            }
        }

    def kill(self, chance: Callable[[int], int]) -> None:
        del chance
        self.dead = self.redis.current()
        self.dead.kill()

    def restore(self) -> None:
        wait_for(lambda: self.redis.current() is not self.dead, "the replica takes over")
        assert self.dead is not None
        self.dead.start()
        wait_for(self.redis.in_step, "the one that was killed is a replica")


#: Every back end that a configuration can say `retry` of, or that tries again by itself.
BACKENDS: dict[str, type[Backend]] = {
    "redis": OneRedis,
    "redis-cluster": Cluster,
    "redis-sentinel": Watched,
    "moto": MotoBucket,
    "versitygw": VersityBucket,
    "mongo": Mongo,
    "grpc": Upstream,
}
