"""Real Redis servers on loopback."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry

from nativelink.core.retry import Retry
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_client import RedisClient, StandardClient
from nativelink.stores.remote.redis_node import Dialing, NodeRecorder
from tests.ports import free_port

__all__ = [
    "RedisServer",
    "dialing",
    "free_port",
    "fresh_prefix",
    "open_redis",
    "shared_redis",
    "standard",
]

NEVER = RedisRetry(NoBackoff(), 0)
_prefixes = itertools.count()
#: No server of a test starts more slowly, however busy the machine is.
_START_S = 60.0


class RedisServer:
    """A server process that keeps nothing on disk.

    Args:
        options: of redis-server, as on its command line.
        port: where; a free one by default.
        ready: whether to wait until it answers.
    """

    def __init__(
        self, *options: str, port: int | None = None, ready: bool = True, sentinel: bool = False
    ) -> None:
        self._folder = TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.port = free_port() if port is None else port
        self._options = options
        self._sentinel = sentinel
        self._tls = any(option == "--tls-port" for option in options)
        self.start(ready=ready)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    def start(self, *, ready: bool = True) -> None:
        """Start it, again perhaps."""
        command = ["redis-server"]
        if self._sentinel:
            config = self.root / "sentinel.conf"
            config.write_text("\n".join(self._options) + f"\nport {self.port}\n")
            command += [str(config), "--sentinel", "--dir", str(self.root)]
        else:
            port = "0" if self._tls else str(self.port)
            command += ["--port", port, "--save", "", "--appendonly", "no"]
            command += ["--dir", str(self.root), *self._options]
        self.process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1", "--logfile", str(self.root / "log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        # Also if a test, or what was to come next, fails before anybody could close it.
        atexit.register(self.process.kill)
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return when it answers."""
        if self._tls:
            return
        deadline = time.monotonic() + _START_S
        with self.raw() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return
                except redis.ConnectionError:
                    pass
                assert self.process.poll() is None, (self.root / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)

    @contextlib.contextmanager
    def raw(self, **options: Any) -> Iterator[Any]:
        """A client of somebody else's."""
        client = redis.Redis(port=self.port, retry=NEVER, **options)
        try:
            yield client
        finally:
            client.close()

    def wait_for_replica(self, name: str) -> None:
        """Return when a replica has all that this master has acknowledged so far.

        WAIT is about what its own connection wrote, so that writes something: `name`, for a while.
        """
        with self.raw(single_connection_client=True) as raw:
            raw.set(name, "1")
            assert raw.wait(1, 60_000) >= 1, "the replica is not in step"
            raw.delete(name)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        self._folder.cleanup()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@cache
def shared_redis() -> RedisServer:
    """The server that the tests of this process share, each below its own prefix."""
    server = RedisServer("--notify-keyspace-events", "Exeg", "--enable-debug-command", "yes")
    atexit.register(server.close)
    return server


def fresh_prefix() -> str:
    """A key prefix that no other test uses."""
    return f"test {next(_prefixes)}:"


def dialing(
    login: Login | None = None,
    *,
    connect_timeout_s: float = 5.0,
    command_timeout_s: float = 10.0,
    connections: int = 3,
    recorder: NodeRecorder | None = None,
) -> Dialing:
    return Dialing(
        login or Login(),
        connect_timeout_s=connect_timeout_s,
        command_timeout_s=command_timeout_s,
        connections=connections,
        recorder=recorder,
    )


def standard(endpoint: Endpoint, how: Dialing | None = None, *, retries: int = 0) -> RedisClient:
    """A client of one server that makes short pauses."""
    retry = Retry(retries, 0.1, sleep=lambda seconds: asyncio.sleep(seconds / 10))
    return StandardClient(endpoint, how or dialing(), retry=retry, max_in_flight=500)


@asynccontextmanager
async def open_redis(
    client: RedisClient | None = None, *, prefix: str | None = None, **options: Any
) -> AsyncIterator[RedisStore]:
    """A store on the shared server, or on what `client` knows."""
    async with RedisStore(
        client or standard(shared_redis().endpoint),
        key_prefix=fresh_prefix() if prefix is None else prefix,
        **options,
    ) as store:
        yield store


def names(raw: Any, prefix: str) -> set[str]:
    """All keys of a store, temporary ones included."""
    found: Sequence[bytes] = raw.keys("*")
    return {name.decode() for name in found if prefix in name.decode()}
