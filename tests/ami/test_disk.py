from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.ami.stubs import Stubs

_OWN = r"Amazon\x20EC2\x20NVMe\x20Instance\x20Storage"
_EBS = r"/dev/nvme0n1 Amazon\x20Elastic\x20Block\x20Store"


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    stubs = Stubs(tmp_path / "bin")
    for name in ("mdadm", "mkfs.xfs", "mount", "chown", "udevadm"):
        stubs.add(name)
    stubs.add("mountpoint", exit_code=1)
    stubs.add("blkid", exit_code=2)
    return stubs


def run(stubs: Stubs, folder: Path, *disks: str) -> subprocess.CompletedProcess[str]:
    stubs.add("lsblk", output="\n".join([_EBS, *(f"{disk} {_OWN}" for disk in disks)]))
    done = subprocess.run(
        ["/bin/bash", "ami/boot/disk.sh", str(folder / "data")],
        env=stubs.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "data").is_dir()
    assert f"chown nativelink:nativelink {folder}/data" in stubs.calls
    return done


def test_a_machine_without_disks_of_its_own_has_the_directory_on_its_root_disk(
    stubs: Stubs, tmp_path: Path
) -> None:
    done = run(stubs, tmp_path)
    assert "root disk" in done.stderr
    assert not stubs.of("mkfs.xfs", "mount", "mdadm")


def test_one_disk_gets_a_file_system(stubs: Stubs, tmp_path: Path) -> None:
    run(stubs, tmp_path, "/dev/nvme1n1")
    assert stubs.of("mkfs.xfs", "mount", "mdadm") == [
        "mkfs.xfs -q -f -K -L nativelink /dev/nvme1n1",
        f"mount -o noatime,nodev,nosuid /dev/nvme1n1 {tmp_path}/data",
    ]


def test_several_disks_become_one_without_redundancy(stubs: Stubs, tmp_path: Path) -> None:
    run(stubs, tmp_path, "/dev/nvme1n1", "/dev/nvme2n1")
    assemble, create, make, mount = stubs.of("mkfs.xfs", "mount", "mdadm")
    assert assemble == "mdadm --assemble --scan"
    assert create.endswith("--level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1")
    assert make.endswith(" /dev/md/nativelink")
    assert mount.endswith(f" /dev/md/nativelink {tmp_path}/data")


def test_what_an_earlier_boot_made_is_mounted_again(stubs: Stubs, tmp_path: Path) -> None:
    stubs.add("blkid", output="/dev/md127")
    run(stubs, tmp_path, "/dev/nvme1n1", "/dev/nvme2n1")
    assert stubs.of("mkfs.xfs", "mount") == [
        f"mount -o noatime,nodev,nosuid /dev/md127 {tmp_path}/data"
    ]


@pytest.mark.parametrize("broken", ["mkfs.xfs", "mount", "mdadm"])
def test_disks_that_cannot_be_used_do_not_keep_a_machine_from_serving(
    stubs: Stubs, tmp_path: Path, broken: str
) -> None:
    stubs.add(broken, exit_code=1)
    done = run(stubs, tmp_path, "/dev/nvme1n1", "/dev/nvme2n1")
    assert "cannot use /dev/nvme1n1 /dev/nvme2n1" in done.stderr


def test_a_second_run_changes_nothing(stubs: Stubs, tmp_path: Path) -> None:
    stubs.add("mountpoint")
    run(stubs, tmp_path, "/dev/nvme1n1")
    assert not stubs.of("mkfs.xfs", "mount", "mdadm")
