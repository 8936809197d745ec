"""The container: what its archive says, and that it runs as it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nativelink.testing.execution import ExecutionClient
from scripts import image
from tests.clients.programs import run, running
from tests.execution.gate import wait_for
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("container")]

#: As a container runs it: nothing of the root can be written to but what is mounted there.
_ENTER = """
mount --bind "$0" "$0"
mount --rbind /dev "$0/dev"
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/tmp"
mount -t tmpfs -o uid=10001,gid=10001 tmpfs "$0/data"
mount -o remount,bind,ro "$0"
exec chroot --userspec=10001:10001 "$0" "$@"
"""


def _document(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None
    return json.loads(file.read())


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    """What the image says of itself."""
    with tarfile.open(image.ARCHIVE) as archive:
        (entry,) = _document(archive, "index.json")["manifests"]
        manifest = _document(archive, f"blobs/{entry['digest'].replace(':', '/')}")
        found: dict[str, Any] = _document(
            archive, f"blobs/{manifest['config']['digest'].replace(':', '/')}"
        )
    return found


@pytest.fixture(scope="module")
def config(description: dict[str, Any]) -> dict[str, Any]:
    """How it says to be run."""
    found: dict[str, Any] = description["config"]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its layers, one over the other."""
    folder = tmp_path_factory.mktemp("container")
    layers = folder / "layers"
    run(["skopeo", "copy", "--quiet", f"oci-archive:{image.ARCHIVE}", f"dir:{layers}"], timeout=300)
    manifest = json.loads((layers / "manifest.json").read_text())
    root = folder / "root"
    root.mkdir()
    for layer in manifest["layers"]:
        run(["tar", "-xf", layers / layer["digest"].partition(":")[2], "-C", root], timeout=300)
    assert not list(root.rglob(".wh.*")), "a layer that takes files away needs more than tar"
    yield root
    shutil.rmtree(folder)


def test_tools_of_others_read_the_archive() -> None:
    about = json.loads(run(["skopeo", "inspect", f"oci-archive:{image.ARCHIVE}"]))
    assert about["Os"] == "linux"
    assert len(about["Layers"]) == 2


def test_others_can_build_on_it(description: dict[str, Any]) -> None:
    """Builders count what made the layers, and refuse an image that has more of them."""
    made = [step for step in description["history"] if not step.get("empty_layer")]
    assert len(made) == len(description["rootfs"]["diff_ids"]) == 2
    assert all(step["created_by"] and step["created"] > "2020" for step in made)


def test_it_runs_as_nobody_special_and_says_how_it_is(config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/opt/nativelink/bin/nativelink"]
    assert config["Cmd"] == ["/opt/nativelink/configs/all_in_one.json5"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == ["/data"]


def inside(root: Path, config: dict[str, Any], *command: str, **variables: str) -> list[str]:
    """A command as a container engine would start it with a root that is read only."""
    own = dict(each.split("=", 1) for each in config["Env"])
    environment = [f"{name}={value}" for name, value in {**own, **variables}.items()]
    entered = ["unshare", "--mount", "bash", "-euc", _ENTER, str(root), "/usr/bin/env", "-i"]
    return [*entered, *environment, *command]


def test_nothing_in_it_can_be_written_to(root: Path, config: dict[str, Any]) -> None:
    script = "id -u; id -g; touch /opt/a /usr/a /var/a; touch /data/a /tmp/a && echo written"
    done = subprocess.run(
        inside(root, config, "sh", "-c", script), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["10001", "10001", "written"]
    assert done.stderr.count("Read-only file system") == 3


def test_it_serves_executes_is_healthy_and_drains(
    root: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    variables = {
        "NATIVELINK_ADDRESS": f"127.0.0.1:{free_port()}",
        "NATIVELINK_WORKER_API": f"127.0.0.1:{free_port()}",
    }
    check = inside(root, config, *config["Healthcheck"]["Test"][1:], **variables)

    def healthy() -> bool:
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    assert not healthy()
    with ExitStack() as lifetimes:
        command = inside(root, config, *config["Entrypoint"], *config["Cmd"], **variables)
        process = lifetimes.enter_context(running(command, tmp_path / "log"))
        wait_for(healthy, "the container is healthy")
        with ExecutionClient(variables["NATIVELINK_ADDRESS"], instance="main") as client:
            assert client.run("sh", "-c", "test -r /etc/debian_version").result.exit_code == 0
        process.terminate()
        assert process.wait(300) == 0


def test_it_has_a_bill_of_materials_and_no_wheels(root: Path) -> None:
    bill = json.loads((root / "opt/nativelink/sbom.cdx.json").read_text())
    assert {each["purl"].split("/")[0] for each in bill["components"]} == {"pkg:deb", "pkg:pypi"}
    assert not list(root.glob("bundle/*"))
    assert not {each["name"] for each in bill["components"]} & {"gcc", "systemd", "python3-pip"}
