"""The hands do what they are told, one job after the other."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.testing.fakes import wait_until
from nativelink.worker.hands.place import Place, Plan, carry_out
from nativelink.worker.hands.pool import FEW_STEPS, Hands
from nativelink.worker.hands.process import HEAD, JOBS, serve


def plan(directories: int, *, files: int = 0) -> Plan:
    places = [Place("", [], [], [], [], None, None)]
    places += [
        Place(
            f"d{number}",
            [],
            [],
            [(f"f{other}", "", 0o444, None) for other in range(files)],
            [],
            None,
            None,
        )
        for number in range(directories)
    ]
    return Plan(places, [], [], FEW_STEPS + 1)


@pytest.mark.parametrize("special", [{"mode": 0o700}, {"mtime_ns": 0}])
def test_a_plan_with_a_special_directory_does_not_say_which_there_are(
    special: dict[str, int],
) -> None:
    what = plan(2)
    assert what.directories == ["d0", "d1"]

    what.places[1] = what.places[1]._replace(**special)

    assert what.directories is None


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def place(hands: Hands, into: Path, what: Plan, *, blobs: Path | None = None) -> None:
    source = str(blobs or into.parent)
    await hands.run("place", what, str(into), source, source, steps=what.steps)


async def test_jobs_are_done_by_other_processes_and_side_by_side(tmp_path: Path) -> None:
    async with Hands(2) as hands:
        await run_all(place(hands, tmp_path / f"{number}", plan(20)) for number in range(8))
        for number in range(8):
            assert len(list((tmp_path / f"{number}").iterdir())) == 20
        await run_all(hands.run("remove", str(tmp_path / f"{number}")) for number in range(8))
        assert names(tmp_path) == []


async def test_few_steps_are_made_at_once(tmp_path: Path) -> None:
    async with Hands(1) as hands:
        few = plan(1)._replace(steps=FEW_STEPS)
        job = place(hands, tmp_path / "new", few)
        with pytest.raises(StopIteration):
            job.send(None)
        assert (tmp_path / "new" / "d0").is_dir()


async def test_a_failure_is_raised_as_it_happened_and_the_next_job_works(tmp_path: Path) -> None:
    async with Hands(1) as hands:
        (tmp_path / "there" / "d0").mkdir(parents=True)
        with pytest.raises(FileExistsError, match="d0"):
            await place(hands, tmp_path / "there", plan(1))
        await place(hands, tmp_path / "new", plan(1))
        assert (tmp_path / "new").is_dir()


async def test_a_cancelled_job_is_waited_for(tmp_path: Path) -> None:
    async with Hands(1) as hands:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await place(hands, tmp_path / "new", plan(100, files=10))
        assert len(list((tmp_path / "new").rglob("*"))) == 1100


async def test_a_process_that_died_is_replaced_and_its_jobs_fail(tmp_path: Path) -> None:
    async with Hands(1) as hands:
        (hand,) = hands._hands
        os.kill(hand._process.pid, signal.SIGSTOP)

        async def kill() -> None:
            await wait_until(lambda: hand.jobs == 1)
            os.kill(hand._process.pid, signal.SIGKILL)

        with pytest.raises(NativeLinkError) as caught:
            await run_all([place(hands, tmp_path / "new", plan(100)), kill()])
        assert caught.value.code is Code.UNAVAILABLE
        await place(hands, tmp_path / "other", plan(3))
        assert len(list((tmp_path / "other").iterdir())) == 3


async def test_no_process_outlives_its_pool() -> None:
    async with Hands(2) as hands:
        pids = [hand._process.pid for hand in hands._hands]
    assert not {str(pid) for pid in pids} & set(names(Path("/proc")))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    async with Hands(1) as hands:
        older = os.umask(umask)
        try:
            what = plan(1, files=1)._replace(steps=1, additions=["d0/more"])
            await place(hands, tmp_path / "inline", what)
            await place(hands, tmp_path / "process", what._replace(steps=1000))
        finally:
            os.umask(older)
    for root in (tmp_path / "inline", tmp_path / "process"):
        for path, mode in (("", 0o755), ("d0", 0o755), ("d0/f0", 0o444), ("d0/more", 0o755)):
            assert (root / path).stat().st_mode & 0o7777 == mode


async def test_what_cannot_be_linked_is_copied(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if other.stat().st_dev == tmp_path.stat().st_dev:  # noqa: ASYNC240 - no disk
        pytest.skip("there is no second device to try it with")
    blobs = other / f"nativelink-test-{os.getpid()}"
    blobs.mkdir()
    try:
        (blobs / "blob").write_text("data")
        what = Plan(
            [Place("", [("file", "blob")], [("program", "blob")], [], [], None, None)], [], [], 2
        )
        async with Hands(1) as hands:
            await place(hands, tmp_path / "new", what, blobs=blobs)
        for name, mode in (("file", 0o444), ("program", 0o555)):
            assert (tmp_path / "new" / name).read_text() == "data"
            assert (tmp_path / "new" / name).stat().st_mode & 0o777 == mode
    finally:
        (blobs / "blob").unlink()
        blobs.rmdir()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EOPNOTSUPP, "not supported", 5), (errno.EOPNOTSUPP, "not supported", "5")),
        (StopIteration("nothing"), (errno.EIO, "StopIteration: nothing", "")),
    ],
)
async def test_a_hand_survives_any_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: tuple[int, str, str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setitem(JOBS, "place", fails)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, theirs)
        for _ in range(2):
            data = pickle.dumps(("place", ()))
            ours.sendall(HEAD.pack(len(data)) + data)
        ours.shutdown(socket.SHUT_WR)
        served.result()
        theirs.shutdown(socket.SHUT_WR)
        answers = ours.makefile("rb").read()

    (length,) = HEAD.unpack_from(answers)
    assert len(answers) == 2 * (HEAD.size + length)
    value, failure = pickle.loads(answers[HEAD.size : HEAD.size + length])
    assert (value, failure) == (None, said)


def test_modes_in_a_directory_that_is_there_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    root = tmp_path / "work"
    root.mkdir(0o755)
    before = os.umask(0o077)
    try:
        what = plan(2)
        what.places[0].symlinks.append(("link", "d0", None))
        behind = what._replace(behind_links=["link/out"])
        carry_out(behind, str(root), str(tmp_path), str(tmp_path))
    finally:
        os.umask(before)

    for path in ("d0", "d1", "d0/out"):
        assert (root / path).stat().st_mode & 0o777 == 0o755
