"""Systems that execute, by configurations as people write them: in this process, or in others."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nativelink.compose.system import System, open_system
from nativelink.config import Config
from nativelink.core.clock import Clock, SystemClock
from nativelink.testing.execution import ExecutionClient
from tests.ports import free_ports

__all__ = [
    "PATIENT",
    "Farm",
    "Json",
    "Ports",
    "farm_config",
    "open_farm",
    "public_services",
    "worker_config",
]

Json = dict[str, Any]

#: For a scheduler whose workers are not to be given up, however long the machine makes them silent.
PATIENT: Json = {"worker_timeout_s": 60}


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1: clients connect to `public`, workers to `workers`."""

    public: int
    workers: int

    @classmethod
    def free(cls) -> Ports:
        return cls(*free_ports(2))


def _disk(folder: Path, name: str) -> Json:
    return {
        "name": name,
        "filesystem": {
            "content_path": str(folder / name / "content"),
            "temp_path": str(folder / name / "temp"),
            "eviction_policy": {"max_bytes": "20gb"},
        },
    }


def _ref(name: str) -> Json:
    return {"ref_store": {"name": name}}


def public_services(scheduler: str) -> Json:
    """What clients use, of stores named CAS and AC, all for the instance `main`."""
    cas = {"instance_name": "main", "cas_store": "CAS"}
    return {
        "cas": [cas],
        "bytestream": [cas],
        "ac": [{"instance_name": "main", "ac_store": "AC"}],
        "capabilities": [{"instance_name": "main", "remote_execution": {"scheduler": scheduler}}],
        "execution": [{**cas, "scheduler": scheduler}],
    }


def farm_config(
    folder: Path,
    ports: Ports,
    *,
    worker: Json | None = None,
    scheduler: Json | None = None,
) -> Json:
    """A cache and a scheduler, and a worker in the same process if `worker` is given.

    Args:
        folder: holds stores and actions.
        ports: its two listeners.
        worker: fields of the worker besides those that it must have.
        scheduler: fields of the `simple` scheduler.
    """
    config: Json = {
        "stores": [
            _disk(folder, "DISK"),
            {
                "name": "CAS",
                "verify": {"backend": _ref("DISK"), "verify_size": True, "verify_hash": True},
            },
            {"name": "WORKER_CAS", "fast_slow": {"fast": _ref("DISK"), "slow": {"noop": {}}}},
            _disk(folder, "AC_DISK"),
            {
                "name": "AC",
                "completeness_checking": {"backend": _ref("AC_DISK"), "cas_store": _ref("CAS")},
            },
        ],
        "schedulers": [
            {
                "name": "MAIN",
                "cache_lookup": {"ac_store": "AC", "scheduler": {"simple": scheduler or {}}},
            }
        ],
        "servers": [
            {
                "name": "public",
                "listener": {"http": {"socket_address": f"127.0.0.1:{ports.public}"}},
                "services": {**public_services("MAIN"), "health": {}, "admin": {}},
            },
            {
                "name": "workers",
                "listener": {"http": {"socket_address": f"127.0.0.1:{ports.workers}"}},
                "services": {"worker_api": {"scheduler": "MAIN"}},
            },
        ],
    }
    if worker is not None:
        config["workers"] = [{"local": _local(folder, ports, "WORKER_CAS", worker)}]
    return config


def worker_config(
    folder: Path, ports: Ports, *, name: str = "worker", worker: Json | None = None
) -> Json:
    """A worker whose cache is a disk of its own before that of a `farm_config` elsewhere.

    Args:
        folder: its own.
        ports: those of the farm.
        name: what its id begins with.
        worker: fields of the worker besides those that it must have.
    """
    upstream = {
        "instance_name": "main",
        "endpoints": [{"address": f"grpc://127.0.0.1:{ports.public}"}],
    }
    return {
        "stores": [
            _disk(folder, "DISK"),
            {
                "name": "WORKER_CAS",
                "fast_slow": {
                    "fast": _ref("DISK"),
                    "slow": {"grpc": {**upstream, "store_type": "cas"}},
                },
            },
            {"name": "AC", "grpc": {**upstream, "store_type": "ac"}},
        ],
        "workers": [{"local": {"name": name, **_local(folder, ports, "WORKER_CAS", worker or {})}}],
        "servers": [
            {
                "listener": {"http": {"socket_address": "127.0.0.1:0"}},
                "services": {"health": {}},
            }
        ],
    }


def _local(folder: Path, ports: Ports, cas: str, more: Json) -> Json:
    return {
        "worker_api_endpoint": {"uri": f"grpc://127.0.0.1:{ports.workers}"},
        "cas_fast_slow_store": cas,
        "upload_action_result": {"ac_store": "AC"},
        "work_directory": str(folder / "work"),
        "platform_properties": {"OSFamily": {"values": ["linux"]}},
        **more,
    }


class Farm:
    """A system that runs in this process, in a loop of its own, so that tests may block.

    Attributes:
        system: what runs.
        folder: see `farm_config`.
        ports: its listeners.
    """

    def __init__(
        self, system: System, loop: asyncio.AbstractEventLoop, folder: Path, ports: Ports
    ) -> None:
        self.system = system
        self.folder = folder
        self.ports = ports
        self._loop = loop

    @property
    def work(self) -> Path:
        """Where its actions run."""
        return self.folder / "work"

    def client(self, **options: Any) -> ExecutionClient:
        """A client of it; use it as a context manager."""
        return ExecutionClient(f"127.0.0.1:{self.ports.public}", instance="main", **options)

    def content_path(self, digest_hash: str) -> Path:
        """The file of a blob in its CAS."""
        (path,) = (self.folder / "DISK" / "content").rglob(f"{digest_hash}-*")
        return path

    def call(self, what: Any) -> Any:
        """Run a coroutine in its loop."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(120)


@contextmanager
def open_farm(
    folder: Path, config: Json, ports: Ports, *, clock: Clock | None = None
) -> Iterator[Farm]:
    """Run a system in a thread until the context is left."""
    opened: Future[Farm] = Future()
    parsed = Config.model_validate(json.loads(json.dumps(config)))

    async def run(ended: asyncio.Event) -> None:
        async with open_system(
            parsed, version="test", environ={}, clock=clock or SystemClock()
        ) as system:
            opened.set_result(Farm(system, asyncio.get_running_loop(), folder, ports))
            await ended.wait()
            await system.drain(2)

    with asyncio.Runner() as runner:
        ended = asyncio.Event()

        def body() -> None:
            try:
                runner.run(run(ended))
            except BaseException as error:
                if not opened.done():
                    opened.set_exception(error)
                raise

        thread = threading.Thread(target=body, name="farm")
        thread.start()
        try:
            yield opened.result(120)
        finally:
            runner.get_loop().call_soon_threadsafe(ended.set)
            thread.join(120)
            assert not thread.is_alive()
