"""The servers under test: started fresh, pinned to one core, asked until they answer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from nativelink.testing.reapi import ReapiClient

__all__ = [
    "CONFIGURATIONS",
    "Server",
    "external",
    "start_casd",
    "start_ours",
    "start_scheduler",
    "start_system",
]

ROOT = Path(__file__).resolve().parent.parent
CASD = ROOT / ".tools/buildbox/buildbox-casd"
NATIVELINK = Path(sys.executable).parent / "nativelink"

#: Cores: the first runs the server under test, the second the load.
SERVER_CORE, LOAD_CORE = 0, 1


@dataclass
class Server:
    """One running server.

    Attributes:
        name: as printed.
        port: of plain HTTP/2, on `host`.
        tls_port: of TLS, None where it has none.
        process: ours to stop; None for an external peer.
        start_s: seconds from exec to the first answered call.
        worker_port: where workers connect, 0 where none do.
    """

    name: str
    port: int
    host: str = "127.0.0.1"
    tls_port: int | None = None
    process: subprocess.Popen[bytes] | None = None
    start_s: float = 0.0
    folder: Path = field(default_factory=Path)
    worker_port: int = 0
    unwatched_port: int = 0

    def client(self) -> ReapiClient:
        """A client by grpcio."""
        return ReapiClient(f"{self.host}:{self.port}", timeout_s=120)

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory now (`VmRSS`) and at its peak (`VmHWM`)."""
        if self.process is None:
            return {}
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return {name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}

    def cpu_s(self) -> float:
        """Processor time used so far, user and system; always 0 of an external peer."""
        if self.process is None:
            return 0.0
        # The process' clock (clock_getcpuclockid(3)): /proc counts whole hundredths of a second.
        return time.clock_gettime((~self.process.pid << 3) | 2)


def _eviction(max_bytes: int) -> dict[str, Any]:
    return {"eviction_policy": {"max_bytes": max_bytes}}


def _memory(_: Path) -> dict[str, Any]:
    return {"memory": _eviction(4 << 30)}


def _filesystem(folder: Path) -> dict[str, Any]:
    return {
        "filesystem": {
            "content_path": f"{folder}/content",
            "temp_path": f"{folder}/temp",
            **_eviction(32 << 30),
        }
    }


def _composed(folder: Path) -> dict[str, Any]:
    return {"fast_slow": {"fast": _memory(folder), "slow": _filesystem(folder)}}


#: Our configurations: what the stores of CAS and action cache are made of. `composed` is what
#: `make run` serves: the file system with memory in front.
CONFIGURATIONS = {"memory": _memory, "filesystem": _filesystem, "composed": _composed}


def config(
    kind: str, folder: Path, ports: Sequence[int], tls: dict[str, Any] | None
) -> dict[str, Any]:
    """A whole configuration file, as JSON (which JSON5 contains)."""
    services = {
        "cas": [{"instance_name": "", "cas_store": "CAS"}],
        "ac": [{"instance_name": "", "ac_store": "AC"}],
        "bytestream": [{"instance_name": "", "cas_store": "CAS"}],
        "capabilities": [{"instance_name": ""}],
        "http_cache": [{"instance_name": ""}],
    }
    servers = [
        {"listener": {"http": {"socket_address": f"127.0.0.1:{port}"}}, "services": services}
        for port in ports
    ]
    if tls is not None:
        http = {"socket_address": f"127.0.0.1:{tls['port']}", "tls": tls["config"]}
        servers.append({"listener": {"http": http}, "services": services})
    make = CONFIGURATIONS[kind]
    return {
        "stores": [
            {"name": "CAS", **make(folder / "cas")},
            {"name": "AC", **make(folder / "ac")},
        ],
        "servers": servers,
    }


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)]
    command += ["-out", str(certificate), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def start_ours(
    kind: str,
    *,
    name: str | None = None,
    tls: bool = False,
    pinned: bool = True,
    program: Sequence[str] = (),
    unwatched: bool = False,
) -> Iterator[Server]:
    """Our server with one of `CONFIGURATIONS`.

    Args:
        program: runs it, by default the entry point.
        unwatched: serve on `Server.unwatched_port` too, and tell the program of it.
    """
    with _folder() as folder:
        port = free_port()
        server = Server(name or f"ours, {kind}", port, folder=folder)
        settings = None
        if tls:
            certificate, key = _certificate(folder)
            server.tls_port = free_port()
            settings = {
                "port": server.tls_port,
                "config": {"cert_file": str(certificate), "key_file": str(key)},
            }
        file = folder / "config.json5"
        ports, environment = [port], {}
        if unwatched:
            server.unwatched_port = free_port()
            ports.append(server.unwatched_port)
            environment["UNWATCHED_PORT"] = str(server.unwatched_port)
        file.write_text(json.dumps(config(kind, folder, ports, settings), indent=2))
        command = [*(program or [str(NATIVELINK)]), str(file)]
        with _process(server, command, pinned=pinned, environment=environment):
            yield server


@contextlib.contextmanager
def start_casd() -> Iterator[Server]:
    """buildbox-casd as a local cache on disk, with its defaults."""
    if not CASD.exists():
        raise SystemExit("no buildbox-casd here: run scripts/tools.py casd")
    with _folder() as folder:
        port = free_port()
        server = Server("buildbox-casd", port, folder=folder)
        command = [str(CASD), f"--bind=127.0.0.1:{port}", str(folder / "cache")]
        with _process(server, command, pinned=True, environment=None):
            yield server


@contextlib.contextmanager
def start_system() -> Iterator[Server]:
    """What `make run` starts: cache, scheduler and a worker with a slot per core, anywhere."""
    with _folder() as folder:
        server = Server("ours", free_port(), folder=folder, worker_port=free_port())
        environment = {
            "XDG_CACHE_HOME": str(folder),
            "NATIVELINK_ADDRESS": f"127.0.0.1:{server.port}",
            "NATIVELINK_WORKER_API": f"127.0.0.1:{server.worker_port}",
            "NATIVELINK_JOBS": str(os.cpu_count()),
        }
        file = ROOT / "app/nativelink/configs/all_in_one.json5"
        command = [str(NATIVELINK), str(file)]
        with _process(server, command, pinned=False, environment=environment):
            yield server


@contextlib.contextmanager
def start_scheduler(*, origin_events: bool = False) -> Iterator[Server]:
    """A scheduler without workers, and a cache in memory for actions and commands."""
    with _folder() as folder:
        server = Server("our scheduler", free_port(), folder=folder, worker_port=free_port())
        file = folder / "config.json5"
        config = _scheduler_config(server)
        if origin_events:
            config["stores"].append({"name": "EVENTS", **_memory(server.folder)})
            config["experimental_origin_events"] = {"publisher": {"store": "EVENTS"}}
        file.write_text(json.dumps(config, indent=2))
        with _process(server, [str(NATIVELINK), str(file)], pinned=False, environment=None):
            yield server


def _scheduler_config(server: Server) -> dict[str, Any]:
    def listening(port: int, services: dict[str, Any]) -> dict[str, Any]:
        return {
            "listener": {"http": {"socket_address": f"127.0.0.1:{port}"}},
            "services": services,
        }

    public = {
        "cas": [{"instance_name": "", "cas_store": "CAS"}],
        "bytestream": [{"instance_name": "", "cas_store": "CAS"}],
        "capabilities": [{"instance_name": "", "remote_execution": {"scheduler": "MAIN"}}],
        "execution": [{"instance_name": "", "cas_store": "CAS", "scheduler": "MAIN"}],
    }
    return {
        "stores": [{"name": "CAS", **_memory(server.folder)}],
        "schedulers": [{"name": "MAIN", "simple": {"worker_timeout_s": 3600}}],
        "servers": [
            listening(server.port, public),
            listening(server.worker_port, {"worker_api": {"scheduler": "MAIN"}}),
        ],
    }


def external(specification: str) -> Server:
    """A peer that runs already, given as `name=host:port`."""
    name, _, address = specification.partition("=")
    host, _, port = address.rpartition(":")
    if not (name and host and port.isdigit()):
        raise SystemExit(f"PEERS: {specification!r} is not name=host:port")
    return Server(name, int(port), host=host)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    base = ROOT / ".cache/bench"
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _process(
    server: Server,
    command: Sequence[str],
    *,
    pinned: bool,
    environment: dict[str, str] | None,
) -> Iterator[None]:
    pin = ["taskset", "-c", str(SERVER_CORE)] if pinned else []
    started = time.perf_counter()
    with (server.folder / "log").open("wb") as log:
        server.process = subprocess.Popen(
            [*pin, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
    try:
        _wait(server, started)
        yield
    finally:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _wait(server: Server, started: float) -> None:
    """Wait for the first answer: connect often, then make a call."""
    assert server.process is not None
    while True:
        if server.process.poll() is not None or time.perf_counter() - started > 60:
            log = (server.folder / "log").read_text(errors="replace")
            raise SystemExit(f"{server.name} does not answer:\n{log[-4000:]}")
        try:
            socket.create_connection((server.host, server.port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.002)
    with server.client() as client, contextlib.suppress(grpc.RpcError):
        client.capabilities()
    server.start_s = time.perf_counter() - started
