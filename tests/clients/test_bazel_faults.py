"""Back ends die and come back in the middle of real builds, and no build notices.

Stages of actions follow each other through gates. At a gate that a seed chooses, the back end is
killed; then the gate opens, so that what comes next finds nobody. Once it was missed, it comes
back.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.backends import BACKENDS, Backend
from tests.clients.bazel import Bazel, Build
from tests.clients.programs import CLIENT_TESTS
from tests.clients.served import Served
from tests.clients.stages import STAGE_ACTIONS, STAGES, Stages

pytestmark = CLIENT_TESTS

#: Deaths in one build.
KILLS = 2


def assert_unnoticed(build: Build) -> None:
    """Nothing that went wrong behind our server was seen in front of it."""
    assert build.code == 0, build.output
    assert "Remote Cache" not in build.output, build.output


def build_with_deaths(
    bazel: Bazel, server: Served, backend: Backend, stages: Stages, chance: random.Random, log: Path
) -> Build:
    """A build in which the back end dies at some gates, and comes back when it was missed."""
    fatal = set(chance.sample(range(STAGES), KILLS))
    with bazel.start(*server.bazel_flags, targets=stages.targets, log=log) as process:
        for stage in range(STAGES):
            stages.wait(stage, process, log)
            if stage in fatal:
                backend.kill(chance.randrange)
                stages.open(stage)
                backend.restore()
            else:
                stages.open(stage)
        code = process.wait(240)
    return Build(code, log.read_text())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_back_end_that_dies_and_comes_back_costs_no_build_anything(
    name: str, stages: Stages, bazel: Bazel, other_bazel: Bazel, tmp_path: Path
) -> None:
    chance = random.Random(f"deaths of {name}")
    stages.close()
    bazel.clean()
    other_bazel.clean()
    with ExitStack() as lifetimes:
        backend = BACKENDS[name](tmp_path, lifetimes)
        stores = [{"name": role.upper(), **backend.store(role)} for role in ("cas", "ac")]
        config = {"stores": stores}
        server = Served(tmp_path / "server", lifetimes, config, environment=backend.environment)

        # While results are written ...
        filled = build_with_deaths(bazel, server, backend, stages, chance, tmp_path / "filling")

        assert_unnoticed(filled)
        if not backend.keeps:
            # What was written before the last death may be gone with it: fill it up.
            bazel.clean()
            assert_unnoticed(bazel.build(*server.bazel_flags, targets=stages.targets))
        # ... and while they are read.
        bazel.clean()
        stages.close()
        log = tmp_path / "reading"
        with bazel.start(*server.bazel_flags, targets=stages.targets, log=log) as process:
            # All gates but the first come out of the cache; it does too, if it is not lost.
            backend.kill(chance.randrange)
            for stage in range(STAGES):
                stages.open(stage)
            backend.restore()
            code = process.wait(240)
        assert_unnoticed(Build(code, log.read_text()))
        if backend.keeps:
            everywhere = other_bazel.build(*server.bazel_flags, targets=stages.targets, log=True)
            assert_unnoticed(everywhere)
            assert everywhere.executed == 0, everywhere.runners
            assert everywhere.hits == STAGES * (STAGE_ACTIONS + 1)
