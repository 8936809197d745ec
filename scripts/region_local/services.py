"""The programs that stand for AWS: moto, Redis, and Terraform, which deploys to them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from scripts.region_local.processes import kill_tree
from scripts.terraform import ROOT, environment

__all__ = [
    "PORT",
    "REDIS_PORT",
    "ServiceError",
    "admit",
    "deploy",
    "moto",
    "outputs",
    "redis",
]

PORT: Final = 5000
REDIS_PORT: Final = 6379
_START_S: Final = 180.0
_END_S: Final = 30.0
#: Resources between two lines about how far Terraform is.
_SAID_EVERY: Final = 25
_SYNTHESIZER: Final = ROOT / ".tools/infra/bin/python"
#: What the synthesized stack follows from.
_SOURCES: Final = ("infra/**/*.py", "infra/**/*.yaml", "app/nativelink/aws/scaling.py", "ami/**/*")


class ServiceError(Exception):
    """Something does not start, or fails; the message has what it said."""


@contextmanager
def _running(
    command: Sequence[object], address: tuple[str, int], log: Path, variables: Mapping[str, str]
) -> Iterator[None]:
    """A program until the end of the context; it listens when the context begins."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"{command[0]} does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def moto(host: str, account: str, folder: Path) -> Iterator[str]:
    """AWS; gives its URL."""
    command = [sys.executable, "-m", "scripts.region_local.emulator", "-H", host, "-p", PORT]
    variables = {
        "PYTHONPATH": str(ROOT),
        "MOTO_ACCOUNT_ID": account,
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    }
    with _running(command, (host, PORT), folder / "moto.log", variables):
        yield f"http://{host}:{PORT}"


@contextmanager
def redis(host: str, folder: Path) -> Iterator[str]:
    """ElastiCache, with the parameters that are deployed; gives its HOST:PORT."""
    command = [
        "redis-server", "--bind", host, "--port", REDIS_PORT, "--save", "", "--dir", folder,
        "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru",
        "--notify-keyspace-events", "Exeg",
    ]  # fmt: skip
    if shutil.which("redis-server") is None:
        raise ServiceError("redis-server is not installed: run scripts/tools.py redis")
    with _running(command, (host, REDIS_PORT), folder / "redis.log", {}):
        yield f"{host}:{REDIS_PORT}"


def admit(host: str, user: str, access: str) -> None:
    """Make a user of Redis with the access string of ElastiCache's, and any password."""
    command = f"ACL SETUSER {user} {access} nopass\r\n"
    with socket.create_connection((host, REDIS_PORT), timeout=5) as connection:
        connection.sendall(command.encode())
        answer = connection.recv(4096)
    if not answer.startswith(b"+OK"):
        raise ServiceError(f"Redis: {command.strip()}: {answer.decode().strip()}")


async def deploy(
    region: Path,
    name: str,
    endpoint: str,
    redis_address: str,
    folder: Path,
    say: Callable[[str], None],
) -> Path:
    """Synthesize a region and apply it; gives the folder of the applied stack.

    Args:
        region: its settings.
        name: of the region, and of the stack.
        endpoint: URL of moto.
        redis_address: HOST:PORT.
        folder: keeps what was synthesized, for the next time that nothing has changed. Nobody
            else may use it meanwhile.
        say: told how far it is.

    Raises:
        ServiceError: with what Terraform said.
    """
    place = folder / _digest(region, endpoint, redis_address)
    stack = place / "cdktf.out/stacks" / name
    variables = environment()
    if not (stack / "cdk.tf.json").exists():
        say("synthesizing the stack")
        shutil.rmtree(folder, ignore_errors=True)
        place.mkdir(parents=True)
        await _run(
            [_SYNTHESIZER, "-m", "infra.main"],
            place,
            {
                **variables,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'app'}",
                "REGION": str(region),
                "CDKTF_OUTDIR": str(place / "cdktf.out"),
                "NATIVELINK_LOCAL": endpoint,
                "NATIVELINK_LOCAL_REDIS": redis_address,
                "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
            },
        )
    terraform = variables["TERRAFORM_BINARY_NAME"]
    if not (stack / ".terraform").exists():
        say("terraform init")
        await _run([terraform, "init", "-input=false", "-no-color"], stack, variables)
    # The state of an emulator that is gone.
    for state in place.glob("terraform.*.tfstate*"):
        state.unlink()
    say("terraform apply")
    await _apply(
        [terraform, "apply", "-auto-approve", "-input=false", "-no-color"], stack, variables, say
    )
    return stack


async def outputs(stack: Path) -> str:
    """The outputs of an applied stack, as JSON."""
    variables = environment()
    return await _run([variables["TERRAFORM_BINARY_NAME"], "output", "-json"], stack, variables)


def _digest(*parts: object) -> str:
    """Of everything that the synthesized stack follows from."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\0".encode())
    for pattern in _SOURCES:
        for file in sorted(ROOT.glob(pattern)):
            if file.is_file():
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@asynccontextmanager
async def _program(
    command: Sequence[object], folder: Path, variables: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that does not outlive the context, nor do those that it starts."""
    process = await asyncio.create_subprocess_exec(
        *[str(part) for part in command],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            kill_tree(process.pid)
            await process.wait()


async def _run(command: Sequence[object], folder: Path, variables: Mapping[str, str]) -> str:
    async with _program(command, folder, variables) as process:
        said = (await process.communicate())[0].decode()
    if process.returncode:
        what = " ".join(map(str, command))
        raise ServiceError(f"{what}: code {process.returncode}\n{said[-6000:]}")
    return said


async def _apply(
    command: Sequence[object],
    folder: Path,
    variables: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Run `terraform apply`, and say now and then how many resources there are."""
    said: list[str] = []
    made, total = 0, 0
    async with _program(command, folder, variables) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            said.append(line.decode())
            if found := re.match(r"Plan: (\d+) to add", said[-1]):
                total = int(found[1])
            if "Creation complete" in said[-1]:
                made += 1
                if made % _SAID_EVERY == 0 or made == total:
                    say(f"terraform apply: {made} of {total} resources")
        await process.wait()
    if process.returncode:
        raise ServiceError(f"terraform apply: code {process.returncode}\n{''.join(said)[-6000:]}")
