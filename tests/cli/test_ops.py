"""`nativelink ops` and `nativelink workers`; the test plays the workers."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.scheduler import WorkerHello, WorkerLink
from tests.cli.farm import Blobs, CommandLine, Farm, farm, platform

ORIGIN = "build.bazel.remote.execution.v2.requestmetadata-bin"


class Scheduled:
    """A farm of its own, with what a test does to it."""

    def __init__(
        self, running: Farm, capture: pytest.CaptureFixture[str], channel: grpc.Channel
    ) -> None:
        self.farm = running
        self.nativelink = CommandLine(capture, running.url)
        self.scheduler = running.system.schedulers[0]
        self.channel = channel
        self._calls: list[object] = []

    def execute(self, number: int, mnemonic: str = "CppCompile", **properties: str) -> str:
        """Ask for an execution; the name of the operation."""
        command = pb.Command(arguments=["true", str(number)])
        with self.farm.client() as client:
            blobs = Blobs(client)
            action = blobs.action(blobs.directory(), command, platform=platform(**properties))
        hash_, _, size = action.partition("/")
        request = pb.ExecuteRequest(
            instance_name="main", action_digest=pb.Digest(hash=hash_, size_bytes=int(size))
        )
        origin = pb.RequestMetadata(
            action_mnemonic=mnemonic, target_id=f"//app:{number}", tool_invocation_id="build-1"
        )
        execute = self.channel.unary_stream(
            "/build.bazel.remote.execution.v2.Execution/Execute",
            request_serializer=pb.ExecuteRequest.SerializeToString,
            response_deserializer=operations_pb2.Operation.FromString,
        )
        call = execute(request, metadata=[(ORIGIN, origin.SerializeToString())])
        # Who asked stays interested until the end of the test.
        self._calls.append(call)
        return next(call).name

    def join(self, prefix: str = "w", slots: int = 1, **properties: str) -> WorkerLink:
        hello = WorkerHello(
            prefix=prefix,
            properties=tuple(properties.items()),
            max_inflight_tasks=slots,
            address="10.0.0.7:4711",
        )
        return self.farm.call(lambda: self.scheduler.connect(hello))

    def order(self, link: WorkerLink) -> str:
        """What the worker is to run."""
        [order] = self.farm.wait_for(link.next_orders())
        return order.operation_id

    def finish(self, link: WorkerLink, operation_id: str, exit_code: int = 0) -> None:
        response = pb.ExecuteResponse(result=pb.ActionResult(exit_code=exit_code))
        data = response.SerializeToString()
        self.farm.call(lambda: link.result(operation_id, data, exit_code=exit_code))


@pytest.fixture
def scheduled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Scheduled]:
    with farm(tmp_path) as running, grpc.insecure_channel(running.address) as channel:
        yield Scheduled(running, capfd, channel)


def rows(out: str) -> list[list[str]]:
    """A table's cells."""
    return [re.split(r"  +", line.strip()) for line in out.splitlines()]


def test_an_operation_is_listed_with_what_it_waits_for(scheduled: Scheduled):
    first, second = scheduled.execute(1), scheduled.execute(2, "Javac", cpu_count="8")
    heading, *operations = rows(scheduled.nativelink("ops", "list").out)
    assert heading == ["operation", "stage", "since", "priority", "what", "worker", "note"]
    assert [row[:2] for row in operations] == [[first, "QUEUED"], [second, "QUEUED"]]
    assert operations[0][4:6] == ["CppCompile //app:1", "-"]
    assert operations[0][6] == "no worker is connected"
    filtered = scheduled.nativelink("ops", "list", "-f", "mnemonic=Javac", "--json")
    assert [each["name"] for each in json.loads(filtered.out)] == [second]


def test_a_long_list_is_cut_for_people_and_fetched_in_pages(scheduled: Scheduled):
    names = [scheduled.execute(number) for number in range(3)]
    cut = scheduled.nativelink("ops", "list", "--limit", "2")
    assert [row[0] for row in rows(cut.out)[1:]] == names[:2]
    assert cut.err == "… and more; --limit 0 shows all\n"
    whole = scheduled.nativelink("ops", "list", "--limit", "3")
    assert (len(rows(whole.out)), whole.err) == (4, "")


def test_no_operations_are_said_to_be_none(scheduled: Scheduled):
    assert scheduled.nativelink("ops", "list") == (
        0, "no operations of instance 'main'; --instance asks for another\n", "",
    )  # fmt: skip
    assert scheduled.nativelink("ops", "list", "--json") == (0, "[]\n", "")


def test_an_operation_shows_where_it_runs_and_how_it_ended(scheduled: Scheduled):
    name = scheduled.execute(1)
    link = scheduled.join()
    operation_id = scheduled.order(link)
    shown, _, story = scheduled.nativelink("ops", "show", name).out.partition("\n\nstory\n")
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert facts["stage"] == "EXECUTING"
    assert facts["worker"] == link.worker_id
    assert facts["target"] == "//app:1"
    assert facts["invocation"] == "build-1"
    assert "outcome" not in facts
    assert [line.split(maxsplit=1)[1] for line in story.splitlines()] == [
        "asked for",
        "no worker could run it: no worker is connected",
        f"given to {link.worker_id}",
    ]
    scheduled.finish(link, operation_id, exit_code=3)
    shown = scheduled.nativelink("ops", "show", name).out
    assert "\noutcome     exit code 3\n" in f"{shown}\n"
    document = json.loads(scheduled.nativelink("ops", "show", "--json", name).out)
    assert document["stage"] == "COMPLETED"
    assert document["outcome"]["exit_code"] == 3
    assert document["outcome"]["succeeded"] is False
    assert document["story"][-1]["text"] == f"{link.worker_id} finished it, exit code 3"
    (listed,) = json.loads(scheduled.nativelink("ops", "list", "--json").out)
    assert "story" not in listed


@pytest.mark.parametrize("exit_code", [0, 1])
def test_waiting_follows_an_operation_and_ends_as_it_does(scheduled: Scheduled, exit_code: int):
    name = scheduled.execute(1)
    link = scheduled.join()
    operation_id = scheduled.order(link)
    # The command is already waiting, or not: both are right.
    ending = threading.Thread(target=scheduled.finish, args=(link, operation_id, exit_code))
    ending.start()
    answer = scheduled.nativelink("ops", "wait", name)
    ending.join()
    assert answer.code == exit_code
    assert f"exit code {exit_code}" in answer.out


def test_waiting_ends_when_the_time_is_over(scheduled: Scheduled):
    name = scheduled.execute(1)
    answer = scheduled.nativelink("ops", "wait", name, "--timeout", "0.05")
    assert answer.code == 1
    assert answer.out.endswith("not ended within 0.05 s\n")


def test_a_failed_execution_says_why(scheduled: Scheduled):
    name = scheduled.execute(1)
    link = scheduled.join()
    operation_id = scheduled.order(link)
    failure = Failure(Code.INVALID_ARGUMENT, "no such \x1b[31m program")
    scheduled.farm.call(lambda: link.failed(operation_id, failure))
    answer = scheduled.nativelink("ops", "wait", name)
    assert answer.code == 1
    assert "FAILED" in answer.out
    assert "no such \\x1b[31m program" in answer.out


def test_what_is_cancelled_ends(scheduled: Scheduled):
    name = scheduled.execute(1)
    assert scheduled.nativelink("ops", "cancel", name) == (0, f"{name} is cancelled\n", "")
    answer = scheduled.nativelink("ops", "wait", name)
    assert answer.code == 1
    assert "CANCELLED" in answer.out
    answer = scheduled.nativelink("ops", "cancel", name)
    assert answer == (0, f"{name} has ended already\n", "")
    answer = scheduled.nativelink("ops", "cancel", "--json", name)
    assert json.loads(answer.out) == [{"name": name, "cancelled": False}]


@pytest.mark.parametrize("command", ["show", "wait", "cancel"])
def test_an_operation_that_nobody_knows_is_an_error(scheduled: Scheduled, command: str):
    answer = scheduled.nativelink("ops", command, "main/no-such")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert "main/no-such" in answer.err


def test_workers_are_listed_with_what_they_do_and_offer(scheduled: Scheduled):
    assert scheduled.nativelink("workers", "list") == (0, "no workers\n", "")
    busy, idle = scheduled.join("busy", 4, cpu_count="8"), scheduled.join("idle")
    scheduled.execute(1, cpu_count="2")
    scheduled.order(busy)
    heading, *workers = rows(scheduled.nativelink("workers", "list").out)
    assert heading == [
        "worker", "state", "running", "seen", "scheduler", "address", "properties",
    ]  # fmt: skip
    assert [[*row[:3], *row[4:]] for row in workers] == [
        [busy.worker_id, "busy", "1 of 4", "MAIN", "10.0.0.7:4711", "cpu_count=8"],
        [idle.worker_id, "idle", "0 of 1", "MAIN", "10.0.0.7:4711", "-"],
    ]
    shown = scheduled.nativelink("workers", "show", busy.worker_id).out
    assert "\nproperties  cpu_count=8\n" in shown
    [document, _] = json.loads(scheduled.nativelink("workers", "list", "--json").out)
    assert document["scheduler"] == "MAIN"
    assert document["properties"] == {"cpu_count": ["8"]}
    assert len(document["running"]) == 1


def test_a_drained_worker_gets_nothing_until_it_is_undrained(scheduled: Scheduled):
    worker = scheduled.join()
    answer = scheduled.nativelink("workers", "drain", worker.worker_id)
    assert answer == (0, f"{worker.worker_id} gets no new actions\n", "")
    assert rows(scheduled.nativelink("workers", "list").out)[1][1] == "draining"
    name = scheduled.execute(1)
    document = json.loads(scheduled.nativelink("ops", "show", "--json", name).out)
    assert document["stage"] == "QUEUED"
    answer = scheduled.nativelink("workers", "undrain", "--json", worker.worker_id)
    assert json.loads(answer.out) == [{"worker_id": worker.worker_id, "draining": False}]
    scheduled.order(worker)


def test_an_operation_is_found_by_the_beginning_of_its_name(scheduled: Scheduled):
    first, second = scheduled.execute(1), scheduled.execute(2)
    beginning = next(
        first[:length]
        for length in range(len("main/") + 4, len(first))
        if not second.startswith(first[:length])
    )
    shown = json.loads(scheduled.nativelink("ops", "show", "--json", beginning).out)
    assert shown["name"] == first
    assert scheduled.nativelink("ops", "cancel", beginning) == (0, f"{first} is cancelled\n", "")
    assert scheduled.nativelink("ops", "wait", beginning).code == 1
    answer = scheduled.nativelink("ops", "show", "main/zzzzzz")
    assert answer.code == 2
    assert "main/zzzzzz" in answer.err


def test_a_worker_is_found_by_the_beginning_of_its_id(scheduled: Scheduled):
    first, second = scheduled.join("i-0123-a"), scheduled.join("i-0456-b")
    shown = json.loads(scheduled.nativelink("workers", "show", "--json", "i-0123").out)
    assert shown["worker_id"] == first.worker_id
    answer = scheduled.nativelink("workers", "drain", "i-0")
    assert answer.code == 2
    ids = ", ".join(sorted((first.worker_id, second.worker_id)))
    assert answer.err == f"nativelink: 2 workers begin with 'i-0': {ids}\n"


def test_a_wrong_name_drains_nobody(scheduled: Scheduled):
    worker = scheduled.join()
    answer = scheduled.nativelink("workers", "drain", worker.worker_id, "no-such")
    assert answer.code == 2
    assert answer.err == (
        f"nativelink: there is no worker 'no-such'; workers: {worker.worker_id}\n"
    )
    assert rows(scheduled.nativelink("workers", "list").out)[1][1] == "idle"


def test_a_server_without_the_page_is_told_from_one_without_workers(scheduled: Scheduled):
    answer = scheduled.nativelink("workers", "list", "--admin-path", "/elsewhere")
    assert answer.code == 2
    assert answer.err == (
        f"nativelink: {scheduled.farm.url} does not serve that: there is no page "
        "/elsewhere/workers, which takes a scheduler in that process and services.admin on that "
        "listener (--admin-path if it was moved)\n"
    )
