"""A package of a workspace whose actions follow each other through gates that a test opens."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.execution.gate import wait_for

__all__ = ["STAGES", "STAGE_ACTIONS", "Stages"]

STAGES = 4
#: Actions of a stage beside its gate.
STAGE_ACTIONS = 6
#: What they make: from nothing over some kilobytes to a few megabytes that do not compress.
_SIZES = (0, 10, 5_000, 100_000, 1_000_000, 3_000_000)


class Stages:
    """The package `stages`: all actions of a stage, then its gate, then the next stage.

    Args:
        workspace: takes the package.
        gates: made for the gates' files.
    """

    def __init__(self, workspace: Path, gates: Path) -> None:
        self._gates = gates
        package = workspace / "stages"
        package.mkdir()
        text, before = "", ""
        for stage in range(STAGES):
            names = []
            for number, size in enumerate(_SIZES):
                name = f"stage{stage}_{number}"
                names.append(f":{name}")
                text += (
                    f'genrule(name = "{name}", outs = ["{name}.bin"], srcs = [{before}], cmd = '
                    f'"(openssl enc -aes-128-ctr -K {stage}{number} -iv 0 -in /dev/zero'
                    f' 2>/dev/null || true) | head -c {size} > $@")\n'
                )
            gate = f"gate{stage}"
            text += (
                f'genrule(name = "{gate}", outs = ["{gate}.txt"], srcs = {names!r}, cmd = "'
                f"touch {gates}/reached{stage}; while [ ! -e {gates}/open{stage} ]; "
                f'do sleep 0.02; done; echo through > $@")\n'.replace("'", '"')
            )
            before = f'":{gate}"'
        (package / "BUILD").write_text(text)
        self.close()

    @property
    def targets(self) -> list[str]:
        """All of it."""
        return ["//stages:all"]

    def close(self) -> None:
        """Close all gates."""
        shutil.rmtree(self._gates, ignore_errors=True)
        self._gates.mkdir()

    def wait(self, stage: int, build: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until a build has come to the gate behind a stage."""
        reached = self._gates / f"reached{stage}"
        wait_for(
            lambda: reached.exists() or build.poll() is not None,
            f"the build reaches gate {stage}",
            timeout_s=120,
        )
        assert reached.exists(), log.read_text()

    def open(self, stage: int) -> None:
        """Let it through."""
        (self._gates / f"open{stage}").touch()
