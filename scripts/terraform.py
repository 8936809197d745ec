#!/usr/bin/env python3
"""Run Terraform with the AWS provider of this machine: `scripts/terraform.py ARGUMENTS ...`.

Where a copy of the provider lies on this machine (in a folder laid out as a mirror), Terraform
takes it from there and asks no registry for it. `NATIVELINK_TERRAFORM_MIRROR` names the mirror;
else it is looked for once, and remembered in `.tools/terraform`. Without any, Terraform downloads
the provider as always.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".tools" / "terraform"
PROVIDER = "terraform-provider-aws_v5.100.0*"


class TerraformError(Exception):
    """There is no Terraform; the message says what to do."""


def program() -> str:
    """Terraform's path.

    Raises:
        TerraformError: it is not installed.
    """
    found = os.environ.get("TERRAFORM_BINARY_NAME") or shutil.which("terraform")
    if found is None:
        raise TerraformError(
            "no terraform here: install 1.11 or newer, or name it by TERRAFORM_BINARY_NAME"
        )
    return found


def _search() -> Path | None:
    """The mirror that holds the provider: its folder is MIRROR/HOST/hashicorp/aws/VERSION/ARCH."""
    usual = [
        Path("/opt"),
        Path("/usr/local/share"),
        Path("/usr/share"),
        Path.home() / ".terraform.d",
    ]
    for places in ([str(each) for each in usual if each.is_dir()], ["/"]):
        command = ["find", *places, "-xdev", "-name", PROVIDER, "-type", "f"]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        for line in found.stdout.splitlines():
            path = Path(line)
            parents = path.parents
            # Not the copies that Terraform itself makes below working directories.
            if len(parents) > 5 and ".terraform" not in path.parts and parents[2].name == "aws":
                return parents[5]
    return None


def mirror() -> Path | None:
    """Where the provider is on this machine, if anywhere."""
    named = os.environ.get("NATIVELINK_TERRAFORM_MIRROR")
    if named:
        return Path(named)
    note = FOLDER / "mirror.json"
    if note.exists():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known is None or Path(known).is_dir():
            return None if known is None else Path(known)
    found = _search()
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(str(found) if found else None), encoding="utf-8")
    partial.replace(note)
    return found


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables to run Terraform, or what calls it, with."""
    result = dict(os.environ if base is None else base)
    result["CHECKPOINT_DISABLE"] = "1"
    result["TF_IN_AUTOMATION"] = "1"
    result["TERRAFORM_BINARY_NAME"] = program()
    # Terraform and its provider read a large schema each time, and soon end: collecting garbage
    # meanwhile takes a fifth of their processor time.
    result.setdefault("GOGC", "800")
    result.setdefault("GOMEMLIMIT", "1GiB")
    here = mirror()
    if here is not None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        config = FOLDER / "terraform.rc"
        text = (
            "provider_installation {\n"
            f'  filesystem_mirror {{ path = "{here}" }}\n'
            f'  direct {{ exclude = ["registry.terraform.io/hashicorp/aws"] }}\n'
            "}\n"
        )
        if not config.exists() or config.read_text(encoding="utf-8") != text:
            partial = config.with_suffix(f".{os.getpid()}")
            partial.write_text(text, encoding="utf-8")
            partial.replace(config)
        result["TF_CLI_CONFIG_FILE"] = str(config)
    return result


def main() -> int:
    """Run Terraform with these arguments, in this process's place; 1 if there is none."""
    try:
        variables = environment()
    except TerraformError as failure:
        print(failure, file=sys.stderr)
        return 1
    return os.execve(variables["TERRAFORM_BINARY_NAME"], ["terraform", *sys.argv[1:]], variables)


if __name__ == "__main__":
    sys.exit(main())
