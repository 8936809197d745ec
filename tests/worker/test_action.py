"""Whose directory the next action may get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativelink.core.digest import Digest
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.worker.action import ActionExecutor, ActionSettings
from nativelink.worker.directories import ActionDirectory
from nativelink.worker.launch import Exit

ENDED = Exit(timed_out=False, exit_code=0, started_at=1.0, ended_at=2.0)


class Stager:
    """Says what is in a directory, and whether it was there already."""

    def __init__(self) -> None:
        self.furnished: list[bool] = []

    async def stage(self, *_: object, is_furnished: bool, **__: object) -> Any:
        self.furnished.append(is_furnished)
        return SimpleNamespace(
            inside=("out",),
            files=lambda _: (),
            **dict.fromkeys(("modified", "release"), self._nothing),
        )

    async def _nothing(self) -> Sequence[str]:
        return ()

    def backing(self, path: Path) -> Path:
        return path


def executor(
    stager: Stager,
    tmp_path: Path,
    launch: Callable[[], Exit],
    stays: Callable[[], Exit | None] = lambda: None,
) -> ActionExecutor:
    async def run(*_: object, **__: object) -> Exit:
        return launch()

    async def run_persistent(*_: object, **__: object) -> Exit | None:
        return stays()

    parts: Any = SimpleNamespace(run=run)
    persistent: Any = SimpleNamespace(run=run_persistent)
    unused: Any = None
    any_stager: Any = stager
    clock: Any = SimpleNamespace(time=lambda: 0.0)
    return ActionExecutor(
        unused,
        unused,
        any_stager,
        parts,
        persistent,
        unused,
        unused,
        ActionSettings(tmp_path),
        lane=unused,
        scripts=unused,
        clock=clock,
    )


async def after_a_run(
    tmp_path: Path, launch: Callable[[], Exit], stays: Callable[[], Exit | None] = lambda: None
) -> tuple[ActionDirectory, Stager]:
    stager = Stager()
    one = executor(stager, tmp_path, launch, stays)
    properties = {"supports-workers": "1"} if stays() else {}
    job: Any = SimpleNamespace(
        root=Digest("0" * 64, 0),
        directories=frozenset({"out"}),
        properties=properties,
        command=pb.Command(arguments=["true"]),
        timeout_s=1.0,
        wanted_timeout_s=1.0,
    )
    result = pb.ActionResult()
    attempt: Any = SimpleNamespace(
        stamp=lambda _: None, result=result, exit=None, process_stays=False
    )
    directory = ActionDirectory(tmp_path / "1", (job.root, job.directories), 0)
    directory.is_furnished = True
    try:
        await one._run_in(directory, attempt, job)
    except (NativeLinkError, asyncio.CancelledError):
        pass
    finally:
        one.close()
    return directory, stager


def fails() -> Exit:
    raise unavailable("the action's processes were killed, but stay")


def is_cancelled() -> Exit:
    raise asyncio.CancelledError


async def test_a_directory_whose_processes_ended_may_be_used_again(tmp_path: Path) -> None:
    directory, stager = await after_a_run(tmp_path, lambda: ENDED)

    assert directory.is_idle
    assert directory.inside == ("out",)
    assert stager.furnished == [True]


@pytest.mark.parametrize("launch", [fails, is_cancelled])
async def test_one_whose_processes_may_still_run_is_not_used_again(
    tmp_path: Path, launch: Callable[[], Exit]
) -> None:
    directory, _ = await after_a_run(tmp_path, launch)

    assert not directory.is_idle


async def test_one_that_a_persistent_worker_has_seen_is_not_used_again(tmp_path: Path) -> None:
    directory, _ = await after_a_run(tmp_path, fails, lambda: ENDED)

    assert not directory.is_idle
