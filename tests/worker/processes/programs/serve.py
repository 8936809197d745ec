"""A server that runs one action: DIRECTORY SCRIPT."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "app"))

from nativelink.worker.launch import Launch
from nativelink.worker.processes.launcher import ProcessLauncher


async def main(directory: Path, script: str) -> None:
    async with ProcessLauncher() as launcher:
        await launcher.run(
            Launch(
                arguments=("/bin/sh", "-c", script),
                environment={"PATH": "/usr/bin:/bin"},
                working_directory=directory,
                action_directory=directory,
                stdout=directory / "stdout",
                stderr=directory / "stderr",
            ),
            timeout_s=100,
        )


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
