"""Every run tests the same cases: a failure that nobody can repeat teaches nothing."""

from __future__ import annotations

import gc
import hashlib
import os
import warnings
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadGroupScheduling

from tests.waiting import is_waiting

settings.register_profile(
    "same every time",
    derandomize=True,
    deadline=None,
    database=None,
    # How long it takes to choose what to test says how busy the machine is.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same every time")

# What a test does not close fails it, when it ends. What hangs in a cycle is found by the garbage
# collector alone, whenever it runs: a full collection in the midst of a later test would fail that
# one. So these wait for the end of a module, where what they find is a warning with its name.
gc.set_threshold(700, 10, 1_000_000)

_LONGEST_ID = 80
#: Who waits for other programs, and these, leave the processors to tests that compute.
_NICENESS = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--waiting",
        type=int,
        default=0,
        metavar="N",
        help="so many of the processes of -n take tests that mostly wait before any others",
    )


def pytest_configure(config: pytest.Config) -> None:
    about = getattr(config, "workerinput", None)
    if about and _takes_waiting(about["workerid"], about["workercount"], config):
        os.nice(_NICENESS)


def _takes_waiting(process: str, count: int, config: pytest.Config) -> bool:
    """Whether one of xdist's processes, gw0 to gwN, is there for tests that mostly wait."""
    waiting: int = config.option.waiting
    return int(process.removeprefix("gw")) >= max(1, count - waiting)


def pytest_make_parametrize_id(val: object) -> str | None:
    """A short name for a long parameter, which would fill the terminal with its bytes."""
    if not isinstance(val, bytes | str) or len(val) <= _LONGEST_ID:
        return None
    content = val if isinstance(val, bytes) else val.encode(errors="replace")
    return f"{len(val)}-{hashlib.sha256(content).hexdigest()[:8]}"


class ModuleScheduling(LoadGroupScheduling):
    """A module's tests run in one process, which starts what they share, and so do a group's.

    Those that mostly wait run in processes of their own, beside as many others as there are
    processors. Whoever has nothing left helps the others: those that waited begin with what is
    quick, at the end, so that nobody is left with a long one.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.partition("::")[0]

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        super().mark_test_complete(node, item_index, duration)
        # What is over is counted again at every test, if it stays.
        assigned = self.assigned_work[node]
        for scope in [scope for scope, tests in assigned.items() if all(tests.values())]:
            del assigned[scope]

    def _assign_work_unit(self, node: Any) -> None:
        waiting = _takes_waiting(node.gateway.id, self.numnodes, self.config)
        fitting = [scope for scope in self.workqueue if is_waiting(scope) == waiting]
        if fitting:
            self.workqueue.move_to_end(fitting[0], last=False)
        elif waiting:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ModuleScheduling | None:
    if config.getvalue("dist") != "loadgroup":
        return None
    # Not by the number of tests: what takes long begins first, as the processes have sorted it.
    config.option.loadscopereorder = False
    return ModuleScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what takes long first if several processes share the tests, so that all end together."""
    if not hasattr(config, "workerinput"):
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    clients = {item.path for item in items if item.get_closest_marker("clients")}
    items.sort(key=lambda item: (item.path not in clients, item.path not in slow))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    yield
    if nextitem is not None and nextitem.path == item.path:
        return
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    # What is left is what other modules need too; the next collection need not look at it again.
    gc.freeze()
    for warning in found:
        item.ihook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": warning,
                "nodeid": str(item.path),
                "when": "runtest",
                "location": None,
            }
        )
