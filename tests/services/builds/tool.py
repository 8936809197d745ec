"""A build tool, played: what Bazel publishes of a build."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.devtools.build.v1 import build_events_pb2, publish_build_event_pb2
from nativelink.proto.google.protobuf import any_pb2
from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp

Request = publish_build_event_pb2.PublishBuildToolEventStreamRequest
Id = bep.BuildEventId
TOOL = build_events_pb2.StreamId.TOOL
#: 2023-11-14T22:13:20Z, where a FakeClock begins.
START_S = 1_700_000_000


def stamp(seconds: float) -> Timestamp:
    time = Timestamp()
    time.FromMilliseconds(round((START_S + seconds) * 1000))
    return time


class Tool:
    """One invocation; numbers its events.

    Attributes:
        events: all that it has said.
    """

    def __init__(
        self, invocation: str = "invocation-1", build: str = "build-1", component: int = TOOL
    ) -> None:
        self.invocation = invocation
        self.build = build
        self.events: list[Request] = []
        self._component = component

    def _publish(self, event: build_events_pb2.BuildEvent, **fields: Any) -> Request:
        stream = build_events_pb2.StreamId(
            build_id=self.build,
            invocation_id=self.invocation,
            component=self._component,
        )
        ordered = publish_build_event_pb2.OrderedBuildEvent(
            stream_id=stream, sequence_number=len(self.events) + 1, event=event
        )
        request = Request(ordered_build_event=ordered, **fields)
        self.events.append(request)
        return request

    def say(
        self,
        *children: Id,
        about: Id | None = None,
        at: float = 0,
        keywords: Iterable[str] = (),
        project: str = "",
        **payload: Any,
    ) -> Request:
        """One event of Bazel's."""
        event = bep.BuildEvent(id=about, children=children, **payload)
        packed = any_pb2.Any()
        packed.Pack(event)
        return self._publish(
            build_events_pb2.BuildEvent(event_time=stamp(at), bazel_event=packed),
            notification_keywords=list(keywords),
            project_id=project,
        )

    def end(self, at: float = 0) -> Request:
        """The last event of the stream."""
        finished = build_events_pb2.BuildEvent.BuildComponentStreamFinished(type="FINISHED")
        return self._publish(
            build_events_pb2.BuildEvent(event_time=stamp(at), component_stream_finished=finished)
        )

    def chatter(self, count: int) -> None:
        """Events that say little."""
        for number in range(count):
            self.say(progress=bep.Progress(stderr=f"[{number}]\n"))


def start(tool: Tool, *patterns: str, command: str = "build", at: float = 0) -> None:
    """How a build begins."""
    tool.say(
        Id(pattern=Id.PatternExpandedId(pattern=patterns or ["//..."])),
        at=at,
        keywords=["command_name=build", "user_keyword=nightly"],
        project="acme",
        started=bep.BuildStarted(
            uuid=tool.invocation,
            command=command,
            build_tool_version="4.2.3",
            workspace_directory="/src/app",
            start_time_millis=round((START_S + at) * 1000),
        ),
    )


def finish(tool: Tool, name: str = "SUCCESS", code: int = 0, *, at: float = 12.5) -> None:
    """How it ends."""
    tool.say(
        finished=bep.BuildFinished(
            overall_success=code == 0,
            exit_code=bep.BuildFinished.ExitCode(name=name, code=code),
            finish_time_millis=round((START_S + at) * 1000),
        )
    )


def configured(tool: Tool, label: str, kind: str = "cc_library") -> None:
    about = Id(target_configured=Id.TargetConfiguredId(label=label))
    tool.say(about=about, configured=bep.TargetConfigured(target_kind=f"{kind} rule"))


def completed(tool: Tool, label: str, *, success: bool = True, message: str = "") -> None:
    about = Id(target_completed=Id.TargetCompletedId(label=label))
    failure = bep.FailureDetail(message=message) if message else None
    tool.say(about=about, completed=bep.TargetComplete(success=success, failure_detail=failure))


def ran_test(
    tool: Tool,
    label: str,
    status: bep.TestStatus = bep.PASSED,
    *,
    cached: bool = False,
    strategy: str = "linux-sandbox",
    millis: int = 1500,
) -> None:
    log = bep.File(name="test.log", uri=f"bytestream://cache/blobs/{'a' * 64}/12")
    tool.say(
        about=Id(test_result=Id.TestResultId(label=label, run=1, shard=1, attempt=1)),
        test_result=bep.TestResult(
            status=status,
            cached_locally=cached,
            test_action_output=[log],
            execution_info=bep.TestResult.ExecutionInfo(strategy=strategy),
        ),
    )
    tool.say(
        about=Id(test_summary=Id.TestSummaryId(label=label)),
        test_summary=bep.TestSummary(
            overall_status=status,
            total_run_count=1,
            total_num_cached=int(cached),
            attempt_count=1,
            total_run_duration_millis=millis,
            failed=[] if status == bep.PASSED else [log],
        ),
    )


def failing_build(tool: Tool) -> None:
    """A build in which most things happen."""
    start(tool, "//app/...", command="test")
    tool.say(
        options_parsed=bep.OptionsParsed(
            explicit_cmd_line=[
                "--config=ci",
                "--remote_header=authorization=Bearer xyzzy",
                "--action_env=KEY=xyzzy",
            ]
        )
    )
    tool.say(
        workspace_status=bep.WorkspaceStatus(
            item=[
                bep.WorkspaceStatus.Item(key="BUILD_USER", value="ada"),
                bep.WorkspaceStatus.Item(key="BUILD_HOST", value="laptop"),
            ]
        )
    )
    tool.say(build_metadata=bep.BuildMetadata(metadata={"COMMIT_SHA": "c0ffee"}))
    for label in ("//app:lib", "//app:broken"):
        configured(tool, label)
    for label in ("//app:good_test", "//app:bad_test", "//app:old_test"):
        configured(tool, label, "cc_test")
    completed(tool, "//app:lib")
    tool.say(
        about=Id(action_completed=Id.ActionCompletedId(label="//app:broken")),
        action=bep.ActionExecuted(
            type="CppCompile",
            exit_code=1,
            stderr=bep.File(name="stderr", contents=b"main.c:3:1: error: expected ';'\n"),
            failure_detail=bep.FailureDetail(message="compiling main.c failed"),
        ),
    )
    completed(tool, "//app:broken", success=False, message="compiling main.c failed")
    for label in ("//app:good_test", "//app:bad_test", "//app:old_test"):
        completed(tool, label)
    ran_test(tool, "//app:good_test")
    ran_test(tool, "//app:bad_test", bep.FAILED)
    ran_test(tool, "//app:old_test", cached=True, strategy="")
    finish(tool, "BUILD_FAILURE", 1)
    tool.say(
        build_tool_logs=bep.BuildToolLogs(
            log=[
                bep.File(
                    name="critical path",
                    contents=b"Critical Path: 8.25s\n"
                    b"  7.10s, Remote (99.57% of the time): [parse: 0.22%, queue: 0.00%, "
                    b"process: 90.52%, input files: 28] action 'Compiling main.c'\n"
                    b"  0.05s runfiles for //app:bad_test\n"
                    b"  something new",
                ),
                bep.File(
                    name="process stats",
                    contents=b"10 processes: 4 remote cache hit, 2 internal, 4 linux-sandbox.",
                ),
                bep.File(name="command.profile.gz", uri="file:///profile.gz"),
            ]
        )
    )
    tool.say(
        build_metrics=bep.BuildMetrics(
            action_summary=bep.BuildMetrics.ActionSummary(actions_created=20, actions_executed=10),
            timing_metrics=bep.BuildMetrics.TimingMetrics(
                wall_time_in_ms=12_500, cpu_time_in_ms=30_000
            ),
            artifact_metrics=bep.BuildMetrics.ArtifactMetrics(
                output_artifacts_seen=bep.BuildMetrics.ArtifactMetrics.FilesMetric(
                    size_in_bytes=4_200_000, count=17
                )
            ),
        )
    )
    tool.end(at=13)
