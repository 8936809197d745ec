"""What EC2 Image Builder is given, and Packer."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.programs import program

_AMI = Path(__file__).parents[2] / "ami"
_COMPONENTS = sorted((_AMI / "components").glob("*.yaml"))
_SCRIPTS = [
    _AMI / "install.sh",
    *sorted(_AMI.glob("scripts/*.sh")),
    *sorted(_AMI.glob("boot/*.sh")),
]
#: What Image Builder accepts inline.
_MOST_BYTES = 16_000


def _named(path: Path) -> str:
    return path.name


def steps_of(path: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load(path.read_text())
    return [step for phase in document["phases"] for step in phase["steps"]]


def commands_of(path: Path) -> list[str]:
    return [
        command
        for step in steps_of(path)
        if step["action"] == "ExecuteBash"
        for command in step["inputs"]["commands"]
    ]


@pytest.mark.parametrize("path", _COMPONENTS, ids=_named)
def test_a_component_has_the_form_that_image_builder_takes(path: Path) -> None:
    assert path.stat().st_size <= _MOST_BYTES
    document = yaml.safe_load(path.read_text())
    assert document["name"] == path.stem
    assert document["schemaVersion"] == 1.0
    assert document["description"]
    phases = {phase["name"] for phase in document["phases"]}
    assert phases == ({"test"} if path.stem == "test" else {"build"})
    for step in steps_of(path):
        assert step["action"] in {"ExecuteBash", "S3Download"}
        assert set(step) <= {"name", "action", "inputs", "timeoutSeconds"}
    for command in commands_of(path):
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)


@pytest.mark.parametrize("path", _COMPONENTS, ids=_named)
def test_what_a_component_is_told_is_what_it_asks_for(path: Path) -> None:
    text = path.read_text()
    declared = {name for each in yaml.safe_load(text).get("parameters", ()) for name in each}
    assert declared == set(re.findall(r"{{ (\w+) }}", text))
    source = (_AMI.parent / "infra/modules/images.py").read_text()
    found = re.search(r"_INSTALLING: Final = frozenset\((.*)\)", source)
    assert found is not None
    assert (path.stem in ast.literal_eval(found[1])) == bool(declared)


def test_what_components_and_packer_run_is_in_the_bundle_or_was_installed_from_it() -> None:
    texts = [path.read_text() for path in (*_COMPONENTS, _AMI / "packer/nativelink.pkr.hcl")]
    scripts = re.findall(r"/tmp/nativelink/([\w/]+\.sh)", "\n".join(texts))
    assert set(scripts) == {"install.sh", "scripts/clean.sh"}
    for script in scripts:
        assert os.access(_AMI / script, os.X_OK)
    assert all("/usr/lib/nativelink/test.sh" in text for text in (texts[-1], texts[-2]))
    assert '/usr/lib/nativelink "$here/scripts/test.sh"' in (_AMI / "scripts/stack.sh").read_text()


@pytest.mark.slow
def test_packer_finds_nothing_wrong_with_the_template(tmp_path: Path) -> None:
    # Debian's Packer is older than blocks of required plugins, which are a file of their own.
    packer, template = program("packer"), _AMI / "packer/nativelink.pkr.hcl"
    bundle = tmp_path / "bundle"
    bundle.touch()
    for arguments in (
        ["fmt", "-check", template.parent],
        ["validate", "-var", "region=eu-central-1", "-var", f"bundle={bundle}", template],
    ):
        done = subprocess.run(
            [packer, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CHECKPOINT_DISABLE": "1", "AWS_EC2_METADATA_DISABLED": "true"},
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", _SCRIPTS, ids=_named)
def test_a_script_can_be_run_and_stops_at_the_first_error(path: Path) -> None:
    assert os.access(path, os.X_OK)
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n#")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.slow
def test_shellcheck_finds_nothing_wrong_with_the_scripts() -> None:
    done = subprocess.run(
        [program("shellcheck"), *_SCRIPTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((_AMI / "packages").glob("*.txt")), ids=_named)
def test_a_list_of_packages_is_in_order(path: Path) -> None:
    names = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in names)
