"""Bazel 7.7 of Debian sid, in a root of its own: `make test-clients`, not part of CI."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.assets import archive, open_origin, open_server
from tests.clients.assets import make_workspace as make_asset_workspace
from tests.clients.bazel import Bazel, Build
from tests.clients.certificates import Certificates
from tests.clients.checks import GATED, TESTS, add_checks, coverage_flag
from tests.clients.farm import FarmProcesses, open_processes
from tests.clients.programs import CLIENT_TESTS, ROOT
from tests.clients.server import RunningServer
from tests.clients.test_bazel import assert_all_hits, flags, secure_flags
from tests.clients.test_bazel_execution import flags as execution_flags
from tests.clients.test_bazel_execution import where
from tests.clients.test_build_events import Publishing, invocation_of
from tests.clients.workspace import MINIMUM_ACTIONS, make_workspace
from tests.execution.gate import Gate

pytestmark = [
    *CLIENT_TESTS,
    pytest.mark.skipif(not os.environ.get("BAZEL7"), reason="a longer run: make test-clients"),
]

#: Without modules, so that nothing is to be fetched.
OFFLINE = ["--noenable_bzlmod", "--enable_workspace"]
#: Debian's build of it does not find a local output with an accent in its name.
EVERYTHING = ["//...", "-//:odd", "-//checks/..."]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate7") / "files")


@pytest.fixture(scope="module")
def bazel7(
    tmp_path_factory: pytest.TempPathFactory, sources: Path, certificates: Certificates, gate: Gate
) -> Iterator[Bazel]:
    """A Bazel that sees one folder of this machine, under the same path."""
    shared = tmp_path_factory.mktemp("bazel7")
    workspace = make_workspace(shared / "program", sources, salt="7", compiler="cc")
    add_checks(workspace, gate)
    for file in certificates.authority.parent.iterdir():
        (shared / file.name).write_bytes(file.read_bytes())
    wrapper = shared / "bazel7"
    wrapper.write_text(f'#!/bin/bash\nexec {ROOT}/scripts/bazel7.sh {shared} "$@"\n')
    wrapper.chmod(0o755)
    startup = [
        "--host_jvm_args=-Xbootclasspath/a:/usr/share/java/netty-tcnative.jar",
        # Of netty's TLS, and of zstd.
        f"--host_jvm_args=-Djava.library.path=/opt/jni:/usr/lib/{platform.machine()}-linux-gnu",
    ]
    seven = Bazel(
        wrapper,
        workspace,
        shared / "root",
        "seven",
        startup=startup,
        flags=[*OFFLINE, coverage_flag(workspace)],
    )
    yield seven
    seven.stop()


@pytest.fixture(scope="module")
def cold(server: RunningServer, bazel7: Bazel) -> Build:
    return bazel7.build(*flags(server, "main"), targets=EVERYTHING)


def test_bazel_7_fills_and_reads_the_cache(
    server: RunningServer, bazel7: Bazel, cold: Build
) -> None:
    assert cold.hits == 0
    assert cold.executed >= MINIMUM_ACTIONS
    bazel7.clean()

    assert_all_hits(bazel7.build(*flags(server, "main"), targets=EVERYTHING), cold)


@pytest.mark.parametrize("mode", ["minimal", "toplevel"])
def test_bazel_7_builds_without_the_bytes(
    server: RunningServer, bazel7: Bazel, cold: Build, mode: str
) -> None:
    bazel7.clean()

    warm = bazel7.build(
        *flags(server, "main"), f"--remote_download_outputs={mode}", targets=EVERYTHING
    )

    assert_all_hits(warm, cold)
    assert bazel7.file("lua").exists() == (mode == "toplevel")


def test_bazel_7_recovers_from_blobs_lost_behind_minimal_downloads(
    server: RunningServer, bazel7: Bazel
) -> None:
    # Bazel has not downloaded what it believes to be in the cache; then some of it is gone.
    bazel7.clean()
    bazel7.build(*flags(server, "checked"), targets=EVERYTHING)
    bazel7.clean()
    bazel7.build(*flags(server, "checked"), "--remote_download_outputs=minimal", targets=["//:lua"])
    stored = [path for path in server.content_path("CHECKED_CAS").rglob("*") if path.is_file()]
    gone = [path for path in stored if path.stat().st_size > 2000]
    assert gone
    for path in gone:
        path.unlink()

    again = bazel7.build(
        *flags(server, "checked"),
        "--experimental_remote_cache_eviction_retries=5",
        targets=["//:lua", "//:out2"],
    )

    assert again.code == 0
    assert bazel7.file("s2.txt").read_text() == "script\t2\t200\tLua 5.4\n"


def test_bazel_7_over_mutual_tls(
    server: RunningServer, bazel7: Bazel, certificates: Certificates, cold: Build
) -> None:
    bazel7.clean()
    shared = bazel7.workspace.parent

    plain = secure_flags(server.mtls_port, certificates, "main")
    warm = bazel7.build(
        *(flag.replace(str(certificates.authority.parent), str(shared)) for flag in plain),
        f"--tls_client_certificate={shared / certificates.client.certificate.name}",
        f"--tls_client_key={shared / certificates.client.key.name}",
        targets=EVERYTHING,
    )

    assert_all_hits(warm, cold)


def test_bazel_7_compresses_what_it_transfers(
    server: RunningServer, bazel7: Bazel, cold: Build
) -> None:
    shared = bazel7.workspace.parent

    def build(log: str) -> tuple[Build, bytes]:
        bazel7.clean()
        compressing = ["--remote_cache_compression", f"--remote_grpc_log={shared / log}"]
        done = bazel7.build(*flags(server, "small"), *compressing, targets=EVERYTHING)
        return done, (shared / log).read_bytes()

    first, written = build("written")
    made = bazel7.file("lua").read_bytes()
    again, read = build("read")

    assert_all_hits(again, first)
    assert bazel7.file("lua").read_bytes() == made
    assert b"/compressed-blobs/zstd/" in written
    assert b"small/compressed-blobs/zstd/" in read


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcesses]:
    worker = {"max_inflight_tasks": 4}
    with open_processes(tmp_path_factory.mktemp("farm7"), worker=worker) as running:
        yield running


@pytest.fixture(scope="module")
def executed(farm: FarmProcesses, bazel7: Bazel) -> Build:
    """Everything built and tested on workers, accents included."""
    bazel7.clean()
    return bazel7.build(*execution_flags(farm), targets=["//..."], command="test", log=True)


def test_bazel_7_executes_on_workers(farm: FarmProcesses, bazel7: Bazel, executed: Build) -> None:
    assert set(where(executed)) == {"remote"}, where(executed)
    assert f"Executed {TESTS} out of {TESTS} tests: {TESTS} tests pass" in executed.output
    assert bazel7.file("tree/d/link.sh").is_symlink()


def test_bazel_7_gets_from_the_cache_what_workers_made(
    farm: FarmProcesses, bazel7: Bazel, executed: Build
) -> None:
    bazel7.clean()

    warm = bazel7.build(*execution_flags(farm), targets=["//..."], command="test", log=True)

    assert set(where(warm)) == {"remote cache hit"}, where(warm)
    assert warm.outputs() == executed.outputs()


def test_bazel_7_hears_why_an_action_failed(
    farm: FarmProcesses, bazel7: Bazel, executed: Build
) -> None:
    build = bazel7.build(*execution_flags(farm), targets=["//checks:broken"], ok=False)

    assert build.code == 1
    assert "what went wrong" in build.output


def test_bazel_7_reports_a_test_that_hangs_as_timeout_with_its_log(
    farm: FarmProcesses, bazel7: Bazel, executed: Build
) -> None:
    build = bazel7.build(
        *execution_flags(farm),
        # Bash, Bazel's scripts and the test come first.
        "--test_timeout=10",
        "--test_output=errors",
        targets=["//checks:hangs"],
        command="test",
        ok=False,
    )

    assert build.code == 3
    assert "TIMEOUT" in build.output
    assert "before the hang" in build.output


def test_bazel_7_resumes_an_interrupted_build(
    farm: FarmProcesses, bazel7: Bazel, executed: Build, gate: Gate, tmp_path: Path
) -> None:
    targets = [f"//checks:gated{number}" for number in range(GATED)]
    with bazel7.start(*execution_flags(farm), targets=targets, log=tmp_path / "log") as build:
        gate.wait(GATED)
        build.send_signal(signal.SIGINT)
        assert build.wait(240) == 8, (tmp_path / "log").read_text()
    gate.open()

    resumed = bazel7.build(*execution_flags(farm), targets=targets, log=True)

    assert set(where(resumed)) <= {"remote", "remote cache hit"}
    assert len(gate.arrived) == GATED


def test_bazel_7_tells_of_its_builds(
    bazel7: Bazel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ExitStack() as lifetimes:
        publishing = Publishing(tmp_path_factory.mktemp("events7"), lifetimes)
        bazel7.clean()
        targets = ["//checks/...", "//checks:fails", "//checks:broken"]
        flags = [*publishing.flags(), "--keep_going", "--bes_instance_name=acme"]
        done = bazel7.build(*flags, targets=targets, command="test", ok=False)
        assert done.code == 1, done.output
        assert "Build Event Protocol upload failed" not in done.output
        build = publishing.build(invocation_of(done.output))
        assert (build["state"], build["exit_name"]) == ("FAILED", "BUILD_FAILURE")
        assert build["project_id"] == "acme"
        assert (build["targets_built"], build["targets_failed"]) == (TESTS + 1, 1)
        assert (build["tests_passed"], build["tests_failed"]) == (TESTS, 1)
        assert build["failures"][0]["label"] == "//checks:broken"
        assert build["cache"]["actions"] == done.executed
        assert build["action_cache_misses"] > 0
        assert build["critical_path_time"] > 0
        assert build["wall_time"] > 0
        assert not build["incomplete"]

        bazel7.clean()
        again = bazel7.build(*publishing.flags(), targets=["//:lua"])
        assert again.executed == 0, again.runners
        assert publishing.build()["cache"]["rate"] == 1.0


@pytest.fixture(scope="module")
def downloading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bazel, Bazel]]:
    """Two Bazels, which know nothing of each other, in one workspace."""
    shared = tmp_path_factory.mktemp("assets7")
    (shared / "workspace").mkdir()
    wrapper = shared / "bazel7"
    wrapper.write_text(f'#!/bin/bash\nexec {ROOT}/scripts/bazel7.sh {shared} "$@"\n')
    wrapper.chmod(0o755)
    one, two = (
        Bazel(wrapper, shared / "workspace", shared / "root", base, flags=OFFLINE)
        for base in ("one", "two")
    )
    yield one, two
    one.stop()
    two.stop()


def test_bazel_7_downloads_through_the_server(
    tmp_path: Path, certificates: Certificates, downloading: tuple[Bazel, Bazel]
) -> None:
    here, there = downloading
    packed, data = archive("hello\n"), b"world\n"

    def built(bazel: Bazel) -> str:
        made = bazel.output_base / "execroot/assets/bazel-out/k8-fastbuild/bin/both.txt"
        return made.read_text()

    with open_server(tmp_path / "server", certificates.authority) as server:
        with open_origin(certificates.server) as origin:
            origin.pages = {"/a.tar.gz": packed, "/f.txt": data}
            urls = [origin.url("/gone.tar.gz"), origin.url("/a.tar.gz")], [origin.url("/f.txt")]
            make_asset_workspace(here.workspace, *urls, (packed, data))
            here.build(*server.flags())
            assert built(here) == "hello\nworld\n"

            # It reads no status in the answer; the error reaches it all the same.
            make_asset_workspace(here.workspace, *urls, (packed, b"else"))
            failed = here.build(*server.flags(), ok=False)
            assert failed.code != 0
            assert "its checksum is sha256" in failed.output
            make_asset_workspace(here.workspace, *urls, (packed, data))

        # There is no origin any more.
        there.build(*server.flags())
        assert built(there) == "hello\nworld\n"
