"""What a server prints for `.bazelrc` is taken by Bazel as it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nativelink
from tests.cli.servers import NATIVELINK, running
from tests.clients.bazel import Bazel
from tests.clients.programs import CLIENT_TESTS
from tests.ports import free_port

pytestmark = CLIENT_TESTS

ALL_IN_ONE = Path(nativelink.__file__).parent / "configs" / "all_in_one.json5"


def test_two_builds_with_the_printed_lines_are_executed_cached_and_told(
    bazel: Bazel, tmp_path: Path
) -> None:
    rc = tmp_path / "printed.bazelrc"
    environment = {
        "XDG_CACHE_HOME": str(tmp_path),
        "NATIVELINK_ADDRESS": "127.0.0.1:0",
        "NATIVELINK_WORKER_API": f"127.0.0.1:{free_port()}",
        "NATIVELINK_RETAIN": "1h",
    }
    said = []
    with running(ALL_IN_ONE, **environment) as server:
        rc.write_text("".join(line for line in server.lines if line.startswith("  build --")))
        assert "--remote_retries=10" in rc.read_text()
        for _ in range(2):
            bazel.clean()
            build = bazel.run(
                f"--bazelrc={rc}", "build", "--symlink_prefix=/", "--color=no", "//:empty"
            )
            assert build.returncode == 0, build.stdout
            said.append(build.stdout)
        asked = ["--server", f"grpc://{server.address}", "--instance", "main"]
        shown = [
            subprocess.run(
                [NATIVELINK, *command, *asked], capture_output=True, text=True, check=True
            ).stdout
            for command in (["builds", "list"], ["ops", "list"])
        ]
    assert "2 processes: 1 internal, 1 remote." in said[0]
    assert "2 processes: 1 remote cache hit, 1 internal." in said[1]
    assert shown[0].count("bazel build //:empty") == 2
    assert "COMPLETED" in shown[1]
