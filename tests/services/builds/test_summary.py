"""A build's events become what a person asks first."""

from __future__ import annotations

import pytest

from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.nativelink.v1 import builds_pb2 as pb
from nativelink.services.builds.summary import BuildSummary
from tests.services.builds.tool import (
    Id,
    Tool,
    completed,
    configured,
    failing_build,
    finish,
    ran_test,
    stamp,
    start,
)


def summed_up(tool: Tool) -> pb.Build:
    summary = BuildSummary(pb.Build())
    for event in tool.events:
        summary.add(event, "ada@example.org")
    return summary.build


def test_a_build_tells_who_ran_what_and_how_it_ended() -> None:
    tool = Tool()
    failing_build(tool)
    build = summed_up(tool)

    assert (build.build_id, build.invocation_id) == ("build-1", "invocation-1")
    assert (build.command, list(build.patterns)) == ("test", ["//app/..."])
    assert (build.user, build.host, build.identity) == ("ada", "laptop", "ada@example.org")
    assert build.project_id == "acme"
    assert list(build.keywords) == ["command_name=build", "user_keyword=nightly"]
    assert dict(build.metadata) == {"COMMIT_SHA": "c0ffee"}
    assert build.state == pb.Build.FAILED
    assert (build.exit_name, build.exit_code) == ("BUILD_FAILURE", 1)
    assert build.start_time == stamp(0)
    assert build.finish_time == stamp(12.5)
    assert build.last_sequence_number == len(tool.events)
    assert not build.incomplete


def test_what_may_be_secret_is_no_part_of_the_summary() -> None:
    tool = Tool()
    failing_build(tool)
    build = summed_up(tool)
    assert list(build.options) == ["--config=ci", "--remote_header=…", "--action_env=KEY=…"]
    assert b"xyzzy" not in build.SerializeToString()


def test_targets_and_tests_are_counted_and_listed() -> None:
    tool = Tool()
    failing_build(tool)
    build = summed_up(tool)
    counts = (build.targets_configured, build.targets_built, build.targets_failed)
    assert counts == (5, 4, 1)
    assert {(each.label, each.kind, each.state) for each in build.targets} >= {
        ("//app:lib", "cc_library", pb.Build.Target.BUILT),
        ("//app:broken", "cc_library", pb.Build.Target.FAILED),
        ("//app:good_test", "cc_test", pb.Build.Target.BUILT),
    }
    assert (build.tests_passed, build.tests_failed, build.tests_cached) == (2, 1, 1)
    assert [(each.label, each.status, each.cached) for each in build.tests] == [
        ("//app:good_test", "PASSED", 0),
        ("//app:bad_test", "FAILED", 0),
        ("//app:old_test", "PASSED", 1),
    ]
    [bad] = [each for each in build.tests if each.label == "//app:bad_test"]
    assert list(bad.logs) == [f"bytestream://cache/blobs/{'a' * 64}/12"]
    assert bad.duration.ToMilliseconds() == 1500


def test_a_failure_is_told_once_with_what_the_action_printed() -> None:
    tool = Tool()
    failing_build(tool)
    [failure] = summed_up(tool).failures
    assert failure == pb.Build.Failure(
        label="//app:broken",
        mnemonic="CppCompile",
        exit_code=1,
        message="compiling main.c failed",
        output="main.c:3:1: error: expected ';'\n",
    )


def test_time_and_places_come_from_what_bazel_measured() -> None:
    tool = Tool()
    failing_build(tool)
    build = summed_up(tool)
    assert build.wall_time.ToMilliseconds() == 12_500
    assert build.critical_path_time.ToMilliseconds() == 8_250
    assert build.critical_path.endswith("something new")
    assert {each.name: each.count for each in build.runners} == {
        "remote cache hit": 4,
        "internal": 2,
        "linux-sandbox": 4,
    }
    assert (build.output_bytes, build.output_files) == (4_200_000, 17)
    assert build.profile_uri == "file:///profile.gz"


def test_metrics_of_a_newer_bazel_are_preferred() -> None:
    tool = Tool()
    start(tool)
    actions = bep.BuildMetrics.ActionSummary(
        runner_count=[
            bep.BuildMetrics.ActionSummary.RunnerCount(name="total", count=9),
            bep.BuildMetrics.ActionSummary.RunnerCount(name="remote", count=9, exec_kind="Remote"),
        ],
        action_cache_statistics=bep.ActionCacheStatistics(hits=5, misses=9),
    )
    timing = bep.BuildMetrics.TimingMetrics()
    timing.critical_path_time.FromMilliseconds(1_234)
    tool.say(build_metrics=bep.BuildMetrics(action_summary=actions, timing_metrics=timing))
    build = summed_up(tool)
    assert [(each.name, each.count) for each in build.runners] == [("remote", 9)]
    assert build.has_action_cache
    assert (build.action_cache_hits, build.action_cache_misses) == (5, 9)
    assert build.critical_path_time.ToMilliseconds() == 1_234


def test_a_package_that_does_not_exist_is_a_failure_of_its_pattern() -> None:
    tool = Tool()
    start(tool, "//nowhere")
    tool.say(
        about=Id(pattern=Id.PatternExpandedId(pattern=["//nowhere"])),
        aborted=bep.Aborted(
            reason=bep.Aborted.LOADING_FAILURE, description="no such package 'nowhere'"
        ),
    )
    finish(tool, "PARSING_FAILURE", 1)
    [failure] = summed_up(tool).failures
    assert failure.label == "//nowhere"
    assert failure.message == "no such package 'nowhere'"
    assert failure.reason == "LOADING_FAILURE"


@pytest.mark.parametrize(
    ("reason", "state", "failed", "skipped"),
    [
        (bep.Aborted.SKIPPED, pb.Build.Target.SKIPPED, 0, 1),
        (bep.Aborted.INCOMPLETE, pb.Build.Target.CONFIGURED, 0, 0),
        (bep.Aborted.ANALYSIS_FAILURE, pb.Build.Target.FAILED, 1, 0),
    ],
)
def test_a_target_that_was_given_up_is_a_failure_only_if_it_is_to_blame(
    reason: bep.Aborted.AbortReason, state: pb.Build.Target.State, failed: int, skipped: int
) -> None:
    tool = Tool()
    start(tool)
    configured(tool, "//a")
    about = Id(target_completed=Id.TargetCompletedId(label="//a"))
    tool.say(about=about, aborted=bep.Aborted(reason=reason, description="why"))
    build = summed_up(tool)
    assert (build.targets_failed, build.targets_skipped) == (failed, skipped)
    assert build.targets[0].state == state
    assert len(build.failures) == failed


def test_ctrl_c_is_no_failure() -> None:
    tool = Tool()
    start(tool)
    finish(tool, "INTERRUPTED", 8)
    assert summed_up(tool).state == pb.Build.INTERRUPTED


def test_a_tool_that_ends_without_a_word_failed() -> None:
    tool = Tool()
    start(tool)
    assert summed_up(tool).state == pb.Build.RUNNING
    tool.end()
    build = summed_up(tool)
    assert build.state == pb.Build.FAILED
    assert build.failure_message == "the build tool ended without saying how"


def test_a_large_build_has_a_small_summary_that_keeps_what_failed() -> None:
    tool = Tool()
    start(tool)
    for number in range(600):
        configured(tool, f"//app:{number}")
    for number in range(600):
        completed(tool, f"//app:{number}", success=number != 599, message="x" * 9_000)
    for number in range(520):
        ran_test(tool, f"//t:{number}", bep.FAILED if number == 519 else bep.PASSED)
    build = summed_up(tool)
    assert (build.targets_built, build.targets_failed) == (599, 1)
    assert (build.tests_passed, build.tests_failed) == (519, 1)
    assert len(build.targets) == len(build.tests) == 500
    assert "//app:599" in {each.label for each in build.targets}
    assert "//t:519" in {each.label for each in build.tests}
    assert build.ByteSize() < 100_000


def test_the_summary_of_a_build_in_which_everything_fails_fits_into_a_message() -> None:
    tool = Tool()
    start(tool)
    for number in range(300):
        about = Id(action_completed=Id.ActionCompletedId(label=f"//app:{number}"))
        action = bep.ActionExecuted(
            stderr=bep.File(name="stderr", contents=b"x" * 9_000),
            failure_detail=bep.FailureDetail(message=f"{number}" * 9_000),
        )
        tool.say(about=about, action=action)
        completed(tool, f"//app:{number}", success=False)
        ran_test(tool, f"//t:{number}", bep.FAILED)
    build = summed_up(tool)
    assert build.failures_total == 300
    assert build.ByteSize() < 3_000_000


def test_an_event_that_is_added_again_changes_nothing() -> None:
    tool = Tool()
    failing_build(tool)
    once = summed_up(tool)
    tool.events += tool.events
    assert summed_up(tool) == once


def test_a_summary_goes_on_after_it_was_saved() -> None:
    tool = Tool()
    failing_build(tool)
    whole = summed_up(tool)
    saved = pb.Build()
    for event in tool.events:
        summary = BuildSummary(saved)
        summary.add(event, "ada@example.org")
        saved = pb.Build.FromString(summary.build.SerializeToString())
    assert saved == whole


def test_events_that_cannot_be_read_are_passed_over() -> None:
    tool = Tool()
    start(tool)
    tool.events[0].ordered_build_event.event.bazel_event.value = b"\xff\xff"
    build = summed_up(tool)
    assert build.last_sequence_number == 1
    assert build.state == pb.Build.RUNNING
