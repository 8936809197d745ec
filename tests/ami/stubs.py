"""Programs that change the machine, replaced by ones that write down what was asked of them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

__all__ = ["Stubs"]


class Stubs:
    """A directory of programs before all others on the path.

    Attributes:
        environment: for the script under test.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._log = folder.with_name("calls")
        self._log.touch()
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}"}

    def add(self, name: str, *, output: str = "", exit_code: int = 0) -> None:
        """A program, in place of an earlier one of that name."""
        path = self._folder / name
        path.write_text(
            "#!/bin/sh\n"
            f'echo "{name} $*" >>{shlex.quote(str(self._log))}\n'
            + (f"cat <<'END'\n{output}\nEND\n" if output else "")
            + f"exit {exit_code}\n"
        )
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """Every call with its arguments, in order."""
        return self._log.read_text().splitlines()

    def of(self, *names: str) -> list[str]:
        """Those of some programs."""
        return [call for call in self.calls if call.split()[0] in names]
