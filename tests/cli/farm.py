"""A whole system in a thread of this process, and our command line that asks it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from nativelink.cli.main import app
from nativelink.compose.system import System, open_system
from nativelink.config.load import load_file
from nativelink.core.clock import SystemClock
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.testing.reapi import ReapiClient, digest_of

T = TypeVar("T")

CONFIG = """{
  stores: [{ name: "CAS", memory: { eviction_policy: { max_bytes: "64mb" } } },
           { name: "AC", memory: { eviction_policy: { max_bytes: "8mb" } } }],
  schedulers: [{ name: "MAIN",
                 simple: { supported_platform_properties: { cpu_count: "minimum" },
                           worker_timeout_s: 600 } }],
  servers: [{
    listener: { http: { socket_address: "127.0.0.1:0" } },
    services: {
      cas: [{ instance_name: "main", cas_store: "CAS" }],
      ac: [{ instance_name: "main", ac_store: "AC" }],
      bytestream: [{ instance_name: "main", cas_store: "CAS" }],
      execution: [{ instance_name: "main", cas_store: "CAS", scheduler: "MAIN" }],
      capabilities: [{ instance_name: "main", remote_execution: { scheduler: "MAIN" } }],
      admin: {},
    },
  }],
}"""


class Farm:
    """A running system; `call` and `wait_for` run something on its loop."""

    def __init__(self, system: System, loop: asyncio.AbstractEventLoop) -> None:
        self.system = system
        self.address = system.listeners[0].address
        self.url = f"grpc://{self.address}"
        self._loop = loop

    def call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return self.wait_for(run())

    def wait_for(self, coroutine: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def client(self) -> ReapiClient:
        return ReapiClient(self.address, instance="main")


@contextmanager
def farm(directory: Path, config: str = CONFIG) -> Iterator[Farm]:
    """A system from its start to its end."""
    file = directory / "farm.json5"
    file.write_text(config)
    started: list[Farm] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        system = open_system(load_file(file), version="1.2.3", environ={}, clock=SystemClock())
        async with system as opened:
            started.append(Farm(opened, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield started[0]
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


class Answer(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs our commands in this process, against one server."""

    def __init__(self, capture: pytest.CaptureFixture[str], url: str) -> None:
        self._capture = capture
        self._url = url

    def __call__(self, *arguments: str | Path) -> Answer:
        words = [str(each) for each in arguments]
        if "--server" not in words:
            words += ["--server", self._url]
        if "--instance" not in words:
            words += ["--instance", "main"]
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(words, prog_name="nativelink")
        out, err = self._capture.readouterr()
        return Answer(int(ended.value.code or 0), out, err)


def text_of(digest: pb.Digest) -> str:
    return f"{digest.hash}/{digest.size_bytes}"


class Blobs:
    """Makes messages and uploads them."""

    def __init__(self, client: ReapiClient) -> None:
        self._client = client

    def put(self, data: bytes) -> pb.Digest:
        if data:
            [answer] = self._client.batch_update([data]).responses
            assert answer.status.code == 0
        return digest_of(data)

    def directory(
        self,
        files: dict[str, bytes] | None = None,
        directories: dict[str, pb.Digest] | None = None,
        links: dict[str, str] | None = None,
        *,
        executables: tuple[str, ...] = (),
    ) -> pb.Digest:
        message = pb.Directory(
            files=[
                pb.FileNode(name=name, digest=self.put(data), is_executable=name in executables)
                for name, data in (files or {}).items()
            ],
            directories=[
                pb.DirectoryNode(name=name, digest=digest)
                for name, digest in (directories or {}).items()
            ],
            symlinks=[
                pb.SymlinkNode(name=name, target=target) for name, target in (links or {}).items()
            ],
        )
        return self.put(message.SerializeToString())

    def action(self, root: pb.Digest, command: pb.Command, **fields: object) -> str:
        digest = self.put(command.SerializeToString())
        action = pb.Action(command_digest=digest, input_root_digest=root, **fields)
        return text_of(self.put(action.SerializeToString()))


def environment(**variables: str) -> list[pb.Command.EnvironmentVariable]:
    return [
        pb.Command.EnvironmentVariable(name=name, value=value) for name, value in variables.items()
    ]


def platform(**properties: str) -> pb.Platform:
    return pb.Platform(
        properties=[
            pb.Platform.Property(name=name, value=value) for name, value in properties.items()
        ]
    )
