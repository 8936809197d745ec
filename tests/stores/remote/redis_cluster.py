"""A real Redis cluster on loopback, and real sentinels."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import redis

from nativelink.core.retry import Retry
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_cluster import ClusterClient, slot_of
from nativelink.stores.remote.redis_sentinel import SentinelClient
from tests.ports import free_ports
from tests.stores.remote.redis_server import RedisServer, dialing

__all__ = ["RedisCluster", "WatchedRedis"]

_READY_S = 120.0
#: How long servers do without one of them before they replace it, in milliseconds; and where they
#: are not to replace anyone, however long the machine makes them silent.
_NODE_TIMEOUT_MS, _PATIENT_MS = 1_000, 60_000


def wait_until(condition: Any) -> None:
    """Return when `condition()` holds; servers do not tell."""
    deadline = time.monotonic() + _READY_S
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, "the servers do not become ready"
        time.sleep(0.02)


class RedisCluster:
    """Masters, each with as many replicas."""

    def __init__(self, *, masters: int = 3, replicas: int = 1) -> None:
        ports = free_ports(masters * (1 + replicas))
        options = ["--cluster-enabled", "yes", "--notify-keyspace-events", "Exeg"]
        options += ["--cluster-node-timeout", str(_NODE_TIMEOUT_MS), "--repl-diskless-load"]
        options += ["on-empty-db", "--repl-diskless-sync-delay", "0"]
        self.servers = {
            port: RedisServer(*options, port=port, ready=False) for port in sorted(ports)
        }
        for server in self.servers.values():
            server.wait_ready()
        self.cli(
            "--cluster",
            "create",
            *(f"127.0.0.1:{port}" for port in self.servers),
            "--cluster-replicas",
            str(replicas),
            "--cluster-yes",
        )
        wait_until(lambda: all(self._agrees(port) for port in self.servers))
        with self.raw_cluster() as raw:
            wait_until(lambda: raw.set("ready", "1") and raw.delete("ready"))

    def _agrees(self, port: int) -> bool:
        """Whether a server sees a whole cluster, its replicas in step."""
        with self.servers[port].raw() as raw:
            info = raw.cluster("info")
            role = raw.role()
            in_step = role[0] == b"master" or role[3] == b"connected"
            return info["cluster_state"] == "ok" and len(self.masters()) == 3 and in_step

    def cli(self, *arguments: str) -> str:
        """redis-cli's output."""
        done = subprocess.run(
            ["redis-cli", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_READY_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def nodes(self) -> list[list[str]]:
        """What the servers say of each other: the fields of CLUSTER NODES."""
        for server in self.servers.values():
            if server.process.poll() is None:
                text = self.cli("-p", str(server.port), "cluster", "nodes")
                return [line.split() for line in text.splitlines()]
        raise AssertionError("no server is alive")

    def masters(self) -> dict[int, str]:
        """Port and id of each server that keeps slots."""
        return {
            int(fields[1].partition("@")[0].rpartition(":")[2]): fields[0]
            for fields in self.nodes()
            if "master" in fields[2] and "fail" not in fields[2] and len(fields) > 8
        }

    def slots(self, port: int) -> set[int]:
        """Those that a master keeps."""
        (fields,) = (each for each in self.nodes() if f":{port}@" in each[1])
        ranges = (each.partition("-") for each in fields[8:] if not each.startswith("["))
        return {
            slot for first, _, last in ranges for slot in range(int(first), int(last or first) + 1)
        }

    @contextlib.contextmanager
    def moving(self, slot: int, source: int, target: int) -> Iterator[None]:
        """A slot whose keys have moved from one master to another one, and which has not yet."""
        masters = self.masters()

        def say(port: int, *words: object) -> Any:
            with self.servers[port].raw() as raw:
                return raw.execute_command(*words)

        say(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", masters[source])
        say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", masters[target])
        keys = say(source, "CLUSTER", "GETKEYSINSLOT", slot, 1_000)
        say(source, "MIGRATE", "127.0.0.1", target, "", 0, 60_000, "KEYS", *keys)
        yield
        for port in (target, source):
            say(port, "CLUSTER", "SETSLOT", slot, "NODE", masters[target])

    def wait_for_replica(self, port: int) -> None:
        """Return when a master's replica has all that the master has acknowledged so far."""
        slots = self.slots(port)
        names = (f"settled {number}" for number in itertools.count())
        self.servers[port].wait_for_replica(next(each for each in names if slot_of(each) in slots))

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Let no server be replaced because it is slow."""
        self._miss_after(_PATIENT_MS)
        try:
            yield
        finally:
            self._miss_after(_NODE_TIMEOUT_MS)

    def _miss_after(self, milliseconds: int) -> None:
        for server in self.servers.values():
            with server.raw() as raw:
                raw.config_set("cluster-node-timeout", milliseconds)

    @contextlib.contextmanager
    def raw_cluster(self) -> Iterator[Any]:
        """A client of somebody else's."""
        client = redis.RedisCluster(host="127.0.0.1", port=next(iter(self.masters())), protocol=2)
        try:
            yield client
        finally:
            client.close()

    def in_step(self) -> bool:
        """Whether all servers are there and agree, replicas with their masters."""
        with contextlib.suppress(redis.RedisError):
            return all(self._agrees(port) for port in self.servers)
        return False

    def client(self, *, retries: int = 0, command_timeout_s: float = 10.0) -> ClusterClient:
        """One of ours."""
        return ClusterClient(
            [Endpoint("127.0.0.1", port) for port in self.servers],
            dialing(command_timeout_s=command_timeout_s),
            retry=Retry(retries, 0.1),
            max_in_flight=500,
        )

    def close(self) -> None:
        for server in self.servers.values():
            server.close()


class WatchedRedis:
    """A master, a replica and three sentinels that watch them."""

    def __init__(self, service: str = "blobs") -> None:
        self.service = service
        self.master = RedisServer("--repl-diskless-sync-delay", "0")
        self.replica = RedisServer("--replicaof", "127.0.0.1", str(self.master.port))

        def in_step() -> bool:
            with self.replica.raw() as raw:
                return bool(raw.role()[3] == b"connected")

        wait_until(in_step)
        self.sentinels = [
            RedisServer(
                f"sentinel monitor {service} 127.0.0.1 {self.master.port} 2",
                f"sentinel down-after-milliseconds {service} 500",
                f"sentinel failover-timeout {service} 2000",
                sentinel=True,
            )
            for _ in range(3)
        ]

        def known() -> bool:
            for sentinel in self.sentinels:
                with sentinel.raw(protocol=2) as raw:
                    (master,) = raw.sentinel_masters().values()
                    if master["num-slaves"] != 1 or master["num-other-sentinels"] != 2:
                        return False
            return True

        wait_until(known)

    def current(self) -> RedisServer:
        """The server that most sentinels take for the master."""
        said: Counter[int] = Counter()
        for sentinel in self.sentinels:
            with sentinel.raw(protocol=2) as raw:
                said[int(raw.sentinel_get_master_addr_by_name(self.service)[1])] += 1
        ((port, _),) = said.most_common(1)
        return self.master if port == self.master.port else self.replica

    def in_step(self) -> bool:
        """Whether one server is the master and the other its replica, with all it has."""
        with contextlib.suppress(redis.RedisError):
            roles = []
            for server in (self.master, self.replica):
                with server.raw() as raw:
                    role = raw.role()
                    roles.append(role[0] == b"master" or role[3] == b"connected")
                    roles.append(role[0] == b"slave")
            return all(roles[::2]) and sum(roles[1::2]) == 1
        return False

    def client(self, *, retries: int = 0) -> SentinelClient:
        return SentinelClient(
            [sentinel.endpoint for sentinel in self.sentinels],
            dialing(),
            sentinel_login=Login(),
            service=self.service,
            retry=Retry(retries, 0.1),
            max_in_flight=500,
        )

    def close(self) -> None:
        for server in (*self.sentinels, self.master, self.replica):
            server.close()
