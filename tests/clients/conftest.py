"""One server, one workspace and one pair of Bazels for all tests of real clients.

A Bazel takes seconds to start and many more to be at its best. So modules share three of them,
each with an output base of its own, and begin with `clean()`, after which it knows of no build.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.clients.bazel import Bazel
from tests.clients.certificates import Certificates, make_certificates
from tests.clients.checks import add_checks, coverage_flag
from tests.clients.programs import TOOLS, program
from tests.clients.server import RunningServer, start_server
from tests.clients.stages import Stages
from tests.clients.workspace import make_workspace
from tests.execution.gate import Gate


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("server"), certificates) as running:
        yield running


@pytest.fixture(scope="session")
def sources() -> Path:
    """Unpacked C programs, and a compiler for them."""
    program("tcc", tool="tcc")
    for package in ("lua5.4", "zlib"):
        if not (TOOLS / "src" / package).is_dir():
            program(f"src/{package}/README", tool="lua-source zlib-source")
    return TOOLS / "src"


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Where the gated actions of the workspace wait; close it before use."""
    return Gate(tmp_path_factory.mktemp("gate") / "files")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, sources: Path, gate: Gate) -> Path:
    """Programs at the top, `checks` and `stages` below."""
    folder = make_workspace(tmp_path_factory.mktemp("workspace") / "program", sources)
    add_checks(folder, gate)
    return folder


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Stages:
    """The package `stages` of the workspace, with all gates closed."""
    return Stages(workspace, tmp_path_factory.mktemp("stages") / "gates")


@pytest.fixture(scope="session")
def user_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Bazels unpack themselves: read-only folders that pytest's own clean-up trips over."""
    root = tmp_path_factory.mktemp("bazel")
    yield root
    subprocess.run(["chmod", "-R", "u+w", root], check=False)
    shutil.rmtree(root, ignore_errors=True)


#: A server that builds little and for minutes only spends more on its best compiler than it gets
#: from it: these halve its processor time.
THRIFTY = ("--host_jvm_args=-XX:TieredStopAtLevel=1", "--host_jvm_args=-XX:+UseSerialGC")


def debian_bazel(
    workspace: Path, user_root: Path, base: str, *, flags: Sequence[str] = ()
) -> Bazel:
    """Debian's Bazel. Its system rc file names its install base, so that must be read."""
    jni = program("jni/libnetty_tcnative_linux_x86_64.so", tool="bazel-tls").parent
    # Its netty speaks TLS with ALPN through OpenSSL only, and Debian packs that apart.
    startup = [
        *THRIFTY,
        "--host_jvm_args=-Xbootclasspath/a:/usr/share/java/netty-tcnative.jar",
        f"--host_jvm_args=-Djava.library.path={jni}",
    ]
    return Bazel(program("bazel"), workspace, user_root, base, startup=startup, flags=flags)


@pytest.fixture(scope="session")
def bazel(workspace: Path, user_root: Path) -> Iterator[Bazel]:
    """Bazel 4.2.3, with the output base of whoever builds first."""
    one = debian_bazel(workspace, user_root, "one", flags=[coverage_flag(workspace)])
    yield one
    one.stop()


@pytest.fixture(scope="session")
def other_bazel(workspace: Path, user_root: Path) -> Iterator[Bazel]:
    """The same Bazel with another output base: a colleague's machine."""
    two = debian_bazel(workspace, user_root, "two", flags=[coverage_flag(workspace)])
    yield two
    two.stop()


@pytest.fixture(scope="session")
def old_bazel(workspace: Path, user_root: Path) -> Iterator[Bazel]:
    """Bazel 2.1.0 out of the npm registry."""
    path = program("bazel2/bazel", tool="bazel2")
    old = Bazel(path, workspace, user_root, "old", startup=["--nosystem_rc", *THRIFTY])
    yield old
    old.stop()
