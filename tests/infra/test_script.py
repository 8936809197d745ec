"""`scripts/infra.py` before it starts anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, region: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/infra.py", *arguments],
        env={**os.environ, "REGION": region},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["deploy", "destroy"])
def test_what_could_ask_nobody_changes_nothing_and_says_how(command: str) -> None:
    done = run(command, region="team")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"nobody is here to be asked: scripts/infra.py {command} --yes\n"


@pytest.mark.slow
def test_without_a_region_it_says_what_to_write() -> None:
    assert run("plan", region="").stderr == "REGION is not set; such as: make plan REGION=team\n"
