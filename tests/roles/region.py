"""The three roles as processes, from the packaged files, on moto and Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx

import nativelink
from nativelink.testing.execution import ExecutionClient
from tests import plain_http
from tests.clients.programs import running
from tests.execution.gate import wait_for
from tests.ports import free_port, free_ports
from tests.stores.cloud.servers import KEY, REGION, SECRET, Moto
from tests.stores.remote.redis_server import RedisServer

__all__ = ["CONFIGS", "Region", "open_region"]

CONFIGS = Path(nativelink.__file__).parent / "configs"
_PROGRAM = Path(sys.executable).with_name("nativelink")
_BUCKETS = ("nativelink-cas", "nativelink-ac")


class Region:
    """Moto, Redis, and the roles that were started.

    Attributes:
        folder: for data and logs.
        environment: variables of every role.
        client_port: where clients connect.
    """

    def __init__(self, folder: Path, lifetimes: ExitStack) -> None:
        self.folder = folder
        self._lifetimes = lifetimes
        self.moto = Moto()
        lifetimes.callback(self.moto.close)
        self.redis = RedisServer()
        lifetimes.callback(self.redis.close)
        self.client_port, self.worker_cas, self.scheduler, self.worker_api = free_ports(4)
        self.environment = {
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.moto.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "NATIVELINK_INSECURE_S3": "true",
            "NATIVELINK_REDIS_PORT": str(self.redis.port),
            "NATIVELINK_CLIENT_ADDRESS": f"127.0.0.1:{self.client_port}",
            "NATIVELINK_WORKER_CAS_ADDRESS": f"127.0.0.1:{self.worker_cas}",
            "NATIVELINK_CAS_ENDPOINT": f"grpc://127.0.0.1:{self.worker_cas}",
            "NATIVELINK_SCHEDULER_ADDRESS": f"127.0.0.1:{self.scheduler}",
            "NATIVELINK_SCHEDULER_ENDPOINT": f"grpc://127.0.0.1:{self.scheduler}",
            "NATIVELINK_WORKER_API_ADDRESS": f"127.0.0.1:{self.worker_api}",
            "NATIVELINK_WORKER_API_ENDPOINT": f"grpc://127.0.0.1:{self.worker_api}",
        }
        client = self.aws("s3")
        for bucket in _BUCKETS:
            client.create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
            )

    def aws(self, service: str) -> Any:
        """boto3's client of a service."""
        return boto3.client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def start(self, role: str, name: str = "", **environment: str) -> Role:
        """Start a role; returns when its `/status` is good."""
        role_folder = self.folder / (name or role)
        role_folder.mkdir(parents=True)
        return Role(
            role,
            role_folder,
            {
                **self.environment,
                "NATIVELINK_DATA": str(role_folder / "data"),
                "NATIVELINK_INSTANCE_ID": name or role,
                "NATIVELINK_OPERATOR_ADDRESS": f"127.0.0.1:{free_port()}",
                **environment,
            },
            self._lifetimes,
        )

    def keys(self, bucket: str) -> set[str]:
        """Names of all objects of a bucket."""
        pages = self.aws("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {each["Key"] for page in pages for each in page.get("Contents", ())}

    def client(self) -> ExecutionClient:
        """A client of the one address; use it as a context manager."""
        return ExecutionClient(f"127.0.0.1:{self.client_port}", instance="main")


class Role:
    """One process, which may be killed and started again.

    Attributes:
        process: the one that runs now.
        status: URL of its `/status`.
        operators: URL of the page for operators; only the scheduler has one.
    """

    def __init__(
        self, role: str, folder: Path, environment: dict[str, str], lifetimes: ExitStack
    ) -> None:
        port = free_port()
        self.status = f"http://127.0.0.1:{port}/status"
        self.operators = f"http://{environment['NATIVELINK_OPERATOR_ADDRESS']}/admin"
        self._log = folder / "log"
        self._name = role
        self._environment = {**environment, "NATIVELINK_STATUS_ADDRESS": f"127.0.0.1:{port}"}
        self._lifetimes = lifetimes
        self.start()

    def start(self) -> None:
        """Run it, and wait until its `/status` is good."""
        command = [_PROGRAM, CONFIGS / f"{self._name}.json5"]
        self.process: subprocess.Popen[bytes] = self._lifetimes.enter_context(
            running(command, self._log, environment=self._environment)
        )
        wait_for(self._ready, f"the {self._name} is ready")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(240)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return plain_http.get(self.status).status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """What it said."""
        return self._log.read_text()

    def workers(self) -> list[dict[str, Any]]:
        """The scheduler's workers."""
        found: list[dict[str, Any]] = json.loads(plain_http.get(f"{self.operators}/workers").text)[
            "MAIN"
        ]
        return found

    def stop(self) -> int:
        """Drain it; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(240)


@contextmanager
def open_region(folder: Path) -> Iterator[Region]:
    """A region without any role."""
    assert "AWS_PROFILE" not in os.environ
    with ExitStack() as lifetimes:
        yield Region(folder, lifetimes)
