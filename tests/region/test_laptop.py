"""Bazel against a whole region on this machine: it grows, shrinks, and loses machines.

The tests follow each other on one region, as a day does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.region_local.processes import using
from tests.clients.bazel import Bazel
from tests.clients.conftest import debian_bazel
from tests.clients.programs import CLIENT_TESTS
from tests.clients.workspace import make_workspace
from tests.execution.gate import wait_for
from tests.region.laptop import Laptop, changed, pools, running_region

pytestmark = [
    *CLIENT_TESTS,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("REGION_LOCAL"), reason="a longer run: make test-region"),
]

_log = logging.getLogger(__name__)

#: Actions that take their time, as real ones do, and no processor; the programs come on top.
_SLEEPERS = 200
_SLEEP_S = 10
_ACTIONS = 300
_NOTICE_EVERY_S = 15.0
_BUCKET = "nl-minimal-{}-111122223333-eu-central-1"


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("laptop") / "region"
    picture = str(folder.with_suffix(".svg"))
    with running_region(folder, "--idle", "20", "--keep", "--picture", picture) as made:
        yield made


def workspace(folder: Path, sources: Path, laptop: Laptop, salt: str) -> Path:
    """Programs, and `//slow`: nothing of it is in the cache of another salt's."""
    made = make_workspace(folder, sources, salt=salt)
    (made / ".bazelrc").write_text(laptop.bazelrc)
    (made / "slow").mkdir()
    rules = (
        f'genrule(name = "s{number}", outs = ["s{number}.txt"], '
        f'cmd = "sleep {_SLEEP_S}; echo {salt} > $@")\n'
        for number in range(_SLEEPERS)
    )
    (made / "slow/BUILD").write_text("".join(rules))
    return made


@pytest.fixture(scope="module")
def bazel(
    tmp_path_factory: pytest.TempPathFactory, sources: Path, user_root: Path, laptop: Laptop
) -> Iterator[Bazel]:
    folder = workspace(tmp_path_factory.mktemp("first") / "program", sources, laptop, "first")
    made = debian_bazel(folder, user_root, "region", flags=FLAGS)
    yield made
    made.stop()


EVERYTHING = ["//..."]
#: What the tests' Bazel has set otherwise than a person's.
FLAGS = ["--spawn_strategy=remote", "--jobs=160"]


def test_an_empty_laptop_comes_to_its_first_remote_action(laptop: Laptop, bazel: Bazel) -> None:
    built = bazel.build(targets=["//:empty"])
    _log.info("first remote action after %.0f s", time.monotonic() - laptop.started_at)
    assert built.runners.get("remote") == 1


def test_a_build_makes_workers_appear_and_quiet_makes_them_leave(
    laptop: Laptop, bazel: Bazel
) -> None:
    wait_for(lambda: laptop.workers() == 0, "the first worker leaves", timeout_s=180)
    began = time.monotonic()
    built = bazel.build(targets=EVERYTHING)
    _log.info("%s in %.0f s", built.runners, time.monotonic() - began)
    assert built.runners.get("remote", 0) + built.hits >= _ACTIONS
    assert max(laptop.seen) > 1
    wait_for(lambda: laptop.workers() == 0, "the workers leave", timeout_s=240)
    _log.info("workers, every ten seconds: %s", laptop.seen)


def test_a_build_whose_workers_are_taken_back_fails_nowhere(
    laptop: Laptop,
    bazel: Bazel,
    tmp_path_factory: pytest.TempPathFactory,
    sources: Path,
    user_root: Path,
) -> None:
    folder = workspace(tmp_path_factory.mktemp("second") / "program", sources, laptop, "second")
    second = debian_bazel(folder, user_root, "spot", flags=FLAGS)
    over, notices = threading.Event(), []

    def interrupt() -> None:
        while not over.wait(_NOTICE_EVERY_S):
            notices.append(laptop.interrupt())

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    try:
        built = second.build(targets=EVERYTHING)
    finally:
        over.set()
        thread.join()
        second.stop()
    took_s = time.monotonic() - began
    _log.info("%d notices, %s in %.0f s", sum(notices), built.runners, took_s)
    assert sum(notices) >= 2
    assert built.runners.get("remote", 0) >= _ACTIONS
    assert "FAILED" not in built.output


def test_s3_holds_blobs_and_results_under_their_prefixes(laptop: Laptop) -> None:
    blobs, results = laptop.keys(_BUCKET.format("cas")), laptop.keys(_BUCKET.format("ac"))
    assert blobs
    assert all(key.startswith("cas/") for key in blobs)
    assert len(results) >= 2 * _ACTIONS
    assert all(key.startswith("ac/") for key in results)


def test_cloudwatch_has_the_metrics_and_alarms_changed_state(laptop: Laptop) -> None:
    found = pools(laptop)
    for name in ("QueuedActions", "RunningActions", "RegisteredWorkers", "LoadRatio"):
        assert sorted(set(found[name])) == ["none", "x86"]
    assert set(found["Interruptions"]) == {"x86"}
    assert {
        ("nl-minimal-x86-from-zero", "ALARM"),
        ("nl-minimal-x86-from-zero", "OK"),
    } <= changed(laptop)


def test_after_ctrl_c_nothing_is_left(laptop: Laptop) -> None:
    """Last, because it ends the region."""
    assert laptop.stop() == 0
    assert using(laptop.folder) == {}
