#!/usr/bin/env python3
"""Deploy a region: `scripts/infra.py synth|plan|deploy|destroy|outputs|hcl`, with REGION=NAME.

Calls `cdktf` of `.tools/cdktf` with what it needs; `make synth` and its sisters call this.
STACK=bootstrap means the bucket of Terraform's state instead of the region.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from terraform import ROOT, TerraformError, environment

CDKTF = ROOT / ".tools/cdktf/node_modules/.bin/cdktf"
#: Terraform's provider is pinned exactly; the lock of it would ask the registry.
NO_LOCK = "--skip-provider-lock"
ARGUMENTS = {
    "synth": ["synth"],
    "hcl": ["synth", "--hcl"],
    "plan": ["diff", NO_LOCK],
    "deploy": ["deploy", NO_LOCK],
    "destroy": ["destroy", NO_LOCK],
}

#: What is asked about before it is done.
CHANGES = ("deploy", "destroy")


def variables(*, asks: bool = False) -> dict[str, str]:
    """What `cdktf` runs with: as in a pipeline, where its output is plain, unless it has to ask."""
    return {
        **environment(),
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
        "CI": "false" if asks else os.environ.get("CI", "1"),
    }


def cdktf(arguments: Sequence[str], *, asks: bool = False) -> int:
    """Run `cdktf` here; gives its exit code."""
    return subprocess.run(
        [str(CDKTF), *arguments], cwd=ROOT, env=variables(asks=asks), check=False
    ).returncode


def outputs() -> int:
    """Print what the team is handed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outputs.json"
        command = [str(CDKTF), "output", NO_LOCK, "--outputs-file", str(file)]
        done = subprocess.run(
            command, cwd=ROOT, env=variables(), capture_output=True, text=True, check=False
        )
        if done.returncode or not file.exists():
            print(done.stdout + done.stderr, file=sys.stderr)
            return done.returncode or 1
        found = json.loads(file.read_text(encoding="utf-8"))
    for values in found.values():
        for name, value in values.items():
            if name != "bazelrc":
                print(f"{name}: {value}")
        if "bazelrc" in values:
            print(f"\n# .bazelrc\n{values['bazelrc']}")
    return 0


def main() -> int:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=[*ARGUMENTS, "outputs"])
    parser.add_argument("--yes", action="store_true", help="do not ask before changes")
    arguments = parser.parse_args()
    if not os.environ.get("REGION"):
        print("REGION is not set; such as: make plan REGION=team", file=sys.stderr)
        return 2
    try:
        if arguments.command == "outputs":
            return outputs()
        more = ["--auto-approve"] if arguments.yes else []
        asks = arguments.command in CHANGES and not arguments.yes
        if asks and not sys.stdin.isatty():
            print(
                f"nobody is here to be asked: scripts/infra.py {arguments.command} --yes",
                file=sys.stderr,
            )
            return 2
        return cdktf([*ARGUMENTS[arguments.command], *more], asks=asks)
    except TerraformError as failure:
        print(failure, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
