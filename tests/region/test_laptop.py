"""Bazel against a whole region on this machine: it grows, shrinks, and loses machines.

The tests follow each other on one region, as a day does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.region_local.processes import using
from tests.clients.bazel import Bazel
from tests.clients.conftest import debian_bazel
from tests.clients.workspace import make_workspace
from tests.execution.gate import wait_for
from tests.region.laptop import PATIENCE_S, Laptop, alarms, changed, pools, running_region
from tests.waiting import waits

pytestmark = [
    pytest.mark.clients,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    waits("region"),
]

_log = logging.getLogger(__name__)

#: Actions that take their time, as real ones do, and no processor; the programs come on top.
_SLEEPERS = 200
_SLEEP_S = 10
_ACTIONS = 300
_NOTICE_EVERY_S = 15.0
#: The build is not over before there were so many.
_NOTICES = 3
_BUCKET = "nl-minimal-{}-111122223333-eu-central-1"


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("laptop") / "region"
    picture = str(folder.with_suffix(".svg"))
    with running_region(folder, "--idle", "20", "--keep", "--picture", picture) as made:
        yield made


def workspace(
    folder: Path, sources: Path, laptop: Laptop, salt: str, *, until: Path | None = None
) -> Path:
    """Programs, and `//slow`: nothing of it is in the cache of another salt's.

    Args:
        folder, sources, laptop, salt: what it is made of.
        until: a file without which one of the actions does not end.
    """
    made = make_workspace(folder, sources, salt=salt)
    (made / ".bazelrc").write_text(laptop.bazelrc)
    (made / "slow").mkdir()
    commands = [f"sleep {_SLEEP_S}"] * _SLEEPERS
    if until is not None:
        commands.append(f"until [ -e {until} ]; do sleep 1; done")
    rules = (
        f'genrule(name = "s{number}", outs = ["s{number}.txt"], '
        f'cmd = "{command}; echo {salt} > $@")\n'
        for number, command in enumerate(commands)
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
    built = bazel.build(targets=["//:empty"], timeout=PATIENCE_S)
    _log.info("first remote action after %.0f s", time.monotonic() - laptop.started_at)
    assert built.runners.get("remote") == 1


def test_a_build_makes_workers_appear_and_quiet_makes_them_leave(
    laptop: Laptop, bazel: Bazel
) -> None:
    laptop.wait_until_nobody_works()
    began = time.monotonic()
    built = bazel.build(targets=EVERYTHING, timeout=PATIENCE_S)
    _log.info("%s in %.0f s", built.runners, time.monotonic() - began)
    assert built.runners.get("remote", 0) + built.hits >= _ACTIONS
    assert max(laptop.seen) > 1
    laptop.wait_until_nobody_works()
    _log.info("workers, every ten seconds: %s", laptop.seen)


def test_a_build_whose_workers_are_taken_back_fails_nowhere(
    laptop: Laptop,
    bazel: Bazel,
    tmp_path_factory: pytest.TempPathFactory,
    sources: Path,
    user_root: Path,
) -> None:
    place = tmp_path_factory.mktemp("second")
    enough = place / "enough"
    folder = workspace(place / "program", sources, laptop, "second", until=enough)
    second = debian_bazel(folder, user_root, "spot", flags=FLAGS)
    over, notices = threading.Event(), []

    def interrupt() -> None:
        while not over.wait(_NOTICE_EVERY_S):
            notices.append(laptop.interrupt())
            if sum(notices) == _NOTICES:
                enough.touch()

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    try:
        built = second.build(targets=EVERYTHING, timeout=PATIENCE_S)
    finally:
        over.set()
        thread.join()
        second.stop()
    took_s = time.monotonic() - began
    _log.info("%d notices, %s in %.0f s", sum(notices), built.runners, took_s)
    assert sum(notices) >= _NOTICES
    assert built.runners.get("remote", 0) >= _ACTIONS
    assert "FAILED" not in built.output


def test_s3_holds_blobs_and_results_under_their_prefixes(laptop: Laptop) -> None:
    blobs, results = laptop.keys(_BUCKET.format("cas")), laptop.keys(_BUCKET.format("ac"))
    assert blobs
    assert all(key.startswith("cas/") for key in blobs)
    assert len(results) >= 2 * _ACTIONS
    assert all(key.startswith("ac/") for key in results)


def test_cloudwatch_has_the_metrics_of_each_pool(laptop: Laptop) -> None:
    found = pools(laptop)
    for name in ("QueuedActions", "RunningActions", "RegisteredWorkers", "LoadRatio"):
        assert sorted(set(found[name])) == ["none", "x86"]
    assert set(found["Interruptions"]) == {"x86"}


def test_alarms_changed_their_state_in_cloudwatch(laptop: Laptop) -> None:
    name = "nl-minimal-x86-from-zero"

    def is_over() -> bool:
        alarm = alarms(laptop)[name]
        return alarm["StateValue"] == "OK" and "GreaterThanThreshold" in alarm["StateReason"]

    wait_for(is_over, "nobody waits for a first worker", timeout_s=PATIENCE_S, every_s=1)
    assert {(name, "ALARM"), (name, "OK")} <= changed(laptop)
    assert "is not evaluated" not in laptop.said


def test_after_ctrl_c_nothing_is_left(laptop: Laptop) -> None:
    """Last, because it ends the region."""
    assert laptop.stop() == 0
    assert using(laptop.folder) == {}
