"""Our server as a process of its own, as people run it: a file, an entry point, ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.clients.certificates import Certificates
from tests.clients.programs import running, wait_until_ready
from tests.ports import free_ports

__all__ = ["INSTANCES", "RunningServer", "start_server"]

#: Instance name -> prefix of its stores' names. `team/a` is a name with a slash; `disk` has no
#: memory in front, so what is done to its files is seen at once; nor has `checked`, whose action
#: cache gives no result with outputs that are gone; `old` starts empty for old Bazel. Blobs of
#: `small` travel compressed and in chunks, to clients that want it so.
INSTANCES = {
    "main": "MAIN",
    "team/a": "TEAM",
    "disk": "DISK",
    "checked": "CHECKED",
    "old": "OLD",
    "proxied": "PROXIED",
    # For clients by plain HTTP; its action cache is like that of `checked`.
    "web": "WEB",
    "small": "SMALL",
}


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.

    Attributes:
        port, tls_port, mtls_port: listeners on 127.0.0.1.
        folder: holds `STORE/content` of every store on disk, and the log.
    """

    process: subprocess.Popen[bytes]
    port: int
    tls_port: int
    mtls_port: int
    folder: Path

    def content_path(self, store: str) -> Path:
        """Where a filesystem store keeps its blobs."""
        return self.folder / store / "content"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM, drain, exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(240)


def _store(name: str, folder: Path) -> dict[str, Any]:
    disk = {
        "filesystem": {
            "content_path": str(folder / name / "content"),
            "temp_path": str(folder / name / "temp"),
            "eviction_policy": {"max_bytes": 4_000_000_000},
        }
    }
    if name in {"CHECKED_AC", "WEB_AC"}:
        cas = {"ref_store": {"name": name.replace("_AC", "_CAS")}}
        return {"name": name, "completeness_checking": {"backend": disk, "cas_store": cas}}
    if name.startswith(("DISK", "CHECKED")):
        return {"name": name, **disk}
    memory = {"memory": {"eviction_policy": {"max_bytes": 200_000_000}}}
    return {"name": name, "fast_slow": {"fast": memory, "slow": disk}}


def configuration(folder: Path, ports: list[int], certificates: Certificates) -> dict[str, Any]:
    """Every instance on three listeners: plain, TLS, mutual TLS."""
    services = {
        "cas": [
            {
                "instance_name": name,
                "cas_store": f"{store}_CAS",
                **({"experimental_chunking": {}} if name == "small" else {}),
            }
            for name, store in INSTANCES.items()
        ],
        "ac": [
            {"instance_name": name, "ac_store": f"{store}_AC"} for name, store in INSTANCES.items()
        ],
        "bytestream": [
            {"instance_name": name, "cas_store": f"{store}_CAS"}
            for name, store in INSTANCES.items()
        ],
        "capabilities": [
            {"instance_name": name, "remote_cache_compression": name == "small"}
            for name in INSTANCES
        ],
        "http_cache": [{"instance_name": name} for name in INSTANCES],
        "health": {},
        "admin": {},
    }
    tls = {
        "cert_file": str(certificates.server.certificate),
        "key_file": str(certificates.server.key),
    }
    listeners = [
        {"socket_address": f"127.0.0.1:{ports[0]}"},
        {"socket_address": f"127.0.0.1:{ports[1]}", "tls": tls},
        {
            "socket_address": f"127.0.0.1:{ports[2]}",
            "tls": {**tls, "client_ca_file": str(certificates.authority)},
        },
    ]
    stores = [f"{store}_{kind}" for store in INSTANCES.values() for kind in ("CAS", "AC")]
    return {
        "stores": [_store(name, folder) for name in stores],
        "servers": [{"listener": {"http": http}, "services": services} for http in listeners],
    }


@contextmanager
def start_server(folder: Path, certificates: Certificates) -> Iterator[RunningServer]:
    """Start it, wait until the last of its listeners answers, end it."""
    ports = free_ports(3)
    file, log = folder / "config.json5", folder / "log"
    file.write_text(json.dumps(configuration(folder, ports, certificates), indent=2))
    command = [Path(sys.executable).parent / "nativelink", file]
    with running(command, log, environment={"HOME": os.environ.get("HOME", "/")}) as process:
        credentials = grpc.ssl_channel_credentials(
            certificates.authority.read_bytes(),
            certificates.client.key.read_bytes(),
            certificates.client.certificate.read_bytes(),
        )
        wait_until_ready(f"127.0.0.1:{ports[2]}", log, process=process, credentials=credentials)
        yield RunningServer(process, ports[0], ports[1], ports[2], folder)
