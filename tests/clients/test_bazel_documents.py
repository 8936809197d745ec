"""Real Bazel builds with the storage that NativeLink's documents configure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import plain_http
from tests.clients.bazel import Bazel, Build
from tests.clients.certificates import Certificates
from tests.clients.documents import DOCUMENTS, serve_document
from tests.clients.programs import CLIENT_TESTS
from tests.stores.cloud.servers import Moto

pytestmark = CLIENT_TESTS

#: A tree, many outputs, 9 MB of one letter, nothing at all, much output, and a program that runs.
ODDITIES = ["//:tree_user", "//:many", "//:big", "//:empty", "//:noisy", "//:ran"]
#: Compilations, a link, and a run of what came of them.
PROGRAM = ["//:lua", "//:out1"]


def assert_all_hits(build: Build, cold: Build) -> None:
    """Everything came out of the cache, and nothing went wrong on the way."""
    ran = [(each["mnemonic"], each["listedOutputs"]) for each in build.spawns
           if not each["remoteCacheHit"]]  # fmt: skip
    assert build.executed == 0, (build.runners, ran, build.output)
    assert build.hits == cold.executed
    assert build.outputs() == cold.outputs()
    assert "Remote Cache" not in build.output, build.output


@pytest.fixture(scope="module")
def s3() -> Iterator[Moto]:
    moto = Moto()
    yield moto
    moto.close()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_build_with_the_storage_of_a_document_fills_it_and_all_later_ones_hit(
    name: str,
    s3: Moto,
    bazel: Bazel,
    other_bazel: Bazel,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    bazel.clean()
    other_bazel.clean()
    # Document 004 has single stores; one by one, compilations would tell nothing more.
    targets = ODDITIES if name.startswith("004") else [*PROGRAM, *ODDITIES]
    with serve_document(name, tmp_path, certificates, s3) as server:
        cold = bazel.build(*server.bazel_flags, targets=targets, log=True)
        assert cold.hits == 0
        assert cold.executed >= (7 if targets is ODDITIES else 40)
        assert "Remote Cache" not in cold.output, cold.output

        assert_all_hits(other_bazel.build(*server.bazel_flags, targets=targets, log=True), cold)

        # A deployment: what is left is what lies behind the server.
        server.restart()
        other_bazel.clean()
        assert_all_hits(other_bazel.build(*server.bazel_flags, targets=targets, log=True), cold)

        status = plain_http.get(f"http://127.0.0.1:{server.port}/status")
        assert status.status_code == 200, status.text
        assert " ERROR " not in server.log, server.log
    # What comes next builds everything itself.
    bazel.clean()
    other_bazel.clean()
