#!/usr/bin/env python3
"""Make images here, without a container daemon: `scripts/image.py container | machine`.

- `container` writes `dist/nativelink-image.oci.tar`, an OCI archive, from `ami/Containerfile`:
  buildah runs it, on a base that mmdebstrap makes out of the archives that this machine's apt
  knows. Tools that know images load it (`skopeo copy`, `podman load`).
- `machine` makes the root of a machine in `.tools/image/machine`, which tests start roles in.

What was made is made again only when something in it changed; `--fresh` takes the operating
system's newest packages too. Needs root, for other roots and their mounts.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import image_bundle
from scripts.image_bundle import BUNDLE, ROOT

FOLDER: Final = ROOT / ".tools" / "image"
BASE: Final = FOLDER / "base.tar"
MACHINE: Final = FOLDER / "machine"
ARCHIVE: Final = ROOT / "dist" / "nativelink-image.oci.tar"
SUITE: Final = "bookworm"
#: Of the base: what a container needs, so that its build downloads nothing.
_PACKAGES: Final = ROOT / "ami/packages/container.txt"
_NAME: Final = "localhost/nativelink"
_ENTER: Final = """
mount --rbind /dev "$0/dev"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
exec chroot "$0" "$@"
"""
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


def run(command: Sequence[str | Path], folder: Path = ROOT) -> str:
    """Standard output of a command in a folder; its whole output if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def bundle() -> Path:
    """What is installed; renewed here."""
    image_bundle.write(BUNDLE)
    return BUNDLE


def base() -> Path:
    """A Debian with nothing but what a container needs."""
    key = hashlib.sha256(_PACKAGES.read_bytes()).hexdigest()
    ready = BASE.with_suffix(".key")
    if BASE.exists() and ready.exists() and ready.read_text() == key:
        return BASE
    lines = _PACKAGES.read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    listings = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    sources = [
        path for path in listings if path.is_file() and "debian-archive" in path.read_text()
    ] or [path for path in listings if path.is_file() and SUITE in path.read_text()]
    if not sources:
        raise SystemExit(f"image: apt on this machine names no archive with Debian's {SUITE}")
    print("image: Debian's packages", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = BASE.with_suffix(".partial.tar")
    options = ["--quiet", "--variant=minbase", f"--include={','.join(wanted)}"]
    # Nobody turns the power off meanwhile; syncing each file takes most of the time.
    options += ["--dpkgopt=force-unsafe-io"]
    run(["mmdebstrap", *options, SUITE, partial, *sources])
    partial.replace(BASE)
    ready.write_text(key)
    return BASE


def unpack(archive: Path, folder: Path) -> Path:
    """Put an archive's files into a folder that has nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(["tar", "--extract", "--file", archive, "--directory", folder])
    return folder


# --- a machine --------------------------------------------------------------------------------


def enter(root: Path, command: Sequence[str]) -> list[str]:
    """A command in another root, with its own mounts and this machine's network.

    What runs has the process id of what was started.
    """
    inside = ["/usr/bin/env", "-i", f"PATH={_PATH}", "LC_ALL=C.UTF-8", *command]
    return ["unshare", "--mount", "bash", "-euc", _ENTER, str(root), *inside]


def machine() -> Path:
    """A root with all that a machine has; an earlier one is brought up to date."""
    unpack(bundle(), FOLDER / "bundle")
    key = hashlib.sha256(BUNDLE.read_bytes()).hexdigest()
    ready = FOLDER / "machine.key"
    if ready.exists() and ready.read_text() == key:
        return MACHINE
    ready.unlink(missing_ok=True)
    if not (MACHINE / "etc/debian_version").exists():
        unpack(base(), MACHINE)
    install()
    ready.write_text(key)
    return MACHINE


def install() -> None:
    """Run both layers of the unpacked bundle in the machine's root."""
    shutil.copyfile("/etc/resolv.conf", MACHINE / "etc/resolv.conf")
    inside = MACHINE / "bundle"
    shutil.rmtree(inside, ignore_errors=True)
    shutil.copytree(FOLDER / "bundle", inside)
    for layer in ("base", "stack"):
        print(f"image: the machine's {layer}", flush=True)
        run(enter(MACHINE, ["/bundle/install.sh", layer]))
    shutil.rmtree(inside)


# --- a container ------------------------------------------------------------------------------


def buildah(*arguments: str | Path) -> str:
    """buildah, in `FOLDER`, with storage of its own: neither a daemon nor overlays."""
    places: list[str | Path] = ["--root", FOLDER / "storage", "--runroot", FOLDER / "run"]
    return run(["buildah", *places, "--storage-driver", "vfs", *arguments], FOLDER)


def container(archive: Path = ARCHIVE) -> Path:
    """Build `ami/Containerfile`, and write it as an OCI archive."""
    content = unpack(bundle(), FOLDER / "bundle")
    key = hashlib.sha256(BUNDLE.read_bytes()).hexdigest()
    ready = FOLDER / "container.key"
    if archive.exists() and ready.exists() and ready.read_text() == key:
        return archive
    start = base()
    print("image: the container", flush=True)
    shutil.rmtree(FOLDER / "storage", ignore_errors=True)
    try:
        options = ["--isolation", "chroot", "--format", "docker", "--pull-never"]
        options += ["--build-arg", f"BASE={layout(start, FOLDER / 'base')}", "--tag", _NAME]
        buildah("build", *options, "--file", str(content / "Containerfile"), content)
        # The only form in which buildah keeps a health check.
        (image,) = json.loads(buildah("inspect", "--type", "image", _NAME).join("[]"))
        healthcheck = image["Docker"]["config"]["Healthcheck"]
        partial = FOLDER / "image.tar"
        partial.unlink(missing_ok=True)
        buildah("push", "--quiet", _NAME, f"oci-archive:{partial}:nativelink:latest")
    finally:
        shutil.rmtree(FOLDER / "storage", ignore_errors=True)
        shutil.rmtree(FOLDER / "base", ignore_errors=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    amend(partial, archive, lambda config: config["config"].update(Healthcheck=healthcheck))
    partial.unlink()
    ready.write_text(key)
    return archive


def layout(layer: Path, folder: Path) -> str:
    """An archive as an image of one layer, under the name by which buildah begins with it.

    It is a layer already: buildah would unpack it, and pack it again. The name is relative to the
    folder above: buildah makes an image's name of it, in which it takes no `/.tools`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (blobs / digest).hardlink_to(layer)
    media = "application/vnd.oci.image"
    about: dict[str, Any] = {"mediaType": f"{media}.layer.v1.tar", "digest": f"sha256:{digest}"}
    about["size"] = layer.stat().st_size
    config: dict[str, Any] = {"mediaType": f"{media}.config.v1+json"}
    manifest: dict[str, Any] = {"mediaType": f"{media}.manifest.v1+json"}
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    files: dict[str, bytes] = {}
    architecture = run(["dpkg", "--print-architecture"]).strip()
    created = datetime.fromtimestamp(layer.stat().st_mtime, UTC).isoformat()
    system: dict[str, Any] = {"architecture": architecture, "os": "linux", "created": created}
    system["config"] = {}
    system["rootfs"] = {"type": "layers", "diff_ids": [about["digest"]]}
    # Who builds on the image counts these, and finds as many layers.
    system["history"] = [{"created": created, "created_by": "mmdebstrap"}]
    _replace(files, config, system)
    described = {"schemaVersion": 2, "mediaType": manifest["mediaType"]}
    _replace(files, manifest, described | {"config": config, "layers": [about]})
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    files["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return f"oci:{folder.name}:base"


def amend(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Copy an OCI archive of one image with another configuration.

    OCI's own configuration has no health check; Docker reads one from it all the same, where
    BuildKit writes it.
    """
    with tarfile.open(source) as old:
        files = {
            entry.name.removeprefix("./"): _content(old, entry)
            for entry in old.getmembers()
            if entry.isfile()
        }
    index = json.loads(files["index.json"])
    (image,) = index["manifests"]
    manifest = json.loads(files.pop(_blob(image["digest"])))
    config = json.loads(files.pop(_blob(manifest["config"]["digest"])))
    change(config)
    _replace(files, manifest["config"], config)
    _replace(files, image, manifest)
    files["index.json"] = json.dumps(index).encode()
    beside = target.with_name(f".{target.name}.new")
    with tarfile.open(beside, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            new.addfile(entry, io.BytesIO(content))
    beside.replace(target)


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file is not None
    return file.read()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _replace(files: dict[str, bytes], descriptor: dict[str, Any], value: dict[str, Any]) -> None:
    """Add a document, and let its descriptor point at it."""
    content = json.dumps(value).encode()
    descriptor["digest"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    descriptor["size"] = len(content)
    files[_blob(descriptor["digest"])] = content


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("container", "machine"), nargs="+")
    parser.add_argument("--fresh", action="store_true", help="with the newest of Debian's packages")
    told = parser.parse_args()
    if os.geteuid() != 0:
        os.execvp("sudo", ["sudo", sys.executable, *sys.argv])
    if told.fresh:
        shutil.rmtree(FOLDER / "machine", ignore_errors=True)
        for made in (BASE, *FOLDER.glob("*.key")):
            made.unlink(missing_ok=True)
    for what in told.what:
        path = container() if what == "container" else machine()
        print(f"image: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
