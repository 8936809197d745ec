"""`python -m bench.execution`: how fast actions are executed, against what they cost bare.

Everything shares the machine: the load, the scheduler, the worker, the cache. Baselines and cases
take turns, and ratios are formed within a round, so that the machine's moods cancel out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from bench import execution_report, loader
from bench.actions import (
    Actions,
    check,
    check_stored,
    nothing_actions,
    output_actions,
    shared_inputs,
)
from bench.answers import WrongAnswerError
from bench.bazel import Bazel, workspace
from bench.execution_report import CASES, Round
from bench.servers import ROOT, Server, start_scheduler, start_system

console = Console(stderr=True)

_INPUTS = 1000
_WORKERS = 200


def spawn_s(count: int) -> float:
    """B0: seconds for one `/bin/true`, started and waited for, the mean of `count`."""
    started = time.perf_counter()
    for _ in range(count):
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
    return (time.perf_counter() - started) / count


def linked_spawn_s(folder: Path, count: int) -> float:
    """B1: seconds for 1,000 links in a new directory, `/bin/true`, and the directory's removal."""
    originals = folder / "originals"
    if not originals.exists():
        originals.mkdir()
        for number in range(_INPUTS):
            (originals / str(number)).write_text(f"input {number}\n" * 20)
    names = [(f"{originals}/{number}", str(number)) for number in range(_INPUTS)]
    started = time.perf_counter()
    for turn in range(count):
        fresh = folder / f"fresh_{turn}"
        fresh.mkdir()
        for original, name in names:
            os.link(original, f"{fresh}/{name}")
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
        shutil.rmtree(fresh)
    return (time.perf_counter() - started) / count


class Bench:
    """One run of all cases."""

    def __init__(self, server: Server, bazel: Bazel | None, folder: Path, share: int) -> None:
        self._server = server
        self._bazel = bazel
        self._folder = folder
        self._share = share
        self._seed = time.monotonic_ns() % 10**9
        self._root, blobs = shared_inputs(_INPUTS)
        with server.client() as client:
            Actions([], blobs, set()).upload(client)

    def in_flight(self) -> Round:
        """Distinct `/bin/true` actions, 64 at a time."""
        bare = spawn_s(240 // self._share)
        actions = nothing_actions(self._next(), 1200 // self._share)
        return Round(bare, *self._run(actions, connections=4, concurrency=16))

    def alone(self) -> Round:
        """One at a time."""
        bare = spawn_s(240 // self._share)
        actions = nothing_actions(self._next(), 120 // self._share)
        return Round(bare, *self._run(actions, connections=1, concurrency=1, alone=True))

    def shared(self) -> Round:
        """A thousand inputs, three outputs."""
        bare = linked_spawn_s(self._folder, 40 // self._share)
        actions = output_actions(self._next(), 400 // self._share, self._root)
        return Round(bare, *self._run(actions, connections=4, concurrency=16))

    def build(self) -> Round:
        """Bazel with our worker, and without."""
        assert self._bazel is not None
        local = ("--spawn_strategy=local", f"--jobs={os.cpu_count()}")
        executor = f"--remote_executor=grpc://127.0.0.1:{self._server.port}"
        remote = ("--spawn_strategy=remote", "--jobs=64", executor)
        bare = self._bazel.build(*local)
        before = self._server.cpu_s()
        took = self._bazel.build(*remote)
        return Round(bare, took, self._server.cpu_s() - before)

    def scheduling(self) -> Round:
        """Actions that nobody executes, through the scheduler to 200 workers and back."""
        with start_scheduler() as server, noop_workers(server):
            actions = nothing_actions(self._next(), 20_000 // self._share)
            warm = nothing_actions(self._next(), 2000 // self._share)
            for each in (warm, actions):
                with server.client() as client:
                    each.upload(client)
            execute(server, warm, 4, 100)
            before = server.cpu_s()
            outcome = execute(server, actions, 4, 100)
            cpu_s = server.cpu_s() - before
        check(outcome.answers, actions)
        count = len(actions.requests)
        return Round(1.0, outcome.seconds / count, cpu_s / count)

    def _run(
        self, actions: Actions, *, connections: int, concurrency: int, alone: bool = False
    ) -> tuple[float, float]:
        """Seconds per action, and the server's own processor seconds per action."""
        with self._server.client() as client:
            actions.upload(client)
        before = self._server.cpu_s()
        outcome = execute(self._server, actions, connections, concurrency)
        count = len(actions.requests)
        cpu_s = (self._server.cpu_s() - before) / count
        check(outcome.answers, actions)
        with self._server.client() as client:
            check_stored(client, list(actions.outputs)[:20])
        if alone:
            return statistics.median(outcome.latencies_us) / 1e6, cpu_s
        return outcome.seconds / count, cpu_s

    def _next(self) -> int:
        self._seed += 1
        return self._seed


def execute(server: Server, actions: Actions, connections: int, concurrency: int) -> loader.Outcome:
    """Ask a server for executions."""
    return loader.run(
        (server.host, server.port),
        actions.requests,
        connections=connections,
        concurrency=concurrency,
        keep_answers=True,
    )


@contextlib.contextmanager
def noop_workers(server: Server) -> Iterator[None]:
    """Workers that answer at once; see `noop_workers.py`."""
    command = [sys.executable, "-m", "bench.noop_workers"]
    with subprocess.Popen(
        [*command, str(server.worker_port), str(_WORKERS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the workers could not join the scheduler")
            yield
        finally:
            process.stdin.close()
            process.wait()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Beside the server's own files, on the same device."""
    base = ROOT / ".cache/bench"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.execution", description=__doc__)
    parser.add_argument("--rounds", type=int, help="turns of every case (default 5, quick 1)")
    parser.add_argument("--quick", action="store_true", help="short runs; writes no files")
    parser.add_argument(
        "--only", action="append", choices=list(CASES), default=[], help="these cases"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.only = options.only or list(CASES)
    return options


def main() -> int:
    """Run, print, write."""
    options = _options()
    rounds: dict[str, list[Round]] = {name: [] for name in options.only}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_system())
        folder = stack.enter_context(_folder())
        bazel = None
        if "build" in options.only:
            if shutil.which("bazel") is None:
                raise SystemExit("no bazel here: run scripts/tools.py bazel")
            bazel = stack.enter_context(workspace(folder / "bazel"))
        bench = Bench(server, bazel, folder, 4 if options.quick else 1)
        measures: dict[str, Callable[[], Round]] = {
            "in_flight": bench.in_flight,
            "alone": bench.alone,
            "shared": bench.shared,
            "build": bench.build,
            "scheduling": bench.scheduling,
        }
        for name in options.only:
            if name != "scheduling":
                # The first time makes folders, forks slots and loads what is used from now on.
                measures[name]()
        for turn in range(options.rounds):
            for name in options.only if turn % 2 == 0 else reversed(options.only):
                rounds[name].append(measures[name]())
                console.print(f"[bold]{name}[/]: {rounds[name][-1]}")
    execution_report.show(rounds)
    if not options.quick and options.only == list(CASES):
        execution_report.write(rounds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (WrongAnswerError, loader.LoadError) as error:
        sys.exit(f"bench: {error}")
