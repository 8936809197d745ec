"""Programs that the tests of the kit drive, and what they work on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from infra.reports.deployer_actions import RESOURCES
from infra.reports.stack import Resource
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools/infra/bin/python"
CDKTF = ROOT / ".tools/cdktf/node_modules/.bin/cdktf"
CHECKOV = ROOT / ".tools/scan/bin/checkov"
EXAMPLES = ROOT / "infra/examples"
ACCOUNT = "111122223333"


def need(*programs: Path | str) -> None:
    """Skip where a program is missing; fail where continuous integration runs.

    Args:
        programs: files that `make test` installs, or names of what a machine has.
    """
    for program in programs:
        there = program.exists() if isinstance(program, Path) else shutil.which(program)
        if not there:
            how = "make test installs it" if isinstance(program, Path) else "install it"
            message = f"{program} is missing: {how}"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)


def run(
    command: Sequence[str | Path], *, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> str:
    """A command's standard output; its whole output if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def terraform_environment() -> dict[str, str]:
    """The variables that `scripts/terraform.py` finds for this machine."""
    need(os.environ.get("TERRAFORM_BINARY_NAME", "terraform"))
    program = "import json, terraform; print(json.dumps(terraform.environment()))"
    found: dict[str, str] = json.loads(run([sys.executable, "-c", program], cwd=ROOT / "scripts"))
    return found


def synthesize(
    directory: Path, endpoint: str, *, flavour: str = "cdktf", only: str = ""
) -> dict[str, Path]:
    """Every example, by `PLACE/EXAMPLE`, made once however many processes ask.

    Args:
        directory: for what is made.
        endpoint: of an emulator, for what is made as on a laptop.
        flavour: the library.
        only: the one example that is made as on a laptop, too; all if it is empty.
    """
    need(PYTHON, "node")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "stacks.json").exists():
            path = f"{ROOT}:{ROOT / 'app'}"
            variables = {**os.environ, "PYTHONPATH": path, "CDK_FLAVOUR": flavour}
            program = ROOT / "tests/infra/synthesize.py"
            run([PYTHON, program, directory, endpoint, only], env=variables)
    stacks = json.loads((directory / "stacks.json").read_text(encoding="utf-8"))
    return {name: Path(path) for name, path in stacks.items()}


@dataclass(frozen=True)
class Stack:
    """A synthesized stack, as JSON."""

    name: str
    directory: Path

    @cached_property
    def json(self) -> dict[str, Any]:
        """What Terraform reads."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @cached_property
    def text(self) -> str:
        """The same as text."""
        return (self.directory / "cdk.tf.json").read_text(encoding="utf-8")

    @cached_property
    def resources(self) -> list[Resource]:
        """Every resource."""
        return [
            Resource(kind, name, body)
            for kind, named in self.json["resource"].items()
            for name, body in named.items()
        ]

    def of(self, kind: str) -> list[Resource]:
        """Those of a type that some stack has: what is asked of none would always be so."""
        assert kind in RESOURCES, kind
        return [each for each in self.resources if each.type == kind]

    def one(self, kind: str, ending: str) -> Resource:
        """The one of a type whose path ends so."""
        found = [each for each in self.of(kind) if each.path.endswith(ending)]
        assert len(found) == 1, f"{kind} …{ending}: {[each.path for each in self.of(kind)]}"
        return found[0]


@contextlib.contextmanager
def moto(log: Path) -> Iterator[str]:
    """An emulator of AWS in a process of its own; gives its address."""
    port = free_port()
    server = [sys.executable, "-m", "scripts.region_local.emulator"]
    variables = {**os.environ, "MOTO_ACCOUNT_ID": ACCOUNT, "PYTHONPATH": str(ROOT)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*server, "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=output,
            env=variables,
        )
        try:
            deadline = time.monotonic() + 300
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "moto does not start"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
