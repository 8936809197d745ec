"""The image, really booted: systemd is process 1 of a container with a network of its own.

Nothing that it writes reaches the image, and nothing that it does reaches this machine's network:
addresses of EC2 and AWS are loopback addresses in there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts import image
from scripts.image_bundle import ROOT
from tests.clients.programs import running
from tests.execution.gate import wait_for

__all__ = ["AWS", "Booted", "boot"]

#: What speaks AWS' protocols in there.
AWS = "http://127.0.0.1:5000"
_METADATA = "169.254.169.254"
#: The mounts are gone with the process.
_BOOT = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
: >"$1/root/etc/machine-id"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --link-journal=no \
  --console=pipe --machine=nativelink-test --directory="$1/root" --boot
"""
#: As EC2 gives a role's credentials, too.
_IMDS = """
import json, threading
from nativelink.testing.imds import FakeImds
role = {"Code": "Success", "AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "token",
        "Type": "AWS-HMAC", "LastUpdated": "2020-01-01T00:00:00Z",
        "Expiration": "2099-01-01T00:00:00Z"}
with FakeImds("169.254.169.254", 80) as imds:
    imds.said |= {
        "instance-id": "i-0123", "instance-type": "m7i.large",
        "placement/availability-zone": "eu-central-1a",
        "iam/security-credentials/": "machine",
        "iam/security-credentials/machine": json.dumps(role),
    }
    threading.Event().wait()
"""


class Booted:
    """A machine that has started."""

    def __init__(self, init: int, folder: Path, lifetimes: ExitStack) -> None:
        self._init = init
        self._folder = folder
        self._lifetimes = lifetimes

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command in the machine, as root."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return subprocess.run(
            ["nsenter", "--target", str(self._init), *spaces, *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def good(self, *command: str, stdin: str = "") -> str:
        """The output of a command that has to succeed."""
        done = self.run(*command, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def serve(self, name: str, *command: object) -> None:
        """Run a program of this machine on that one's network."""
        entered = ["nsenter", "--target", self._init, "--net", *command]
        environment = {"PYTHONPATH": str(ROOT / "app"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        log = self._folder / f"{name}.log"
        self._lifetimes.enter_context(running(entered, log, environment=environment))

    def listens(self, port: int) -> bool:
        """Whether somebody does."""
        return bool(self.good("ss", "--no-header", "--listening", "--tcp", f"sport = :{port}"))


@contextmanager
def boot(folder: Path) -> Iterator[Booted]:
    """Boot the machine, with metadata, AWS and Redis; it is killed at the end."""
    place = folder / "machine"
    place.mkdir()
    with ExitStack() as lifetimes:
        command = ["unshare", "--mount", "bash", "-euc", _BOOT, image.MACHINE, place]
        nspawn = lifetimes.enter_context(running(command, folder / "boot.log"))
        found: list[int] = []

        def started() -> bool:
            assert nspawn.poll() is None, (folder / "boot.log").read_text()
            children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
            found[:] = [pid for pid in map(int, children) if _is_init(pid)]
            return bool(found)

        wait_for(started, "systemd starts")
        booted = Booted(found[0], folder, lifetimes)
        wait_for(
            lambda: booted.run("systemctl", "is-system-running").stdout.strip() == "running",
            "the machine runs",
        )
        booted.good("ip", "link", "set", "lo", "up")
        booted.good("ip", "address", "add", f"{_METADATA}/32", "dev", "lo")
        booted.serve("imds", sys.executable, "-c", _IMDS)
        booted.serve("moto", Path(sys.executable).with_name("moto_server"), "--port", "5000")
        booted.serve(
            "redis", "redis-server", "--save", "", "--port", "6379", "--requirepass", "pass"
        )
        for port in (80, 5000, 6379):
            wait_for(lambda port=port: booted.listens(port), f"port {port} listens")
        yield booted


def _is_init(pid: int) -> bool:
    """Whether a process has become systemd."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"
    except OSError:
        return False
