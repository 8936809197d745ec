"""Nobody of a machine's processes outlives it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.region_local.processes import kill_tree, tree_of, using
from tests.execution.gate import wait_for


def test_a_machine_takes_all_its_processes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    folder.mkdir()
    # One of them in a session of its own, as actions are.
    shell = "sleep 100 & setsid sleep 100 & echo ready; wait"
    with subprocess.Popen(
        ["sh", "-c", shell], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(tree_of(process.pid)) >= 3
        assert len(using(folder)) >= 3
        kill_tree(process.pid)
        process.wait()
    # Whoever was killed runs no line more, but is gone only when the kernel comes to it.
    wait_for(lambda: using(folder) == {}, "all are gone")
