"""Terraform over synthesized stacks: what it makes of them, without a deployment."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.infra.tools import Stack, run

__all__ = ["Plan", "Planner", "planning"]

_LOCK = ".terraform.lock.hcl"
#: HOST/hashicorp/aws/VERSION/PLATFORM/PROGRAM, the last folder mostly a link.
_PROVIDER = "providers/*/hashicorp/aws/*/*/terraform-provider-aws_v*"
_ATTACH = "TF_REATTACH_PROVIDERS"


@dataclass(frozen=True)
class Plan:
    """What Terraform would do, made once; the emulator answers what planning has to ask AWS.

    Attributes:
        messages: all that it said.
        file: the plan itself.
    """

    messages: list[dict[str, Any]]
    file: Path

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Messages of a type."""
        return [each for each in self.messages if each["type"] == kind]


class Planner:
    """Terraform whose commands share one provider, which they would start several times each.

    Args:
        folder: what `terraform init` finds, for all stacks: they ask for the same.
        variables: the environment to run Terraform in.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.variables = {**variables, "TF_DATA_DIR": str(folder)}

    def run(self, stack: Stack, *arguments: str) -> str:
        """What a command prints; it fails with all of it."""
        command = [self.variables["TERRAFORM_BINARY_NAME"], *arguments, "-no-color"]
        return run(command, cwd=stack.directory, env=self.variables)

    def prepare(self, stack: Stack) -> Stack:
        """Have a state in a file whatever the stack's backend is, and the provider at hand."""
        override = {"terraform": {"backend": {"local": {"path": "terraform.tfstate"}}}}
        (stack.directory / "backend_override.tf.json").write_text(json.dumps(override))
        lock, known = stack.directory / _LOCK, self.folder / _LOCK
        if lock.exists():
            return stack
        if known.exists():
            shutil.copy(known, lock)
        else:
            self.run(stack, "init", "-input=false")
            shutil.copy(lock, known)
        return stack

    def plan(self, stack: Stack) -> Plan:
        """The plan of a stack."""
        said, file = stack.directory / "plan.jsonl", stack.directory / "plan"
        if not said.exists():
            self.prepare(stack)
            arguments = ("-input=false", "-lock=false", "-refresh=false", "-json", f"-out={file}")
            said.write_text(self.run(stack, "plan", *arguments))
        lines = said.read_text(encoding="utf-8").splitlines()
        return Plan([json.loads(line) for line in lines], file)


@contextmanager
def planning(
    folder: Path, first: Stack, variables: Mapping[str, str], emulator: str
) -> Iterator[Planner]:
    """Terraform with a provider that runs meanwhile.

    Args:
        folder: for what it needs, which is not there yet.
        first: a stack to find the provider for.
        variables: the environment to run Terraform in.
        emulator: URL of what answers in place of AWS.
    """
    planner = Planner(folder, variables)
    planner.prepare(first)
    (provider,) = folder.glob(_PROVIDER)
    asks = {
        "AWS_ENDPOINT_URL": emulator,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    # A provider that has read these certificates cannot be configured for a second plan; on
    # loopback there are none.
    inherited = {name: value for name, value in variables.items() if name != "AWS_CA_BUNDLE"}
    log = folder / "provider.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [provider, "-debug"],
            env={**inherited, **asks},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            # It tells people what to set, in quotes for their shells.
            told = next((line for line in process.stdout if f"{_ATTACH}=" in line), "")
            assert told, log.read_text()
            where = told.partition("=")[2].strip().strip("'")
            yield Planner(folder, {**inherited, **asks, _ATTACH: where})
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
