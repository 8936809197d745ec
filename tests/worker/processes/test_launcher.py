"""What an action's process gets, and what is told about its end."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.processes.launcher import ProcessLauncher
from tests.worker.processes.launching import FOREVER_S, PATH, SlotTime, Yard

#: Prints what a process can see of itself.
LOOK = r"""
import json, os, signal, sys
ignored = [int(s) for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN]
print(json.dumps({
    "argv": sys.argv[1:],
    # As the kernel has it: Python adds to its own.
    "environment": dict(
        os.fsdecode(variable).split("=", 1)
        for variable in open("/proc/self/environ", "rb").read().split(b"\0") if variable
    ),
    "cwd": os.getcwd(),
    "umask": os.umask(0),
    "descriptors": sorted(
        int(d) for d in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{d}")
    ),
    "stdin": os.readlink("/proc/self/fd/0"),
    "session": os.getsid(0) == os.getpid(),
    "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "status": open("/proc/self/status").read(),
    "oom": int(open("/proc/self/oom_score_adj").read()),
    "terminal": os.path.exists("/dev/tty") and open("/proc/self/stat").read().split()[6],
}))
"""


def look(yard: Yard) -> dict[str, object]:
    found = json.loads(yard.stdout.read_text())
    assert isinstance(found, dict)
    return found


def oom_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


def current_directory(pid: int) -> Path:
    return Path(f"/proc/{pid}/cwd").readlink()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def test_an_exit_code_and_both_streams_come_back(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    ended = await launcher.run(yard.shell("echo out; echo err >&2; exit 7"), timeout_s=FOREVER_S)
    assert (ended.exit_code, ended.signal, ended.timed_out) == (7, 0, False)
    assert yard.stdout.read_text() == "out\n"
    assert yard.stderr.read_text() == "err\n"
    assert 0 < ended.started_at <= ended.ended_at


async def test_a_process_gets_exactly_what_was_asked_for(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    environment = {"A": "b c", "EMPTY": "", "LATIN": "\u00e9\udcff", "LINES": "x\ny=z"}
    arguments = (sys.executable, "-I", "-S", "-X", "utf8", "-c", LOOK, "", "a b", "\u00e9", "*\n")
    launch = yard.launch(*arguments, environment=environment)
    assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
    found = look(yard)
    assert found["argv"] == ["", "a b", "\u00e9", "*\n"]
    assert found["environment"] == environment
    assert found["cwd"] == str(yard.directory)


async def test_a_process_inherits_nothing_of_the_server(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    """No descriptor, signal mask, ignored signal, session, terminal, umask."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    before = os.umask(0o077)
    try:
        async with ProcessLauncher() as late:
            await late.run(yard.python(LOOK), timeout_s=FOREVER_S)
    finally:
        os.umask(before)
        os.close(read)
        os.close(write)
    found = look(yard)
    # The fourth was the directory itself while it was listed.
    assert found["descriptors"] == [0, 1, 2]
    assert found["stdin"] == "/dev/null"
    assert found["umask"] == 0o022
    assert found["session"] is True
    assert found["terminal"] == "0"
    assert found["blocked"] == []
    status = dict(line.split(":\t") for line in str(found["status"]).strip().split("\n"))
    # Python itself ignores SIGPIPE and SIGXFSZ, and the C library keeps 32 and 33 for itself.
    theirs = (signal.SIGPIPE, signal.SIGXFSZ, 32, 33)
    assert int(status["SigIgn"], 16) & ~sum(1 << (number - 1) for number in theirs) == 0
    assert int(status["SigBlk"], 16) == 0


async def test_actions_are_chosen_before_the_server_when_memory_runs_out(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    await launcher.run(yard.python(LOOK), timeout_s=FOREVER_S)
    assert look(yard)["oom"] == min(1000, oom_score() + 500)


async def test_a_slot_that_is_used_again_remembers_nothing(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    first = yard.directory / "first"
    first.mkdir()
    launch = yard.launch(
        "/bin/sh",
        "-c",
        "umask 077; ulimit -n 10; trap '' TERM; cd /; exit 1",
        environment={"SECRET": "x", **PATH},
        working_directory=first,
    )
    assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 1
    await launcher.run(yard.python(LOOK), timeout_s=FOREVER_S)
    found = look(yard)
    assert launcher.statistics().idle == 1
    assert found["umask"] == 0o022
    assert found["cwd"] == str(yard.directory)
    assert found["environment"] == PATH


async def test_an_idle_slot_is_in_nobodys_directory(launcher: ProcessLauncher, yard: Yard) -> None:
    """Else its file system could not be unmounted."""
    await launcher.run(yard.shell("echo $PPID"), timeout_s=FOREVER_S)
    assert current_directory(int(yard.stdout.read_text())) == Path("/")


async def test_a_process_can_be_talked_to_and_has_nothing_else_either(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    theirs, ours = os.pipe()
    answer, said = os.pipe()
    script = "import os; print(input(), sorted(os.listdir('/proc/self/fd')))"
    launch = yard.launch(sys.executable, "-I", "-S", "-c", script)
    running = asyncio.ensure_future(launcher.run_piped(launch, stdin=theirs, stdout=said))
    os.write(ours, b"hello\n")
    assert (await running).exit_code == 0
    # The fourth is the directory while it is listed.
    assert os.read(answer, 1000) == b"hello ['0', '1', '2', '3']\n"
    for descriptor in (theirs, ours, answer, said):
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
async def test_an_end_by_a_signal_is_told_as_a_shell_does(
    launcher: ProcessLauncher, yard: Yard, number: signal.Signals
) -> None:
    ended = await launcher.run(yard.shell(f"kill -{int(number)} $$"), timeout_s=FOREVER_S)
    assert (ended.exit_code, ended.signal, ended.timed_out) == (128 + number, number, False)


async def test_a_program_is_found_in_the_path_of_the_action(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    tools = yard.directory / "tools"
    tools.mkdir()
    (tools / "tool").write_text("#!/bin/sh\necho $0 $1\n")
    (tools / "tool").chmod(0o755)
    for path, arguments in (
        (str(tools), ("tool", "x")),
        (f"/nowhere:{tools}", ("tool", "x")),
        ("tools", ("tool", "x")),
        ("", ("tools/tool", "x")),
        ("", (f"{tools}/tool", "x")),
    ):
        launch = yard.launch(*arguments, environment={"PATH": path})
        assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
        assert yard.stdout.read_text().endswith("tool x\n"), (path, arguments)


async def test_without_a_path_the_usual_directories_are_searched(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    ended = await launcher.run(yard.launch("true", environment={}), timeout_s=FOREVER_S)
    assert ended.exit_code == 0


async def test_argv0_is_what_the_action_says(launcher: ProcessLauncher, yard: Yard) -> None:
    (yard.directory / "link").symlink_to("/bin/sh")
    await launcher.run(
        yard.launch("./link", "-c", "tr '\\0' ' ' < /proc/$$/cmdline"), timeout_s=FOREVER_S
    )
    assert yard.stdout.read_text().startswith("./link -c")


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "text"),
    [
        (("nowhere",), PATH, Code.NOT_FOUND, "nowhere: command not found"),
        (("./nowhere",), PATH, Code.NOT_FOUND, "./nowhere: command not found: no such file in"),
        (("/no/where",), PATH, Code.NOT_FOUND, "/no/where: command not found"),
        (("file/x",), PATH, Code.NOT_FOUND, "file/x: command not found"),
        (("",), PATH, Code.NOT_FOUND, "empty"),
        (("./file",), PATH, Code.PERMISSION_DENIED, "./file: permission denied"),
        (("./directory",), PATH, Code.PERMISSION_DENIED, "it is a directory"),
        (("file",), {"PATH": "."}, Code.PERMISSION_DENIED, "file is not executable"),
        (("./text",), PATH, Code.INVALID_ARGUMENT, "exec format error"),
        (("./orphan",), PATH, Code.NOT_FOUND, "'/no/interpreter', which does not exist"),
        (("/bin/true", "x" * 200_000), PATH, Code.INVALID_ARGUMENT, "longer than this machine"),
        ((), PATH, Code.INVALID_ARGUMENT, "no arguments"),
        (("/bin/true", "a\0b"), PATH, Code.INVALID_ARGUMENT, "argument 1 has a NUL byte"),
        (("/bin/true",), {"A": "\0"}, Code.INVALID_ARGUMENT, "'A' has a NUL byte"),
        (("/bin/true",), {"A=B": "c"}, Code.INVALID_ARGUMENT, "'A=B'"),
        (("/bin/true",), {"": "c"}, Code.INVALID_ARGUMENT, "not empty"),
    ],
)
async def test_what_cannot_be_started_is_named(
    launcher: ProcessLauncher,
    yard: Yard,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    code: Code,
    text: str,
) -> None:
    (yard.directory / "directory").mkdir()
    for name, content, mode in (
        ("file", "#!/bin/sh", 0o644),
        ("text", "echo no first line", 0o755),
        ("orphan", "#!/no/interpreter -x\n", 0o755),
    ):
        (yard.directory / name).write_text(content)
        (yard.directory / name).chmod(mode)
    with pytest.raises(NativeLinkError) as caught:
        await launcher.run(yard.launch(*arguments, environment=environment), timeout_s=FOREVER_S)
    assert caught.value.code is code
    assert text in caught.value.message
    assert (await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)).exit_code == 0


@pytest.mark.parametrize(("name", "code"), [("no", Code.NOT_FOUND), ("f", Code.INVALID_ARGUMENT)])
async def test_a_working_directory_that_is_none_is_named(
    launcher: ProcessLauncher, yard: Yard, name: str, code: Code
) -> None:
    (yard.directory / "f").touch()
    launch = yard.launch("/bin/true", working_directory=yard.directory / name)
    with pytest.raises(NativeLinkError, match="working directory") as caught:
        await launcher.run(launch, timeout_s=FOREVER_S)
    assert caught.value.code is code


@pytest.mark.slow
async def test_output_before_the_time_limit_is_kept(yard: Yard, slot_time: SlotTime) -> None:
    script = "echo so far; echo oh >&2; echo > told; sleep 1000"
    async with ProcessLauncher() as launcher:
        running = asyncio.ensure_future(launcher.run(yard.shell(script), timeout_s=FOREVER_S))
        await yard.lines(1)
        slot_time.pass_an_hour()
        ended = await running
    assert (ended.timed_out, ended.exit_code, ended.signal) == (True, 137, 9)
    assert yard.stdout.read_text() == "so far\n"
    assert yard.stderr.read_text() == "oh\n"


async def test_old_output_of_another_action_is_not_kept(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    yard.stdout.write_text("of somebody else")
    await launcher.run(yard.launch("/bin/true"), timeout_s=FOREVER_S)
    assert yard.stdout.read_text() == ""


async def test_a_command_line_of_a_megabyte_arrives(launcher: ProcessLauncher, yard: Yard) -> None:
    arguments = ["x" * 1000] * 1000
    launch = yard.launch("/bin/sh", "-c", 'echo "$#" "${#1}"', "sh", *arguments)
    assert (await launcher.run(launch, timeout_s=FOREVER_S)).exit_code == 0
    assert yard.stdout.read_text() == "1000 1000\n"


@pytest.mark.slow
async def test_cpu_time_counts_children_and_orphans(launcher: ProcessLauncher, yard: Yard) -> None:
    burn = "import time\nwhile time.process_time() < 0.1: pass"
    script = f"""
import os, subprocess, sys
burn = {burn!r}
subprocess.run([sys.executable, "-I", "-S", "-c", burn])
if os.fork() == 0:
    if os.fork() == 0:
        exec(burn)
        with open("told", "w") as told: told.write("done\\n")
        os._exit(0)
    os._exit(0)
with open("told") as told: told.readline()
"""
    ended = await launcher.run(yard.python(script), timeout_s=FOREVER_S)
    assert ended.cpu_time_ms >= 200


@pytest.mark.slow
async def test_memory_is_the_largest_sum_over_the_tree(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    # All keep what they have until the slot has slept a few times, between two samples each.
    script = """
import os, time

def slept():
    lines = open(f"/proc/{os.getppid()}/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))

keep = None
end, ready = os.pipe()
wait, go_on = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.close(go_on)
        keep = bytearray(os.urandom(1)) * (40 << 20)
        os.write(ready, b".")
        os.read(wait, 1)
        os._exit(0)
all_there = 0
while all_there < 3:
    all_there += len(os.read(end, 3))
before = slept()
while slept() < before + 4:
    time.sleep(0.01)
os.close(go_on)
for _ in range(3):
    os.wait()
"""
    ended = await launcher.run(yard.python(script), timeout_s=FOREVER_S)
    assert ended.sampled
    assert 120 << 10 < ended.peak_memory_kb < 250 << 10


async def test_a_big_process_is_seen_even_between_two_samples(
    launcher: ProcessLauncher, yard: Yard
) -> None:
    ended = await launcher.run(yard.python("bytearray(100 << 20)"), timeout_s=FOREVER_S)
    assert ended.sampled
    assert ended.peak_memory_kb > 100 << 10


@pytest.mark.slow
async def test_200_run_at_the_same_time(launcher: ProcessLauncher, tmp_path: Path) -> None:
    """All wait for each other, so all must run at once."""
    yards: list[Yard] = []
    for number in range(200):
        (tmp_path / str(number)).mkdir()
        yards.append(Yard(tmp_path / str(number)))
        os.mkfifo(tmp_path / str(number) / "go")
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                launcher.run(
                    yard.shell("echo $$ > told; read line < go; exit $line"), timeout_s=FOREVER_S
                )
            )
            for yard in yards
        ]
        for yard in yards:
            await yard.pids(1)
        assert launcher.statistics().running == 200
        for number, yard in enumerate(yards):
            (yard.directory / "go").write_text(f"{number}\n")
    assert [task.result().exit_code for task in tasks] == list(range(200))
    for yard in yards:
        yard.close()


@pytest.mark.slow
async def test_a_gigabyte_of_output_costs_no_memory(launcher: ProcessLauncher, yard: Yard) -> None:
    before = resident_bytes()
    ended = await launcher.run(yard.shell("head -c 1073741824 /dev/zero"), timeout_s=FOREVER_S)
    assert ended.exit_code == 0
    assert yard.stdout.stat().st_size == 1 << 30
    assert resident_bytes() - before < 8 << 20


async def test_the_small_processes_load_little(launcher: ProcessLauncher, yard: Yard) -> None:
    """They are copied for every slot, so what they load is paid for many times."""
    script = "grep -h Rss /proc/$PPID/smaps_rollup"
    await launcher.run(yard.shell(script), timeout_s=FOREVER_S)
    assert int(yard.stdout.read_text().split()[1]) < 20 << 10
