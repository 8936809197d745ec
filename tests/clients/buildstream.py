"""BuildStream, as a client."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.clients.programs import ended, program

__all__ = ["BuildStream"]


class BuildStream:
    """A project, and a cache of its own that knows nothing of others.

    Args:
        project: its directory.
        folder: takes cache, logs and configuration.
        servers: what the configuration says of them.
    """

    def __init__(self, project: Path, folder: Path, servers: str) -> None:
        self._program = program("builders/bin/bst", tool="builders")
        self._project = project
        self._environment = {**os.environ, "HOME": str(folder)}
        self._file = folder / "buildstream.conf"
        folder.mkdir()
        caches = "".join(
            f"{name}: {folder}/{name}\n" for name in ("cachedir", "sourcedir", "logdir")
        )
        self._file.write_text(caches + servers)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Any command."""
        return ended(
            [self._program, "--no-interactive", "--config", self._file, *arguments],
            directory=self._project,
            environment=self._environment,
        )

    def tell(self, *arguments: str) -> str:
        """What a command says, which succeeds."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout
