"""Real Bazel 4.2.3 and 2.1.0 build real C programs through our server."""

from __future__ import annotations

import subprocess

import pytest

from tests.clients.bazel import Bazel, Build
from tests.clients.certificates import Certificates
from tests.clients.programs import CLIENT_TESTS
from tests.clients.server import RunningServer
from tests.clients.workspace import LONG_NAME, MINIMUM_ACTIONS

pytestmark = CLIENT_TESTS


def flags(server: RunningServer, instance: str) -> list[str]:
    """What a user would put into .bazelrc."""
    return [
        f"--remote_cache=grpc://127.0.0.1:{server.port}",
        f"--remote_instance_name={instance}",
        "--remote_timeout=120",
    ]


def secure_flags(port: int, certificates: Certificates, instance: str) -> list[str]:
    return [
        f"--remote_cache=grpcs://127.0.0.1:{port}",
        f"--remote_instance_name={instance}",
        f"--tls_certificate={certificates.authority}",
    ]


def assert_all_hits(build: Build, cold: Build) -> None:
    """Nothing ran here: every action of the cold build came out of the cache."""
    ran = [
        (spawn["mnemonic"], spawn["listedOutputs"])
        for spawn in build.spawns
        if not spawn["remoteCacheHit"]
    ]
    assert build.executed == 0, (build.runners, ran)
    assert build.hits == cold.executed, (build.runners, cold.runners)


@pytest.fixture(scope="module")
def cold(server: RunningServer, bazel: Bazel) -> Build:
    """The build that fills the cache."""
    bazel.clean()
    build = bazel.build(*flags(server, "main"), log=True)
    assert "WARNING: Reading from Remote Cache" not in build.output, build.output
    assert "WARNING: Writing to Remote Cache" not in build.output, build.output
    return build


def test_a_cold_build_runs_everything_and_fills_the_cache(
    server: RunningServer, bazel: Bazel, cold: Build
) -> None:
    assert cold.hits == 0
    assert cold.executed >= MINIMUM_ACTIONS
    stored = {path.name for path in server.content_path("MAIN_CAS").rglob("*") if path.is_file()}
    for path, digest in cold.outputs().items():
        assert isinstance(digest, dict)
        # The empty blob is always present and never stored.
        if digest["sizeBytes"] != "0":
            assert f"{digest['hash']}-{digest['sizeBytes']}" in stored, path
    lua = subprocess.run(
        [bazel.file("lua"), "-e", "print(6 * 7)"], capture_output=True, text=True, check=True
    )
    assert lua.stdout == "42\n"


def test_after_clean_everything_is_a_hit(server: RunningServer, bazel: Bazel, cold: Build) -> None:
    bazel.clean()

    warm = bazel.build(*flags(server, "main"), log=True)

    assert_all_hits(warm, cold)
    assert warm.outputs() == cold.outputs()


def test_another_output_base_gets_everything_from_the_cache(
    server: RunningServer, other_bazel: Bazel, cold: Build
) -> None:
    other_bazel.clean()

    warm = other_bazel.build(*flags(server, "main"), log=True)

    assert_all_hits(warm, cold)
    assert warm.outputs() == cold.outputs()
    assert other_bazel.file("s3.txt").read_text() == "script\t3\t300\tLua 5.4\n"
    assert other_bazel.file(LONG_NAME).read_text() == "long\n"
    assert other_bazel.file("empty.txt").read_bytes() == b""
    assert other_bazel.file("tree/d/link.sh").is_symlink()
    assert other_bazel.file("big.bin").stat().st_size == 9_000_000
    ran = subprocess.run([other_bazel.file("lua_link"), "-v"], capture_output=True, check=True)
    assert ran.stdout.startswith(b"Lua 5.4")
    # What an action printed is replayed from the cache.
    assert "said on stderr" in warm.output
    assert "line 1999 of much output" in warm.output


def test_download_minimal_leaves_the_outputs_in_the_cache(
    server: RunningServer, bazel: Bazel, cold: Build
) -> None:
    bazel.clean()
    # This Bazel cannot leave a link in the cache: it runs such actions again to have the link.
    links = ["-//:lua_link", "-//:tree", "-//:tree_user"]

    warm = bazel.build(
        *flags(server, "main"), "--remote_download_minimal", targets=["//:all", *links], log=True
    )

    assert warm.executed == 0, warm.runners
    assert warm.hits == cold.executed - len(links)
    assert not bazel.file("lua").exists()


def test_tls_serves_the_same_cache(
    server: RunningServer, bazel: Bazel, certificates: Certificates, cold: Build
) -> None:
    bazel.clean()

    warm = bazel.build(*secure_flags(server.tls_port, certificates, "main"))

    assert_all_hits(warm, cold)


def test_mutual_tls_serves_a_client_with_a_certificate(
    server: RunningServer, bazel: Bazel, certificates: Certificates, cold: Build
) -> None:
    bazel.clean()

    warm = bazel.build(
        *secure_flags(server.mtls_port, certificates, "main"),
        f"--tls_client_certificate={certificates.client.certificate}",
        f"--tls_client_key={certificates.client.key}",
    )

    assert_all_hits(warm, cold)


@pytest.mark.parametrize("shown", ["none", "stranger"])
def test_mutual_tls_refuses_a_client_without_a_good_certificate(
    server: RunningServer, bazel: Bazel, certificates: Certificates, shown: str
) -> None:
    bazel.clean()
    extra = []
    if shown == "stranger":
        extra = [
            f"--tls_client_certificate={certificates.stranger.certificate}",
            f"--tls_client_key={certificates.stranger.key}",
        ]

    build = bazel.build(
        *secure_flags(server.mtls_port, certificates, "main"),
        *extra,
        "--remote_retries=0",
        targets=["//:odd"],
        ok=False,
    )

    assert build.hits == 0
    assert build.code != 0
    assert "capabilities" in build.output, build.output


def test_an_instance_with_a_slash_in_its_name_is_a_cache_of_its_own(
    server: RunningServer, bazel: Bazel, cold: Build
) -> None:
    bazel.clean()
    first = bazel.build(*flags(server, "team/a"), targets=["//:lua", "//:out1"])
    assert first.hits == 0

    bazel.clean()
    second = bazel.build(*flags(server, "team/a"), targets=["//:lua", "//:out1"])

    assert_all_hits(second, first)


def test_an_unknown_instance_is_refused_by_name(server: RunningServer, bazel: Bazel) -> None:
    build = bazel.build(
        *flags(server, "nobody"), "--remote_retries=0", targets=["//:odd"], ok=False
    )

    assert build.hits == 0
    assert "nobody" in build.output, build.output


def test_blobs_lost_or_cut_short_on_disk_cost_a_rebuild_and_nothing_else(
    server: RunningServer, bazel: Bazel, cold: Build
) -> None:
    # A cache that loses things: files of its disk are removed and truncated behind its back.
    bazel.clean()
    filled = bazel.build(*flags(server, "disk"), log=True)
    assert filled.executed == cold.executed
    files = sorted(path for path in server.content_path("DISK_CAS").rglob("*") if path.is_file())
    objects = [path for path in files if path.stat().st_size > 2000]
    for path in objects[::3]:
        path.unlink()
    for path in objects[1::3]:
        # Written for reading only; root may write nevertheless, others may not.
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.truncate(1000)
    bazel.clean()

    damaged = bazel.build(*flags(server, "disk"), log=True)

    assert damaged.executed > 0
    assert damaged.hits > 0
    assert damaged.outputs() == filled.outputs()
    bazel.clean()
    assert_all_hits(bazel.build(*flags(server, "disk")), filled)


def test_bazel_2_fills_and_reads_the_cache(server: RunningServer, old_bazel: Bazel) -> None:
    old_bazel.clean()
    first = old_bazel.build(*flags(server, "old"))
    assert first.hits == 0
    assert first.executed >= MINIMUM_ACTIONS
    old_bazel.clean()

    second = old_bazel.build(*flags(server, "old"))

    assert_all_hits(second, first)
