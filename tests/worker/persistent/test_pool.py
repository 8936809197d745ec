"""Actions run by processes that stay, seen from where a worker calls them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.disk import DiskLane
from nativelink.testing.fakes import PassingTime, wait_until
from nativelink.worker.launch import Exit, Launch
from nativelink.worker.persistent.messages import WorkInput
from nativelink.worker.persistent.pool import PersistentSettings, PersistentWorkers
from nativelink.worker.processes.launcher import Namespaces, ProcessLauncher
from tests.worker.processes.launching import FOREVER_S, PATH, Yard, is_gone

PROTO = {"supports-workers": "1"}
JSON = {"supports-workers": "1", "requires-worker-protocol": "json"}
TOOL = Path(__file__).parent / "programs" / "tool.py"


class Bench:
    """A worker's directory, and a pool that works in it."""

    def __init__(self, root: Path, workers: PersistentWorkers, yard: Yard) -> None:
        self.work = root / "work"
        self.workers = workers
        self.yard = yard
        self._count = 0

    def action(
        self,
        *requests: str,
        properties: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        inputs: dict[str, str] | None = None,
        startup: tuple[str, ...] = (),
        working_directory: str = "",
    ) -> Launch:
        """An action with staged inputs: its tool, its file of arguments, and `inputs`."""
        self._count += 1
        directory = self.work / str(self._count)
        root = directory / "work" / working_directory
        root.mkdir(parents=True)
        # As a worker stages it: the same file for the same content.
        if not (self.work / "tool").exists():
            (self.work / "tool").write_bytes(TOOL.read_bytes())
        (root / "tool.py").hardlink_to(self.work / "tool")
        (root / "params").write_text("".join(f"{request}\n" for request in requests))
        for name, text in (inputs or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        extra = ("--json",) if properties == JSON else ()
        return Launch(
            arguments=(sys.executable, "-IS", "tool.py", *extra, *startup, "@params"),
            environment=environment or PATH,
            working_directory=root,
            action_directory=directory,
            stdout=directory / "stdout",
            stderr=directory / "stderr",
        )

    async def run(
        self,
        launch: Launch,
        properties: dict[str, str] = PROTO,
        *,
        timeout_s: float = FOREVER_S,
        inputs: tuple[WorkInput, ...] = (),
    ) -> Exit:
        ended = await self.workers.run(launch, properties, timeout_s=timeout_s, inputs=inputs)
        assert ended is not None
        return ended

    async def say(self, *requests: str) -> str:
        """What a new action's process answers."""
        launch = self.action(*requests)
        assert (await self.run(launch)).exit_code == 0
        return launch.stderr.read_text()


class Made:
    """Makes benches whose parts end with the test."""

    def __init__(self, root: Path, yard: Yard, stack: AsyncExitStack) -> None:
        self._root = root
        self._yard = yard
        self._stack = stack

    async def __call__(
        self,
        *,
        namespaces: bool = False,
        max_processes: int = 4,
        max_requests: int = 200,
        idle_timeout_s: float = 300.0,
    ) -> Bench:
        work = self._root / "work"
        work.mkdir()
        lane = DiskLane("test", threads=2)
        lane.start()
        self._stack.push_async_callback(lane.close)
        launcher = await self._stack.enter_async_context(
            ProcessLauncher(namespaces=Namespaces(hidden=[work]) if namespaces else None)
        )
        settings = PersistentSettings(
            directory=work / "persistent",
            max_processes=max_processes,
            max_requests=max_requests,
            idle_timeout_s=idle_timeout_s,
        )
        workers = await self._stack.enter_async_context(
            PersistentWorkers(launcher, lane, SystemClock(), settings)
        )
        return Bench(self._root, workers, self._yard)


@pytest.fixture
async def make(tmp_path: Path, yard: Yard) -> AsyncIterator[Made]:
    async with AsyncExitStack() as stack:
        yield Made(tmp_path, yard, stack)


@pytest.fixture
async def bench(make: Made) -> Bench:
    return await make()


@pytest.mark.parametrize("properties", [PROTO, JSON], ids=["proto", "json"])
async def test_an_answer_becomes_the_end_of_the_action(
    bench: Bench, properties: dict[str, str]
) -> None:
    launch = bench.action("say=a {b}", "exit=3", properties=properties)
    ended = await bench.run(launch, properties)
    assert (ended.exit_code, ended.signal, ended.timed_out) == (3, 0, False)
    assert 0 < ended.started_at <= ended.ended_at
    assert launch.stdout.read_text() == ""
    assert launch.stderr.read_text() == "a {b}"


async def test_one_process_serves_actions_that_are_started_alike(bench: Bench) -> None:
    assert [await bench.say("served") for _ in range(3)] == ["1", "2", "3"]
    assert bench.workers.processes == 1


async def test_what_starts_it_differs_so_does_the_process(bench: Bench) -> None:
    await bench.say("served")
    others = [
        bench.action("served", startup=("-x",)),
        bench.action("served", environment={"A": "b"}),
        bench.action("served", working_directory="deep"),
        replace(bench.action("served"), network=True),
    ]
    changed = bench.action("served")
    tool = changed.working_directory / "tool.py"
    tool.unlink()
    tool.write_bytes(TOOL.read_bytes() + b"# another version\n")
    for launch in (*others, changed):
        await bench.run(launch)
        assert launch.stderr.read_text() == "1"
    assert bench.workers.processes == 4


async def test_files_are_where_a_process_of_its_own_would_have_them(bench: Bench) -> None:
    for number in range(2):
        launch = bench.action(
            "read=a/in.txt",
            "write=a/out.txt=compiled",
            "write=top.txt=too",
            "list=.",
            inputs={"a/in.txt": f"source {number}"},
        )
        assert (await bench.run(launch)).exit_code == 0
        names = "a params tool.py top.txt"
        assert launch.stderr.read_text() == f"source {number} {names}"
        root = launch.working_directory
        assert (root / "a" / "out.txt").read_text() == "compiled"
        assert (root / "top.txt").read_text() == "too"
        assert (root / "a" / "in.txt").read_text() == f"source {number}"
        assert (root / "tool.py").exists()


async def test_a_working_directory_below_the_inputs_is_the_processs_too(bench: Bench) -> None:
    for number in range(2):
        launch = bench.action(
            "read=../beside", "write=../out=x", "served", working_directory="deep/er"
        )
        beside = launch.working_directory.parent / "beside"
        beside.write_text("beside")
        assert (await bench.run(launch)).exit_code == 0
        assert launch.stderr.read_text() == f"beside {number + 1}"
        assert (launch.working_directory.parent / "out").read_text() == "x"


async def test_it_has_the_actions_environment_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the server")
    launch = bench.action("env", "argv", environment={"A": "b c"})
    await bench.run(launch)
    assert launch.stderr.read_text() == "A=b c --persistent_worker"


@pytest.mark.parametrize("properties", [PROTO, JSON], ids=["proto", "json"])
async def test_requests_list_the_inputs(bench: Bench, properties: dict[str, str]) -> None:
    launch = bench.action("inputs", properties=properties)
    inputs = (WorkInput("a/b", "01ab"), WorkInput("\u00e9", "ff"))
    await bench.run(launch, properties, inputs=inputs)
    # No sandbox_dir: its working directory is the sandbox.
    assert launch.stderr.read_text() == repr({"a/b": "01ab", "\u00e9": "ff"})


async def test_files_of_arguments_are_expanded_as_bazel_does(bench: Bench) -> None:
    launch = bench.action("say=1", "@more", "say=@@x", "say=3", inputs={"more": "say=2"})
    await bench.run(launch)
    assert launch.stderr.read_text() == "1 2 @@x 3"


async def test_a_large_request_and_a_large_answer_come_through(bench: Bench) -> None:
    text = "x" * (1 << 20)
    launch = bench.action(f"say={text}")
    await bench.run(launch)
    assert launch.stderr.read_text() == text


def files(launch: Launch) -> list[Path]:
    """What there is, without the streams, which a run of its own would make anew."""
    found = sorted(launch.action_directory.rglob("*"))
    return [path for path in found if path not in {launch.stdout, launch.stderr}]


@pytest.mark.parametrize(
    ("properties", "arguments"),
    [
        ({}, None),
        ({"supports-workers": "0"}, None),
        (PROTO | {"requires-worker-protocol": "xml"}, None),
        (PROTO, ("/bin/true", "no file of arguments")),
        (PROTO, ("@params",)),
        (PROTO, (sys.executable, "@missing")),
        (PROTO, ("/no/such/program", "@params")),
    ],
)
async def test_what_cannot_stay_runs_in_a_process_of_its_own(
    bench: Bench, properties: dict[str, str], arguments: tuple[str, ...] | None
) -> None:
    launch = bench.action("say=x")
    if arguments is not None:
        launch = replace(launch, arguments=arguments)
    before = files(launch)
    assert await bench.workers.run(launch, properties, timeout_s=FOREVER_S) is None
    assert bench.workers.processes == 0
    assert files(launch) == before


async def test_files_of_arguments_outside_of_the_action_are_not_read(bench: Bench) -> None:
    for name in ("../../../secret", "/etc/hostname", "link"):
        launch = bench.action(f"@{name}")
        (launch.working_directory / "link").symlink_to("/etc/hostname")
        with pytest.raises(NativeLinkError) as caught:
            await bench.workers.run(launch, PROTO, timeout_s=FOREVER_S)
        assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "properties", "text"),
    [
        ("die", PROTO, "before it had answered; the end of its stderr: out of luck"),
        ("garbage", PROTO, "begins with no length"),
        ("garbage", JSON, "no JSON object"),
    ],
)
async def test_a_process_that_fails_is_told_and_not_trusted_again(
    bench: Bench, request_: str, properties: dict[str, str], text: str
) -> None:
    launch = bench.action("write=partial=x", request_, properties=properties)
    with pytest.raises(NativeLinkError, match=text) as caught:
        await bench.run(launch, properties)
    assert caught.value.code is Code.UNAVAILABLE
    # Its files are back, for whoever wants to know.
    assert (launch.working_directory / "partial").exists()
    assert bench.workers.processes == 0
    again = bench.action("say=x", properties=properties)
    assert await bench.workers.run(again, properties, timeout_s=FOREVER_S) is None


async def test_a_process_that_died_while_idle_is_replaced(bench: Bench) -> None:
    pid = int(await bench.say("pid"))
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not bench.workers._idle[0][2].is_alive)
    assert await bench.say("served") == "1"
    assert bench.workers.processes == 1


@pytest.mark.slow
async def test_the_time_limit_ends_the_process_and_what_it_started(bench: Bench) -> None:
    told, time = bench.yard.told, PassingTime()
    launch = bench.action("write=so=far", f"spawn={told}", f"tell={told}", "sleep=1000")
    running = asyncio.ensure_future(bench.run(launch))
    pids = await bench.yard.pids(2)
    time.pass_by(FOREVER_S)
    ended = await running
    assert (ended.timed_out, ended.exit_code, ended.signal) == (True, 137, 9)
    assert (launch.working_directory / "so").read_text() == "far"
    assert all(map(is_gone, pids))
    assert bench.workers.processes == 0


async def test_cancelling_ends_the_process_and_gives_the_files_back(bench: Bench) -> None:
    told = bench.yard.told
    launch = bench.action(f"spawn={told}", f"tell={told}", "sleep=1000")
    running = asyncio.ensure_future(bench.run(launch))
    pids = await bench.yard.pids(2)
    assert not (launch.working_directory / "params").exists()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert all(map(is_gone, pids))
    assert (launch.working_directory / "params").exists()
    assert bench.workers.processes == 0


async def test_leaving_the_pool_ends_all_processes(make: Made, tmp_path: Path, yard: Yard) -> None:
    async with AsyncExitStack() as stack:
        bench = await Made(tmp_path, yard, stack)()
        pid = int(await bench.say("pid"))
        assert not is_gone(pid)
    assert is_gone(pid)


async def test_processes_are_replaced_after_some_requests(make: Made) -> None:
    bench = await make(max_requests=2)
    assert [await bench.say("served") for _ in range(3)] == ["1", "2", "1"]
    assert bench.workers.processes == 1


async def test_idle_processes_end_after_a_while(make: Made) -> None:
    bench = await make(idle_timeout_s=0.01)
    pid = int(await bench.say("pid"))
    await wait_until(lambda: bench.workers.processes == 0)
    assert is_gone(pid)


async def test_there_are_never_more_than_allowed(make: Made) -> None:
    """The idle one that was used longest ago goes first; busy ones leave no room."""
    bench = await make(max_processes=2)
    told = bench.yard.told
    first = int(await bench.say("pid"))
    for name in ("-a", "-b"):
        await bench.run(bench.action("say=x", startup=(name,)))
        assert bench.workers.processes <= 2
    assert is_gone(first)
    busy = [
        asyncio.ensure_future(bench.run(bench.action(f"tell={told}", "sleep=1000")))
        for _ in range(2)
    ]
    await bench.yard.pids(2)
    assert await bench.workers.run(bench.action("say=x"), PROTO, timeout_s=FOREVER_S) is None
    for each in busy:
        each.cancel()
    await asyncio.wait(busy)


async def test_in_namespaces_it_sees_the_files_of_its_action_only(make: Made) -> None:
    bench = await make(namespaces=True)
    assert await bench.say("served", "parent") == "1 1"
    launch = bench.action(
        "served", "read=in", f"list={bench.work}", "write=out=x", inputs={"in": "in"}
    )
    assert (await bench.run(launch)).exit_code == 0
    assert launch.stderr.read_text() == "2 in persistent"
    assert (launch.working_directory / "out").read_text() == "x"


async def test_a_link_in_the_place_of_its_directory_leads_nowhere(bench: Bench) -> None:
    """The files of an action are moved by the worker, who may do more than the process."""
    elsewhere = bench.work / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    launch = bench.action(f"link=../deep={elsewhere}", working_directory="deep")
    with pytest.raises(NativeLinkError, match="cannot be emptied") as caught:
        await bench.run(launch)
    assert caught.value.code is Code.UNAVAILABLE
    assert (elsewhere / "file").exists()
    assert bench.workers.processes == 0


async def test_a_link_in_the_place_of_its_log_is_not_followed(bench: Bench) -> None:
    """The worker reads it, who may see more than the process."""
    secret = bench.work / "secret"
    secret.write_text("nothing for clients")
    launch = bench.action(f"link=../nativelink-worker.log={secret}", "die")
    with pytest.raises(NativeLinkError) as caught:
        await bench.run(launch)
    assert "nothing for clients" not in caught.value.message
