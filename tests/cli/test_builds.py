"""`nativelink builds`; the test plays the build tool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.devtools.build.v1 import publish_build_event_pb2
from tests.cli.farm import CommandLine, Farm, farm
from tests.services.builds import tool as tools
from tests.services.builds.tool import Id, Tool, failing_build, finish, start

CONFIG = """{
  stores: [{ name: "CAS", memory: {} }, { name: "BEP", memory: {} }],
  servers: [{
    listener: { http: { socket_address: "127.0.0.1:0" } },
    services: {
      cas: [{ instance_name: "main", cas_store: "CAS" }],
      bytestream: [{ instance_name: "main", cas_store: "CAS" }],
      experimental_bep: { store: "BEP" },
    },
  }],
}"""
#: The played build began long ago.
YEARS = "366"


class Published:
    """A server that takes build events."""

    def __init__(self, running: Farm, capture: pytest.CaptureFixture[str]) -> None:
        self.farm = running
        self.nativelink = CommandLine(capture, running.url)

    def publish(self, tool: Tool) -> None:
        with grpc.insecure_channel(self.farm.address) as channel:
            publish = channel.stream_stream(
                "/google.devtools.build.v1.PublishBuildEvent/PublishBuildToolEventStream",
                request_serializer=tools.Request.SerializeToString,
                response_deserializer=publish_build_event_pb2.PublishBuildToolEventStreamResponse.FromString,
            )
            acknowledged = [each.sequence_number for each in publish(iter(tool.events))]
        assert acknowledged == list(range(1, len(tool.events) + 1))


@pytest.fixture
def published(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Published]:
    # Played builds begin where a FakeClock stands; here the clock is the machine's.
    now = int(SystemClock().time())
    monkeypatch.setattr(tools, "START_S", now - 60)
    with farm(tmp_path, CONFIG) as running:
        yield Published(running, capfd)


def test_a_list_tells_of_each_build_in_one_line(published: Published) -> None:
    failing = Tool("0badc0de-aaaa")
    failing_build(failing)
    published.publish(failing)
    good = Tool("600dc0de-bbbb")
    start(good, "//lib:all", at=20)
    finish(good, at=32.5)
    published.publish(good)
    code, out, err = published.nativelink("builds", "list")
    assert (code, err) == (0, "")
    heading, first, second = [line.split() for line in out.splitlines()]
    assert " ".join(heading) == "build state age took command by targets tests cache"
    assert [first[0], first[1]] == ["600dc0de", "SUCCEEDED"]
    assert "12.5 s bazel build //lib:all" in " ".join(first)
    assert [second[0], second[1], second[-1]] == ["0badc0de", "FAILED", "50%"]
    told = "12.5 s bazel test //app/... ada@laptop 1/5 failed 1/3 failed 50%"
    assert told in " ".join(second)


def test_names_of_builds_are_as_long_as_they_must_be(published: Published) -> None:
    for name in ("0123456789ab", "0123456789cd"):
        tool = Tool(name)
        start(tool)
        published.publish(tool)
    out = published.nativelink("builds", "list").out
    assert {line.split()[0] for line in out.splitlines()[1:]} == {"0123456789a", "0123456789c"}


def test_a_list_is_filtered_and_cut(published: Published) -> None:
    for number in range(3):
        tool = Tool(f"invocation-{number}")
        start(tool, at=number, command="test" if number else "build")
        published.publish(tool)
    documents = json.loads(published.nativelink("builds", "list", "--json").out)
    assert [each["invocation_id"] for each in documents] == [
        "invocation-2",
        "invocation-1",
        "invocation-0",
    ]
    out = published.nativelink("builds", "list", "-f", "command=build").out
    assert len(out.splitlines()) == 2
    _, out, err = published.nativelink("builds", "list", "--limit", "2")
    assert len(out.splitlines()) == 3
    assert err == "… and more; --limit 0 shows all\n"


def test_a_server_without_builds_says_how_to_get_some(published: Published) -> None:
    out = published.nativelink("builds", "list").out
    assert out == (
        f"no builds in 7 days; Bazel tells of its builds with --bes_backend={published.farm.url}\n"
    )
    code, _, err = published.nativelink("builds", "show")
    assert (code, err) == (
        2,
        "nativelink: no build has been published here; Bazel does so by --bes_backend\n",
    )


def test_a_build_that_failed_says_why(published: Published) -> None:
    tool = Tool("0badc0de-aaaa")
    failing_build(tool)
    published.publish(tool)
    out = published.nativelink("builds", "show", "0badc0de").out
    facts = {line[:11].strip(): line[11:] for line in out.split("\n\n")[0].splitlines()}
    assert facts["build"] == "0badc0de-aaaa"
    assert facts["state"] == "FAILED  BUILD_FAILURE (exit code 1)"
    assert facts["command"] == "bazel test //app/..."
    assert facts["options"] == "--config=ci --remote_header=… --action_env=KEY=…"
    assert facts["by"] == "ada@laptop"
    assert facts["took"] == "12.5 s  critical path 8.2 s, Bazel's processor 30.0 s"
    assert facts["targets"] == "4 built, 1 failed"
    assert facts["tests"] == "2 passed (1 cached), 1 failed"
    assert facts["cache"] == "50%  4 of 8 actions"
    assert facts["outputs"] == "17 files, 4.2 MB"
    assert facts["metadata"] == "COMMIT_SHA=c0ffee"
    assert facts["keywords"] == "nightly"
    assert "  ✗ //app:broken  CppCompile\n    compiling main.c failed\n" in out
    assert "    main.c:3:1: error: expected ';'\n" in out
    assert "  //app:bad_test   FAILED  1.5 s     1  linux-sandbox\n" in out
    assert "  //app:old_test   PASSED  1.5 s     1  cached\n" in out
    assert out.endswith(
        "critical path\n"
        "    took  where   mostly       step\n"
        "  7.10 s  remote  process 91%  Compiling main.c\n"
        "  0.05 s  -       -            runfiles for //app:bad_test\n"
        "       -  -       -            something new\n"
    )


def test_what_failed_shows_the_end_of_its_log_where_the_cas_has_it(published: Published) -> None:
    header = "exec less\nExecuting tests from //t\n-----------\n"
    with published.farm.client() as client:
        log = (header + "".join(f"line {number}\n" for number in range(50))).encode()
        assert client.batch_update([log]).responses[0].status.code == 0
    uri = f"bytestream://{published.farm.address}/main/blobs/{name_of(log)}"
    tool = Tool("0badc0de-aaaa")
    start(tool)
    result = bep.TestResult(
        status=bep.FAILED, test_action_output=[bep.File(name="test.log", uri=uri)]
    )
    tool.say(about=Id(test_result=Id.TestResultId(label="//t")), test_result=result)
    published.publish(tool)
    out = published.nativelink("builds", "show", "--lines", "3").out
    assert f"  //t\n    line 47\n    line 48\n    line 49\n    log  {uri}\n" in out
    assert "line" not in published.nativelink("builds", "show", "--lines", "0").out
    out = published.nativelink("builds", "show", "--lines", "100").out
    assert "  //t\n    line 0\n" in out


def name_of(data: bytes) -> str:
    digest = DigestFunction.SHA256.digest_of(data)
    return f"{digest.hash}/{digest.size_bytes}"


def test_a_build_that_runs_is_shown_as_it_is(published: Published) -> None:
    tool = Tool("11fe11fe-aaaa")
    start(tool)
    tools.configured(tool, "//a")
    tools.configured(tool, "//b")
    tools.completed(tool, "//a")
    published.publish(tool)
    out = published.nativelink("builds", "show").out
    assert "state      RUNNING\n" in out
    assert "s so far" in out
    assert "targets    1 built, 1 not built" in out
    assert "cache      known when the build ends" in out


def test_what_is_not_known_is_said(published: Published) -> None:
    tool = Tool()
    start(tool)
    finish(tool)
    published.publish(tool)
    out = published.nativelink("builds", "show").out
    assert "cache      unknown: Bazel told no counts of actions" in out
    document = json.loads(published.nativelink("builds", "show", "--json").out)
    assert document["cache"] is None
    assert document["wall_time"] is None


def test_json_has_the_whole_build(published: Published) -> None:
    tool = Tool("0badc0de-aaaa")
    failing_build(tool)
    published.publish(tool)
    document = json.loads(published.nativelink("builds", "show", "--json").out)
    assert document["state"] == "FAILED"
    assert document["cache"] == {"hits": 4, "actions": 8, "rate": 0.5}
    assert document["wall_time"] == 12.5
    assert document["finish_time"] - document["start_time"] == 12.5
    assert document["metadata"] == {"COMMIT_SHA": "c0ffee"}
    assert [each["label"] for each in document["failures"]] == ["//app:broken"]
    assert {each["label"]: each["state"] for each in document["targets"]}[
        "//app:broken"
    ] == "FAILED"


def test_the_log_is_what_stayed_on_the_screen(published: Published) -> None:
    tool = Tool()
    start(tool)
    tool.say(progress=bep.Progress(stderr="\x1b[32mLoading:\x1b[0m \n"))
    tool.say(progress=bep.Progress(stderr="\r\x1b[1A\x1b[K\x1b[32mAnalyzing:\x1b[0m //a\n"))
    tool.say(progress=bep.Progress(stderr="\r\x1b[1A\x1b[KINFO: done\x07\n", stdout="result\n"))
    published.publish(tool)
    assert published.nativelink("builds", "log").out == "INFO: done\nresult\n"
    pieces = json.loads(published.nativelink("builds", "log", "--json").out)
    assert [each["stdout"] for each in pieces][-1] == "result\n"


def test_a_build_of_last_year_is_found_if_asked_for(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "START_S", tools.START_S - 300 * 86_400)
    tool = Tool("01d01d01-aaaa")
    start(tool)
    finish(tool)
    published.publish(tool)
    assert "no builds in 7 days" in published.nativelink("builds", "list").out
    assert "01d01d01" in published.nativelink("builds", "list", "--days", YEARS).out
