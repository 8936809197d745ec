"""What a build's events tell, summed up as they come.

The summary is bounded whatever the build's size: counts tell of all targets, tests and failures,
the lists hold some hundreds, and what failed displaces what did not. Of lists within one event the
beginning counts: an event of 16 MiB may hold millions of anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError

from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.devtools.build.v1.build_events_pb2 import BuildEvent
from nativelink.proto.google.devtools.build.v1.publish_build_event_pb2 import (
    PublishBuildToolEventStreamRequest,
)
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.readings import (
    MAX_NAME,
    MAX_TEXT,
    clipped,
    name_of,
    processes_of,
    public_option,
    span_of,
    text_of,
    time_of,
)

__all__ = ["BuildSummary", "bazel_event"]

L = TypeVar("L", pb.Build.Target, pb.Build.Test)

#: Targets, and tests, that are listed.
_MAX_LISTED: Final = 500
#: Each has texts of 9 kB at most; a whole summary is to fit into a message of 4 MiB.
_MAX_FAILURES: Final = 200
_MAX_OPTIONS: Final = 200
_MAX_PATTERNS: Final = 100
_MAX_METADATA: Final = 100
_MAX_LOGS: Final = 10
_MAX_RUNNERS: Final = 100
#: Entries of a list in one event that are looked at.
_MAX_LOOKED_AT: Final = 1000
#: Of a log whose beginning is read.
_LOG_BYTES: Final = 64 * 1024

_BAZEL_EVENT: Final = "type.googleapis.com/build_event_stream.BuildEvent"
_INTERRUPTED: Final = "INTERRUPTED"
_CRITICAL_PATH: Final = re.compile(r"Critical Path: ([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?s")
#: Not the fault of what it is said of.
_NO_FAILURES: Final = frozenset(
    {bep.Aborted.SKIPPED, bep.Aborted.NO_BUILD, bep.Aborted.NO_ANALYZE, bep.Aborted.INCOMPLETE}
)
_PASSED_NAME: Final = "PASSED"
_PASSED: Final = frozenset({bep.PASSED, bep.FLAKY})


def bazel_event(request: PublishBuildToolEventStreamRequest) -> bep.BuildEvent | None:
    """Bazel's own event inside of a published one; None if there is none that can be read."""
    event = request.ordered_build_event.event
    if event.WhichOneof("event") != "bazel_event" or event.bazel_event.type_url != _BAZEL_EVENT:
        return None
    try:
        return bep.BuildEvent.FromString(event.bazel_event.value)
    except DecodeError:
        return None


class BuildSummary:
    """A build, as far as its events were added.

    Args:
        build: what is known already; the summary goes on with it and owns it.

    Attributes:
        build: the summary.
    """

    def __init__(self, build: pb.Build) -> None:
        self.build = build
        self._targets = {each.label: each for each in build.targets}
        self._tests = {each.label: each for each in build.tests}
        self._messages = {each.message for each in build.failures}
        self._fold: Mapping[str, Callable[[bep.BuildEvent], None]] = {
            "started": self._started,
            "options_parsed": self._options_parsed,
            "workspace_status": self._workspace_status,
            "build_metadata": self._build_metadata,
            "configured": self._configured,
            "completed": self._completed,
            "action": self._action,
            "aborted": self._aborted,
            "test_result": self._test_result,
            "test_summary": self._test_summary,
            "finished": self._finished,
            "build_metrics": self._build_metrics,
            "build_tool_logs": self._build_tool_logs,
        }

    def add(self, request: PublishBuildToolEventStreamRequest, identity: str) -> None:
        """Add the next event; events that were added already change nothing.

        What an event says that no summary can hold is left out, and noted as incomplete.
        """
        build = self.build
        ordered = request.ordered_build_event
        if ordered.sequence_number <= build.last_sequence_number:
            return
        if ordered.sequence_number != build.last_sequence_number + 1:
            build.incomplete = True
        build.last_sequence_number = ordered.sequence_number
        if not build.invocation_id:
            build.build_id = ordered.stream_id.build_id
            build.invocation_id = ordered.stream_id.invocation_id
            build.state = pb.Build.RUNNING
            build.identity = identity
            build.start_time.CopyFrom(time_of(ordered.event.event_time))
        if request.project_id:
            build.project_id = clipped(request.project_id, MAX_NAME)
        if request.notification_keywords:
            build.keywords[:] = [clipped(each) for each in request.notification_keywords[:100]]
        if ordered.event.WhichOneof("event") == "component_stream_finished":
            self._stream_finished(ordered.event)
            return
        event = bazel_event(request)
        if event is not None:
            fold = self._fold.get(event.WhichOneof("payload") or "")
            if fold is not None:
                try:
                    fold(event)
                except (ValueError, OverflowError):
                    # A number that its field does not hold.
                    build.incomplete = True

    # What the build is.

    def _started(self, event: bep.BuildEvent) -> None:
        build, started = self.build, event.started
        build.command = clipped(started.command, MAX_NAME)
        build.tool_version = clipped(started.build_tool_version, MAX_NAME)
        build.workspace_directory = clipped(started.workspace_directory)
        began = time_of(started.start_time, started.start_time_millis)
        if began.seconds:
            build.start_time.CopyFrom(began)
        patterns: list[str] = []
        for child in event.children[:_MAX_LOOKED_AT]:
            patterns += child.pattern.pattern[:_MAX_PATTERNS]
        build.patterns[:] = [clipped(each) for each in patterns[:_MAX_PATTERNS]]

    def _options_parsed(self, event: bep.BuildEvent) -> None:
        given = event.options_parsed.explicit_cmd_line
        self.build.options[:] = [public_option(clipped(each)) for each in given[:_MAX_OPTIONS]]

    def _workspace_status(self, event: bep.BuildEvent) -> None:
        for item in event.workspace_status.item[:_MAX_LOOKED_AT]:
            if item.key == "BUILD_USER":
                self.build.user = clipped(item.value)
            elif item.key == "BUILD_HOST":
                self.build.host = clipped(item.value)

    def _build_metadata(self, event: bep.BuildEvent) -> None:
        for key, value in islice(event.build_metadata.metadata.items(), _MAX_METADATA):
            self.build.metadata[clipped(key)] = clipped(value)

    # What becomes of its targets.

    def _configured(self, event: bep.BuildEvent) -> None:
        about = event.id.target_configured
        if about.aspect:
            return
        self.build.targets_configured += 1
        target = self._target(about.label, urgent=False)
        if target is not None:
            target.kind = _kind(event.configured.target_kind)

    def _completed(self, event: bep.BuildEvent) -> None:
        about, completed = event.id.target_completed, event.completed
        if about.aspect:
            return
        if completed.success:
            self.build.targets_built += 1
        else:
            self.build.targets_failed += 1
        target = self._target(about.label, urgent=not completed.success)
        if target is not None:
            target.state = pb.Build.Target.BUILT if completed.success else pb.Build.Target.FAILED
            # Older Bazels say here what a target is.
            target.kind = target.kind or _kind(completed.target_kind)
        message = clipped(completed.failure_detail.message)
        # As a rule it is the message of the action that failed.
        if not completed.success and message and message not in self._messages:
            label = clipped(about.label, MAX_NAME)
            self._failure(pb.Build.Failure(label=label, message=message))

    def _action(self, event: bep.BuildEvent) -> None:
        action, about = event.action, event.id.action_completed
        if action.success:
            return
        self._failure(
            pb.Build.Failure(
                label=clipped(about.label or action.label, MAX_NAME),
                mnemonic=clipped(action.type, MAX_NAME),
                exit_code=action.exit_code,
                message=clipped(action.failure_detail.message),
                stdout_uri=clipped(action.stdout.uri),
                stderr_uri=clipped(action.stderr.uri),
                output=text_of((action.stderr, action.stdout)),
            )
        )

    def _aborted(self, event: bep.BuildEvent) -> None:
        aborted, kind = event.aborted, event.id.WhichOneof("id")
        if kind == "build_finished":
            self._ended(aborted.reason != bep.Aborted.USER_INTERRUPTED, aborted.description)
            return
        label = ""
        if kind == "target_completed":
            label = event.id.target_completed.label
            failed = aborted.reason not in _NO_FAILURES
            target = self._target(label, urgent=failed)
            if failed:
                self.build.targets_failed += 1
            elif aborted.reason != bep.Aborted.INCOMPLETE:
                self.build.targets_skipped += 1
            if target is not None and aborted.reason != bep.Aborted.INCOMPLETE:
                target.state = pb.Build.Target.FAILED if failed else pb.Build.Target.SKIPPED
        elif kind == "unconfigured_label":
            label = event.id.unconfigured_label.label
        elif kind == "configured_label":
            label = event.id.configured_label.label
        elif kind == "pattern":
            label = " ".join(event.id.pattern.pattern[:_MAX_PATTERNS])
        elif kind == "pattern_skipped":
            label = " ".join(event.id.pattern_skipped.pattern[:_MAX_PATTERNS])
        else:
            return
        message = clipped(aborted.description)
        if aborted.reason not in _NO_FAILURES and message not in self._messages:
            reason = name_of(bep.Aborted.AbortReason, aborted.reason)
            label = clipped(label, MAX_NAME)
            self._failure(pb.Build.Failure(label=label, message=message, reason=reason))

    def _test_result(self, event: bep.BuildEvent) -> None:
        result = event.test_result
        passed = result.status in _PASSED
        test = self._test(event.id.test_result.label, urgent=not passed)
        if test is None:
            return
        test.status = name_of(bep.TestStatus, result.status)
        test.strategy = clipped(result.execution_info.strategy, MAX_NAME) or test.strategy
        test.details = clipped(result.status_details) or test.details
        test.cached += result.cached_locally or result.execution_info.cached_remotely
        if not passed:
            outputs = result.test_action_output[:_MAX_LOOKED_AT]
            _add_logs(test, (each for each in outputs if each.name == "test.log"))

    def _test_summary(self, event: bep.BuildEvent) -> None:
        build, summary = self.build, event.test_summary
        status = summary.overall_status
        passed = status in _PASSED
        test = self._test(event.id.test_summary.label, urgent=not passed)
        build.tests_passed += passed
        build.tests_failed += not passed
        build.tests_flaky += status == bep.FLAKY
        runs = max(1, summary.total_run_count)
        cached = (
            summary.total_num_cached if test is None else max(summary.total_num_cached, test.cached)
        )
        build.tests_cached += passed and cached >= runs
        if test is None:
            return
        test.status = name_of(bep.TestStatus, status)
        test.runs, test.cached = runs, min(cached, runs)
        test.attempts, test.shards = summary.attempt_count, summary.shard_count
        test.duration.CopyFrom(
            span_of(summary.total_run_duration, summary.total_run_duration_millis)
        )
        _add_logs(test, summary.failed[:_MAX_LOOKED_AT])

    # How it ended.

    def _finished(self, event: bep.BuildEvent) -> None:
        build, finished = self.build, event.finished
        code = finished.exit_code
        build.exit_name, build.exit_code = clipped(code.name, MAX_NAME), code.code
        build.finish_time.CopyFrom(time_of(finished.finish_time, finished.finish_time_millis))
        build.failure_message = clipped(finished.failure_detail.message)
        if code.name:
            succeeded = code.code == 0
        else:
            succeeded = finished.overall_success
        if succeeded:
            build.state = pb.Build.SUCCEEDED
        else:
            interrupted = code.name == _INTERRUPTED
            build.state = pb.Build.INTERRUPTED if interrupted else pb.Build.FAILED

    def _stream_finished(self, event: BuildEvent) -> None:
        if self.build.state == pb.Build.RUNNING:
            self.build.finish_time.CopyFrom(time_of(event.event_time))
            self._ended(failed=True, message="the build tool ended without saying how")

    def _ended(self, failed: bool, message: str) -> None:
        build = self.build
        build.state = pb.Build.FAILED if failed else pb.Build.INTERRUPTED
        build.failure_message = build.failure_message or clipped(message)

    def _build_metrics(self, event: bep.BuildEvent) -> None:
        build, metrics = self.build, event.build_metrics
        actions, timing = metrics.action_summary, metrics.timing_metrics
        build.actions_created = actions.actions_created
        build.actions_executed = actions.actions_executed
        runners = actions.runner_count[:_MAX_RUNNERS]
        self._runners(
            {clipped(each.name, MAX_NAME): each.count for each in runners if each.name != "total"}
        )
        if actions.HasField("action_cache_statistics"):
            build.has_action_cache = True
            build.action_cache_hits = actions.action_cache_statistics.hits
            build.action_cache_misses = actions.action_cache_statistics.misses
        for field, millis in (
            (build.wall_time, timing.wall_time_in_ms),
            (build.cpu_time, timing.cpu_time_in_ms),
            (build.analysis_time, timing.analysis_phase_time_in_ms),
            (build.execution_time, timing.execution_phase_time_in_ms),
        ):
            if millis:
                field.FromMilliseconds(millis)
        if timing.HasField("critical_path_time"):
            build.critical_path_time.CopyFrom(timing.critical_path_time)
        artifacts = metrics.artifact_metrics
        build.source_bytes = artifacts.source_artifacts_read.size_in_bytes
        build.output_bytes = artifacts.output_artifacts_seen.size_in_bytes
        build.output_files = artifacts.output_artifacts_seen.count
        network = metrics.network_metrics.system_network_stats
        build.network_sent_bytes = network.bytes_sent
        build.network_received_bytes = network.bytes_recv

    def _build_tool_logs(self, event: bep.BuildEvent) -> None:
        build = self.build
        for log in event.build_tool_logs.log[:_MAX_LOOKED_AT]:
            text = log.contents[:_LOG_BYTES].decode("utf-8", "replace").strip()
            if log.name == "critical path" and text:
                build.critical_path = text[: 4 * MAX_TEXT]
                found = _CRITICAL_PATH.search(text)
                if found is not None and not build.HasField("critical_path_time"):
                    build.critical_path_time.FromMilliseconds(round(float(found[1]) * 1000))
            elif log.name == "process stats":
                self._runners(processes_of(text))
            elif log.uri and "profile" in log.name:
                build.profile_uri = clipped(log.uri)

    def _runners(self, runners: Mapping[str, int]) -> None:
        """Take what is said first: metrics and a log say the same."""
        if not self.build.runners:
            self.build.runners.extend(
                pb.Build.Runner(name=name, count=count) for name, count in runners.items()
            )

    # The bounded lists.

    def _target(self, label: str, *, urgent: bool) -> pb.Build.Target | None:
        return _listed(
            self._targets,
            self.build.targets,
            label,
            (lambda each: each.state != pb.Build.Target.FAILED) if urgent else None,
        )

    def _test(self, label: str, *, urgent: bool) -> pb.Build.Test | None:
        return _listed(
            self._tests,
            self.build.tests,
            label,
            (lambda each: each.status == _PASSED_NAME) if urgent else None,
        )

    def _failure(self, failure: pb.Build.Failure) -> None:
        self.build.failures_total += 1
        if len(self.build.failures) < _MAX_FAILURES:
            self._messages.add(failure.message)
            self.build.failures.append(failure)


def _kind(text: str) -> str:
    """What a target is, such as `cc_library`."""
    return clipped(text, MAX_NAME).removesuffix(" rule")


def _listed(
    known: dict[str, L], items: Any, label: str, may_go: Callable[[L], bool] | None
) -> L | None:
    """The item of a label in a bounded list; None if the list is full and nothing may go."""
    label = clipped(label, MAX_NAME)
    item = known.get(label)
    if item is not None:
        return item
    if len(items) >= _MAX_LISTED:
        if may_go is None:
            return None
        place = next((place for place, each in enumerate(items) if may_go(each)), None)
        if place is None:
            return None
        del known[items[place].label]
        del items[place]
    added: L = items.add(label=label)
    known[label] = added
    return added


def _add_logs(test: pb.Build.Test, files: Iterable[bep.File]) -> None:
    for file in files:
        if file.uri and file.uri not in test.logs and len(test.logs) < _MAX_LOGS:
            test.logs.append(clipped(file.uri))
