"""Bazel, ccache, sccache, Turborepo and curl over plain HTTP, each the real program."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.bazel import Bazel, Build
from tests.clients.certificates import Certificates
from tests.clients.programs import CLIENT_TESTS, program, run, running
from tests.clients.server import RunningServer
from tests.clients.test_bazel import assert_all_hits, flags
from tests.clients.workspace import MINIMUM_ACTIONS
from tests.ports import free_port

pytestmark = CLIENT_TESTS

#: Larger than any buffer on the way.
LARGE = bytes(range(256)) * 80_000


def url(server: RunningServer) -> str:
    """The cache of an instance that nobody else uses."""
    return f"http://127.0.0.1:{server.port}/web"


def told(command: Sequence[object], directory: Path, **environment: str) -> str:
    """What a program says, run with a clean home of its own."""
    return run(
        command,
        directory=directory,
        environment={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
    )


# -- Bazel -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cold(server: RunningServer, bazel: Bazel) -> Build:
    """The build that fills the cache."""
    bazel.clean()
    build = bazel.build(f"--remote_cache={url(server)}", log=True)
    assert "WARNING" not in build.output, build.output
    return build


def test_bazel_fills_the_cache_over_http(cold: Build) -> None:
    assert cold.hits == 0
    assert cold.executed >= MINIMUM_ACTIONS


def test_bazel_gets_everything_back_in_another_output_base(
    server: RunningServer, other_bazel: Bazel, cold: Build
) -> None:
    other_bazel.clean()
    warm = other_bazel.build(f"--remote_cache={url(server)}", log=True)

    assert_all_hits(warm, cold)
    assert warm.outputs() == cold.outputs()
    assert "WARNING" not in warm.output, warm.output
    assert other_bazel.file("big.bin").stat().st_size == 9_000_000


def test_bazel_over_grpc_finds_what_came_over_http(
    server: RunningServer, bazel: Bazel, cold: Build
) -> None:
    bazel.clean()

    warm = bazel.build(*flags(server, "web"), log=True)

    assert_all_hits(warm, cold)


def test_bazel_over_http_finds_what_came_over_grpc(
    server: RunningServer, bazel: Bazel, other_bazel: Bazel
) -> None:
    bazel.clean()
    other_bazel.clean()
    first = bazel.build(*flags(server, "team/a"), targets=["//:script", "//:ran"])
    other = f"http://127.0.0.1:{server.port}/team/a"

    warm = other_bazel.build(f"--remote_cache={other}", targets=["//:script", "//:ran"])

    assert (warm.executed, warm.hits) == (0, first.executed + first.hits), warm.runners
    assert warm.hits > 1


# -- compilers' caches -------------------------------------------------------------------------


@pytest.fixture
def c_files(sources: Path, tmp_path: Path) -> Sequence[Path]:
    """Real C programs, in a folder of their own."""
    folder = tmp_path / "zlib"
    shutil.copytree(sources / "zlib", folder)
    return [folder / name for name in ("adler32.c", "crc32.c", "deflate.c", "inflate.c")]


@pytest.mark.parametrize("layout", ["bazel", "flat", "subdirs"])
def test_ccache_hits_always_the_second_time(
    server: RunningServer, c_files: Sequence[Path], tmp_path: Path, layout: str
) -> None:
    ccache = program("ccache")
    base = url(server) if layout == "bazel" else f"{url(server)}/cache/ccache-{layout}"

    def compile_all(name: str) -> dict[str, int]:
        """With an empty cache of its own; what ccache counted."""
        environment = {
            "CCACHE_DIR": str(tmp_path / name),
            "CCACHE_REMOTE_STORAGE": f"{base}|layout={layout}",
            "CCACHE_REMOTE_ONLY": "true",
            "CCACHE_NAMESPACE": layout,
        }
        for source in c_files:
            told(
                [ccache, "cc", "-O", "-c", source, "-o", tmp_path / "x.o"], tmp_path, **environment
            )
        lines = told([ccache, "--print-stats"], tmp_path, **environment).splitlines()
        return {key: int(count) for key, _, count in (line.partition("\t") for line in lines)}

    first, second = compile_all("one"), compile_all("two")

    assert (first["remote_storage_hit"], first["remote_storage_miss"]) == (0, len(c_files))
    assert (second["remote_storage_hit"], second["remote_storage_miss"]) == (len(c_files), 0)
    assert first["remote_storage_error"] == second["remote_storage_error"] == 0


@contextmanager
def sccache_server(log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """sccache's own server, as it starts one for the first compilation."""
    port = int(environment["SCCACHE_SERVER_PORT"])
    more = {"SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1"}
    sccache = program("sccache/sccache", tool="sccache")
    with running([sccache], log, environment={**environment, **more}) as process:
        while process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        else:
            pytest.fail(log.read_text(errors="replace"))
        yield


def test_sccache_hits_always_the_second_time(
    server: RunningServer, c_files: Sequence[Path], tmp_path: Path
) -> None:
    sccache = program("sccache/sccache", tool="sccache")
    environment = {
        "SCCACHE_WEBDAV_ENDPOINT": f"{url(server)}/cache",
        "SCCACHE_WEBDAV_KEY_PREFIX": "sccache",
        "SCCACHE_SERVER_PORT": str(free_port()),
        "SCCACHE_CONF": str(tmp_path / "none"),
        "SCCACHE_DIR": str(tmp_path / "local"),
    }

    def compile_all() -> dict[str, int]:
        """With a server that knows nothing; what it counted."""
        with sccache_server(tmp_path / "sccache.log", environment):
            for source in c_files:
                command = [sccache, "cc", "-O", "-c", source, "-o", tmp_path / "x.o"]
                told(command, tmp_path, **environment)
            stats = json.loads(
                told([sccache, "--show-stats", "--stats-format=json"], tmp_path, **environment)
            )
            told([sccache, "--stop-server"], tmp_path, **environment)
        assert stats["cache_location"].startswith("webdav"), stats
        counts = stats["stats"]
        assert counts["cache_write_errors"] == counts["cache_read_errors"] == 0, counts
        return {
            name: sum(counts[f"cache_{name}"]["counts"].values()) for name in ("hits", "misses")
        }

    assert compile_all() == {"hits": 0, "misses": len(c_files)}
    assert compile_all() == {"hits": len(c_files), "misses": 0}


# -- task runners ------------------------------------------------------------------------------


def test_turborepo_replays_a_task_from_the_cache(server: RunningServer, tmp_path: Path) -> None:
    turbo = program("turbo/turbo", tool="turbo")
    root = tmp_path / "repository"
    files = {
        "package.json": {"name": "r", "packageManager": "npm@10.0.0", "workspaces": ["p"]},
        "turbo.json": {"tasks": {"build": {"outputs": ["out/**"]}}},
        "p/package.json": {
            "name": "p",
            "version": "1.0.0",
            "scripts": {"build": "mkdir -p out && date +%N > out/made"},
        },
        "package-lock.json": {
            "name": "r",
            "lockfileVersion": 3,
            "packages": {
                "": {"name": "r", "workspaces": ["p"]},
                "node_modules/p": {"resolved": "p", "link": True},
                "p": {"version": "1.0.0"},
            },
        },
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    (root / ".gitignore").write_text("out\n.turbo\nnode_modules\n")
    git = [program("git"), "-c", "user.email=a@example.com", "-c", "user.name=A"]
    told([*git, "init", "-q"], root)
    told([*git, "add", "-A"], root)
    told([*git, "commit", "-q", "-m", "x"], root)
    environment = {
        "TURBO_API": url(server),
        "TURBO_TOKEN": "any",
        "TURBO_TEAM": "team",
        "TURBO_TELEMETRY_DISABLED": "1",
        "CI": "1",
    }

    def build() -> tuple[str, str]:
        for left in ("p/out", "p/.turbo", ".turbo", "node_modules"):
            shutil.rmtree(root / left, ignore_errors=True)
        output = told([turbo, "run", "build", "--cache=remote:rw"], root, **environment)
        return output, (root / "p/out/made").read_text()

    first, made = build()
    second, again = build()

    assert "0 cached, 1 total" in first
    assert "1 cached, 1 total" in second
    assert again == made


def test_what_gradle_asks_for(server: RunningServer, tmp_path: Path) -> None:
    """HttpBuildCache of its manual: GET, 404 for a miss, PUT with 100-continue."""
    curl, entry = program("curl"), tmp_path / "entry"
    entry.write_bytes(LARGE)
    key = f"{url(server)}/cache/gradle/0123456789abcdef0123456789abcdef"
    kind = "Content-Type: application/vnd.gradle.build-cache-artifact.v2"
    status = ["-s", "-o", tmp_path / "got", "-w", "%{http_code}"]

    assert run([curl, *status, "-H", f"Accept: {kind[14:]}, */*", key]) == "404"
    sent = run([curl, *status, "-H", kind, "-H", "Expect: 100-continue", "-T", entry, key])
    assert sent == "200"
    assert run([curl, *status, key]) == "200"
    assert (tmp_path / "got").read_bytes() == LARGE


# -- curl --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge", "--http1.0"])
def test_curl_moves_blobs_by_every_version_of_http(
    server: RunningServer, tmp_path: Path, version: str
) -> None:
    blob, got = tmp_path / "blob", tmp_path / "got"
    blob.write_bytes(version.encode() + LARGE)
    data = blob.read_bytes()
    address = f"{url(server)}/cas/{hashlib.sha256(data).hexdigest()}"
    curl = [program("curl"), "-sS", "--fail", version]

    run([*curl, "-T", blob, address])
    run([*curl, "-o", got, address])
    assert got.read_bytes() == data

    # A download that broke off goes on where it stopped.
    got.write_bytes(data[:5_000_000])
    run([*curl, "-C", "-", "-o", got, address])
    assert got.read_bytes() == data

    head = run([*curl, "-I", address]).lower()
    assert f"content-length: {len(data)}" in head
    assert "accept-ranges: bytes" in head

    run([*curl, "--compressed", "-o", got, address])
    assert got.read_bytes() == data


def test_curl_over_mutual_tls(
    server: RunningServer, certificates: Certificates, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"secret" + LARGE)
    hash_ = hashlib.sha256(blob.read_bytes()).hexdigest()
    address = f"https://127.0.0.1:{server.mtls_port}/web/cas/{hash_}"
    curl = [program("curl"), "-sS", "--cacert", certificates.authority]
    client = ["--cert", certificates.client.certificate, "--key", certificates.client.key]

    for version in ("--http1.1", "--http2"):
        run([*curl, *client, version, "--fail", "-T", blob, address])
        run([*curl, *client, version, "--fail", "-o", tmp_path / "got", address])
        assert (tmp_path / "got").read_bytes() == blob.read_bytes()
    assert "certificate" in run([*curl, address], check=False)


def test_curl_uploads_from_a_pipe(server: RunningServer, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"piped" + LARGE)
    address = f"{url(server)}/cas/{hashlib.sha256(blob.read_bytes()).hexdigest()}"
    command = f"cat {blob} | {program('curl')} -sS --fail -T - {address}"

    run(["sh", "-c", command])

    assert run([program("curl"), "-sS", "-o", tmp_path / "got", "-w", "%{http_code}", address])
    assert (tmp_path / "got").read_bytes() == blob.read_bytes()


def test_curl_is_told_what_is_wrong(server: RunningServer, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(LARGE)
    curl = [program("curl"), "-sS", "-w", "%{http_code}"]

    wrong = run([*curl, "-T", blob, f"{url(server)}/cas/{'0' * 64}"])
    assert wrong.endswith("400")
    assert "hash" in wrong
    assert run([*curl, f"{url(server)}/cas/{'0' * 64}"]).endswith("404")
    assert run([*curl, "--path-as-is", f"{url(server)}/cas/../../etc/passwd"]).endswith("400")
    assert run([*curl, "-X", "DELETE", f"{url(server)}/cas/{'0' * 64}"]).endswith("405")
