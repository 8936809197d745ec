"""The root of a machine, as install.sh made it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from scripts import image
from scripts.image_bundle import ROOT
from tests.ami.machine import enter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("machine")]

_UNITS = [
    "nativelink@cas.service",
    "nativelink@scheduler.service",
    "nativelink@worker.service",
    "nativelink-disk.service",
    "nativelink-prepare.service",
    "nativelink-refresh.service",
    "nativelink-refresh.timer",
]

#: In a network namespace of its own: the address of the metadata, somebody who answers, the rules.
_ASK = r"""
ip link set lo up
ip address add 169.254.169.254/32 dev lo
nft -f /etc/nftables.conf
python3 -c '
import socket
server = socket.create_server(("169.254.169.254", 80))
print("listens", flush=True)
while True:
    server.accept()[0].close()
' >/tmp/listens &
until [ -s /tmp/listens ]; do :; done
ask() { "$@" python3 -c '
import socket
try:
    socket.create_connection(("169.254.169.254", 80), 5).close()
    print("reached")
except OSError as error:
    print(type(error).__name__)
'; }
ask
ask setpriv --reuid=nativelink --regid=nativelink --clear-groups
ask setpriv --reuid=nativelink --regid=nativelink-actions --clear-groups
ask setpriv --reuid=nobody --regid=nogroup --clear-groups
kill %1
rm /tmp/listens
"""


def run(*command: str) -> str:
    done = enter(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_image_finds_nothing_wrong_with_itself() -> None:
    assert run("/usr/lib/nativelink/test.sh").endswith("test: good\n")


def test_systemd_finds_nothing_wrong_with_the_units() -> None:
    names = [f"/etc/systemd/system/{name}" for name in _UNITS]
    assert run("systemd-analyze", "verify", *names) == ""


def test_the_settings_of_other_programs_are_good() -> None:
    run("nft", "--check", "--file", "/etc/nftables.conf")
    assert "error" not in run("rsyslogd", "-N1")
    run("logrotate", "--debug", "/etc/logrotate.d/nativelink")


def test_limits_are_ones_that_the_kernel_has() -> None:
    text = (image.MACHINE / "etc/sysctl.d/60-nativelink.conf").read_text()
    names = re.findall(r"(?m)^([a-z0-9_.]+) =", text)
    assert names
    for name in names:
        assert Path("/proc/sys", name.replace(".", "/")).exists(), name


def test_actions_do_not_reach_the_instances_metadata() -> None:
    done = subprocess.run(
        ["unshare", "--net", *image.enter(image.MACHINE, ["bash", "-euc", _ASK])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    root, program, action, nobody = done.stdout.splitlines()
    assert (root, program) == ("reached", "reached")
    assert "reached" not in (action, nobody)


#: The device is said to be one of the instance; a second boot has to find what the first made.
_DISK = r"""
mkdir /tmp/stubs
model='Amazon\\x20EC2\\x20NVMe\\x20Instance\\x20Storage'
printf '#!/bin/sh\necho "%s %s"\n' "$1" "$model" >/tmp/stubs/lsblk
chmod +x /tmp/stubs/lsblk
export PATH=/tmp/stubs:$PATH
/usr/lib/nativelink/disk.sh /data
findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS /data
stat --format %U:%G:%a /data
setpriv --reuid=nativelink --regid=nativelink --clear-groups touch /data/kept
/usr/lib/nativelink/disk.sh /data
umount /data
/usr/lib/nativelink/disk.sh /data
ls /data
rm -r /tmp/stubs
"""


def test_a_disk_of_the_instance_is_made_once_and_used_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    device = subprocess.run(
        ["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        done = enter("bash", "-euc", _DISK, "disk", device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert done.returncode == 0, done.stderr
    mounted, owner, content = done.stdout.splitlines()
    source, kind, options = mounted.split()
    assert (source, kind) == (device, "xfs")
    assert {"noatime", "nodev", "nosuid"} <= set(options.split(","))
    assert owner == "nativelink:nativelink:750"
    assert content == "kept"


def test_swap_is_off_and_packages_do_not_change_by_themselves() -> None:
    for unit in ("swap.target", "apt-daily.timer", "apt-daily-upgrade.timer"):
        assert (image.MACHINE / "etc/systemd/system" / unit).readlink() == Path("/dev/null")


def test_what_starts_at_boot() -> None:
    for unit in ("chrony", "nftables", "rsyslog", "nativelink-disk", "nativelink-refresh.timer"):
        assert run("systemctl", "is-enabled", unit).strip() == "enabled", unit
    # User data says which role.
    assert enter("systemctl", "is-enabled", "nativelink@cas").stdout.strip() == "disabled"


def test_the_bill_of_materials_lists_every_package() -> None:
    bill = json.loads((image.MACHINE / "opt/nativelink/sbom.cdx.json").read_text())
    assert bill["specVersion"] == "1.6"
    by_url = {each["purl"]: each for each in bill["components"]}
    lock = (ROOT / "requirements/runtime.txt").read_text()
    # What another system or another Python would need is not there.
    locked = re.findall(r"(?m)^([a-z0-9.-]+)==([^ ]+)(?: ; (.*?))? \\$", lock)
    wanted = [
        f"pkg:pypi/{re.sub(r'[-_.]+', '-', name)}@{version}"
        for name, version, marker in locked
        if "win32'" not in marker.replace("!= 'win32'", "") and ">= '3.12'" not in marker
    ]
    assert len(wanted) > 50
    for url in wanted:
        digest = by_url[url]["hashes"][0]["content"]
        assert f"--hash=sha256:{digest}" in lock, url
    assert any(url.startswith("pkg:pypi/nativelink@") for url in by_url)
    listing = run("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n")
    installed = {line.split()[1] for line in listing.splitlines() if line.startswith("installed ")}
    debian = {url.split("/")[2].split("@")[0] for url in by_url if url.startswith("pkg:deb/")}
    assert {name.replace("%2B", "+") for name in debian} == installed


def test_nothing_that_installs_packages_is_left_with_the_program() -> None:
    site = image.MACHINE / "opt/nativelink/lib/python3.11/site-packages"
    assert list(site.glob("nativelink*"))
    assert not list(site.glob("pip*"))
    assert not list(site.glob("cyclonedx*"))
    assert not (image.MACHINE / "bundle").exists()


def state(*folders: str) -> dict[str, str]:
    """What is below some folders: owner, mode and content of each file."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in (image.MACHINE / folder).rglob("*"):
            status = path.lstat()
            what = f"{status.st_uid}:{status.st_gid} {status.st_mode:o} "
            if path.is_symlink():
                what += str(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
                if path.name == "sbom.cdx.json":
                    content = re.sub(rb'"timestamp": "[^"]*"', b"", content)
                what += hashlib.sha256(content).hexdigest()
            found[str(path.relative_to(image.MACHINE))] = what
    return found


def test_installing_twice_changes_nothing() -> None:
    folders = ("etc", "opt", "usr/lib/nativelink", "var/lib/dpkg")
    before = state(*folders)
    image.install()
    after = state(*folders)
    names = before.keys() | after.keys()
    assert {name for name in names if before.get(name) != after.get(name)} == set()
