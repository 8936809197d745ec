"""Back ends die and come back in the middle of real builds, and no build notices.

Stages of actions follow each other through gates. At a gate that a seed chooses, the back end is
killed; then the gate opens, so that what comes next finds nobody. Once it was missed, it comes
back.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.backends import BACKENDS, Backend
from tests.clients.bazel import Bazel, Build
from tests.clients.conftest import debian_bazel
from tests.clients.programs import CLIENT_TESTS
from tests.clients.served import Served
from tests.execution.gate import wait_for

pytestmark = CLIENT_TESTS

STAGES = 4
#: Actions of a stage beside its gate.
ACTIONS = 6
#: Deaths in one build.
KILLS = 2


class Gates:
    """Where the actions of a workspace wait, one gate after the other.

    Args:
        folder: for the workspace and the gates.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "gates"
        self.workspace = folder / "program"
        self.workspace.mkdir(parents=True)
        (self.workspace / "WORKSPACE").write_text('workspace(name = "program")\n')
        text, before = "", ""
        for stage in range(STAGES):
            names = []
            for number in range(ACTIONS):
                # From nothing over some kilobytes to a few megabytes that do not compress.
                size = (0, 10, 5_000, 100_000, 1_000_000, 3_000_000)[number]
                name = f"stage{stage}_{number}"
                names.append(f":{name}")
                text += (
                    f'genrule(name = "{name}", outs = ["{name}.bin"], srcs = [{before}], cmd = '
                    f'"(openssl enc -aes-128-ctr -K {stage}{number} -iv 0 -in /dev/zero'
                    f' 2>/dev/null || true) | head -c {size} > $@")\n'
                )
            gate = f"gate{stage}"
            text += (
                f'genrule(name = "{gate}", outs = ["{gate}.txt"], srcs = {names!r}, cmd = "'
                f"touch {self._folder}/reached{stage}; while [ ! -e {self._folder}/open{stage} ]; "
                f'do sleep 0.02; done; echo through > $@")\n'.replace("'", '"')
            )
            before = f'":{gate}"'
        (self.workspace / "BUILD").write_text(text.replace("'", '"'))
        self.close()

    def close(self) -> None:
        """Close all gates."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()

    def wait(self, stage: int, build: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until a build has come to the gate behind a stage."""
        reached = self._folder / f"reached{stage}"
        wait_for(
            lambda: reached.exists() or build.poll() is not None,
            f"the build reaches gate {stage}",
            timeout_s=120,
        )
        assert reached.exists(), log.read_text()

    def open(self, stage: int) -> None:
        """Let it through."""
        (self._folder / f"open{stage}").touch()


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    return Gates(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def builder(gates: Gates, user_root: Path) -> Iterator[Bazel]:
    one = debian_bazel(gates.workspace, user_root, "faults-one")
    yield one
    one.stop()


@pytest.fixture(scope="module")
def colleague(gates: Gates, user_root: Path) -> Iterator[Bazel]:
    two = debian_bazel(gates.workspace, user_root, "faults-two")
    yield two
    two.stop()


def flags(server: Served) -> list[str]:
    return [
        f"--remote_cache=grpc://127.0.0.1:{server.port}",
        "--remote_instance_name=main",
        # Longer than any back end is away; tries of Bazel's own would hide ours.
        "--remote_timeout=120",
        "--remote_retries=0",
    ]


def assert_unnoticed(build: Build) -> None:
    """Nothing that went wrong behind our server was seen in front of it."""
    assert build.code == 0, build.output
    assert "Remote Cache" not in build.output, build.output


def build_with_deaths(
    bazel: Bazel, server: Served, backend: Backend, gates: Gates, chance: random.Random, log: Path
) -> Build:
    """A build in which the back end dies at some gates, and comes back when it was missed."""
    fatal = set(chance.sample(range(STAGES), KILLS))
    everything = ["//..."]
    with bazel.start(*flags(server), targets=everything, log=log) as process:
        for stage in range(STAGES):
            gates.wait(stage, process, log)
            if stage in fatal:
                backend.kill(chance.randrange)
                gates.open(stage)
                backend.restore()
            else:
                gates.open(stage)
        code = process.wait(120)
    return Build(code, log.read_text())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_back_end_that_dies_and_comes_back_costs_no_build_anything(
    name: str, gates: Gates, builder: Bazel, colleague: Bazel, tmp_path: Path
) -> None:
    chance = random.Random(f"deaths of {name}")
    gates.close()
    builder.clean()
    colleague.clean()
    with ExitStack() as lifetimes:
        backend = BACKENDS[name](tmp_path, lifetimes)
        stores = [{"name": role.upper(), **backend.store(role)} for role in ("cas", "ac")]
        config = {"stores": stores}
        server = Served(tmp_path / "server", lifetimes, config, environment=backend.environment)

        # While results are written ...
        filled = build_with_deaths(builder, server, backend, gates, chance, tmp_path / "filling")

        assert_unnoticed(filled)
        if not backend.keeps:
            # What was written before the last death may be gone with it: fill it up.
            builder.clean()
            assert_unnoticed(builder.build(*flags(server)))
        # ... and while they are read.
        builder.clean()
        gates.close()
        with builder.start(*flags(server), targets=["//..."], log=tmp_path / "reading") as process:
            # All gates but the first come out of the cache; it does too, if it is not lost.
            backend.kill(chance.randrange)
            for stage in range(STAGES):
                gates.open(stage)
            backend.restore()
            code = process.wait(120)
        assert_unnoticed(Build(code, (tmp_path / "reading").read_text()))
        if backend.keeps:
            everywhere = colleague.build(*flags(server), log=True)
            assert_unnoticed(everywhere)
            assert everywhere.executed == 0, everywhere.runners
            assert everywhere.hits == STAGES * (ACTIONS + 1)
