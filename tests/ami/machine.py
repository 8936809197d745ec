"""A machine of the image: its root, entered by chroot, with this machine's network."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx

from ami.boot.prepare import read_environment
from infra.environment import ENVIRONMENT_FILE, VARIABLES, Role, lines
from nativelink.testing.imds import FakeImds
from scripts import image
from tests import plain_http
from tests.clients.programs import running
from tests.execution.gate import wait_for
from tests.stores.cloud.servers import KEY, SECRET

__all__ = ["Process", "enter", "forget", "prepare", "start"]

_UNIT = Path("ami/systemd/nativelink@.service")
#: Their numbers (capability.h), of those that workers have.
_CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "sys_admin": 21,
    "sys_resource": 24,
}
_WORKERS = Path("ami/systemd/nativelink@worker.service.d/actions.conf")


def enter(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as root in the machine's root."""
    return subprocess.run(
        image.enter(image.MACHINE, command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def forget() -> None:
    """Take away what roles and the boot script left, as a new machine has none of it."""
    (image.MACHINE / ENVIRONMENT_FILE.lstrip("/")).unlink(missing_ok=True)
    for folder in ("data", "run/nativelink"):
        for path in (image.MACHINE / folder).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def start(
    role: str, environment: Mapping[str, str], log: Path, status_port: int, lifetimes: ExitStack
) -> Process:
    """Start a role as its unit does: as its user, with the files of /opt/nativelink.

    Returns when its `/status` is good.
    """
    command = [*_as_unit(role), "/usr/bin/env", *_variables(environment)]
    command += ["/opt/nativelink/bin/nativelink", f"/opt/nativelink/configs/{role}.json5"]
    process = lifetimes.enter_context(running(image.enter(image.MACHINE, command), log))
    started = Process(process, log, f"http://127.0.0.1:{status_port}/status")
    wait_for(started.ready, f"the {role} is ready")
    return started


class Process:
    """A role that runs.

    Attributes:
        status: URL of its `/status`.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, status: str) -> None:
        self._process = process
        self._log = log
        self.status = status

    def ready(self) -> bool:
        """Whether `/status` is good; fails if it ended."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            return plain_http.get(self.status, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def drain(self) -> tuple[int, set[int]]:
        """Send SIGTERM; its exit code, and those of its processes that are still there."""
        family = _family(self._process.pid)
        assert self._process.pid in family
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(300)
        return code, {pid for pid in family if Path(f"/proc/{pid}").exists()}


def prepare(role: Role, told: Mapping[str, str], imds: FakeImds) -> dict[str, str]:
    """What a machine's unit reads, made by the boot script from what user data wrote.

    Args:
        role: which.
        told: values that are not those of the examples.
        imds: metadata of the machine.
    """
    values = {each.name: each.example for each in VARIABLES if role in each.roles}
    values |= {"NATIVELINK_ROLE": role, "NATIVELINK_IMDS": imds.url, **told}
    file = image.MACHINE / ENVIRONMENT_FILE.lstrip("/")
    file.write_text(lines(role, values))
    runtime = image.MACHINE / "run/nativelink"
    shutil.rmtree(runtime, ignore_errors=True)
    keys = [f"AWS_ACCESS_KEY_ID={KEY}", f"AWS_SECRET_ACCESS_KEY={SECRET}"]
    program = re.search(r"(?m)^ExecStart=(.*)$", _text("nativelink-prepare.service"))
    assert program is not None
    done = enter("/usr/bin/env", *keys, *program[1].split())
    assert done.returncode == 0, done.stderr
    # In the unit's order: the later one counts.
    found: dict[str, str] = {}
    for path in re.findall(r"(?m)^EnvironmentFile=-?(.*)$", _text(_UNIT.name)):
        found |= read_environment((image.MACHINE / path.lstrip("/")).read_text())
    return found


def _text(unit: str) -> str:
    return (image.MACHINE / "etc/systemd/system" / unit).read_text()


def _as_unit(role: str) -> list[str]:
    """The unit's user, group and capabilities."""
    command = ["setpriv", "--reuid=nativelink", "--regid=nativelink", "--clear-groups"]
    if role == "worker":
        (line,) = re.findall(r"(?m)^AmbientCapabilities=(.*)$", _WORKERS.read_text())
        names = [name.removeprefix("CAP_").lower() for name in line.split()]
        # A container gives its root fewer than a machine.
        (own,) = re.findall(r"(?m)^CapPrm:\s*(\w+)$", Path("/proc/self/status").read_text())
        wanted = ",".join(f"+{name}" for name in names if int(own, 16) >> _CAPABILITIES[name] & 1)
        command += [f"--inh-caps={wanted}", f"--ambient-caps={wanted}"]
    return [*command, "--no-new-privs"]


def _variables(environment: Mapping[str, str]) -> list[str]:
    variables = [f"{name}={value}" for name, value in environment.items()]
    for path in (_UNIT, _WORKERS) if environment.get("NATIVELINK_ROLE") == "worker" else (_UNIT,):
        for line in re.findall(r"(?m)^Environment=(.*)$", path.read_text()):
            variables += line.split()
    return variables


def _family(pid: int) -> set[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
