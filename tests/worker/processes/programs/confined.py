"""Runs an action in namespaces under other circumstances: KIND DIRECTORY.

Kinds: `nobody` gives up being root first; `refused` goes where no user namespace may be made.
Prints how it went as JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "app"))

from nativelink.core.errors import NativeLinkError
from nativelink.worker.launch import Launch
from nativelink.worker.processes.launcher import Namespaces, ProcessLauncher
from nativelink.worker.processes.system import CLONE_NEWUSER, unshare

NOBODY = 65534
SCRIPT = """
id -u; echo $PPID; ls -A ..; echo /proc/[0-9]*
cat ../../hidden/secret || echo hidden
(setsid sleep 1000 &)
"""


async def run(directory: Path) -> str:
    action = directory / "work" / "action"
    launch = Launch(
        arguments=("/bin/sh", "-c", SCRIPT),
        environment={"PATH": "/usr/bin:/bin"},
        working_directory=action,
        action_directory=action,
        stdout=action / "stdout",
        stderr=action / "stderr",
    )
    namespaces = Namespaces(hidden=[directory / "work", directory / "hidden"])
    try:
        async with ProcessLauncher(namespaces=namespaces) as launcher:
            await launcher.run(launch, timeout_s=100)
    except NativeLinkError as error:
        return f"{error.code.name}: {error.message}"
    return (action / "stdout").read_text(encoding="utf-8")


def main(kind: str, directory: Path) -> None:
    if kind == "nobody":
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    elif kind == "refused":
        unshare(CLONE_NEWUSER)
        Path("/proc/self/uid_map").write_text("0 0 1", encoding="ascii")
        Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")
    for name in ("work/action", "work/other", "hidden"):
        (directory / name).mkdir(parents=True)
    (directory / "hidden" / "secret").write_text("secret\n", encoding="ascii")
    sys.stdout.write(json.dumps(asyncio.run(run(directory))))


main(sys.argv[1], Path(sys.argv[2]))
