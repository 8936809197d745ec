"""Builds in a few words: a line of a list, and the facts above everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from nativelink.cli.output import ago, clock_time, count, size, span
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from nativelink.proto.nativelink.v1 import builds_pb2 as pb

__all__ = ["build_facts", "first_lines", "list_rows", "styled"]

_STYLES: Final = {
    "UNKNOWN": "dim",
    "RUNNING": "cyan",
    "LOST": "yellow",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "INTERRUPTED": "yellow",
    "PASSED": "green",
    "FLAKY": "yellow",
    "NO_STATUS": "dim",
}
#: What stands before the name of a build, as long as it tells builds apart.
_SHORT_NAME: Final = 8
_SHOWN_OPTIONS: Final = 12
_SO_FAR: Final = " so far"


def list_rows(builds: Sequence[pb.Build], now: float) -> list[Sequence[Text | str]]:
    """Builds as rows of a table."""
    length = _distinct_length([build.invocation_id for build in builds])
    return [_row(build, now, length) for build in builds]


def _row(build: pb.Build, now: float, length: int) -> Sequence[Text | str]:
    from nativelink.client.builds import cache_figures, seconds_of, state_of

    figures = cache_figures(build)
    return (
        printable(build.invocation_id[:length]),
        styled(state_of(build, now)),
        span(max(0.0, now - seconds_of(build.start_time))),
        _took(build, now).removesuffix(_SO_FAR),
        _command(build),
        _sender(build),
        _told(build.targets_built, build.targets_failed),
        _told(build.tests_passed, build.tests_failed),
        "" if figures is None else f"{figures.rate:.0%}",
    )


def build_facts(build: pb.Build, now: float) -> Iterator[tuple[str, Text | str]]:
    """What everybody asks first: names, and what they stand for."""
    from rich.text import Text

    from nativelink.client.builds import seconds_of, state_of

    state = state_of(build, now)
    told = f"  {build.exit_name} (exit code {build.exit_code})" if build.exit_code else ""
    if state == "LOST":
        told = f"  nothing has been heard of it for {span(now - seconds_of(build.seen_time))}"
    yield "build", build.invocation_id
    yield "state", Text.assemble(styled(state), told)
    if build.failure_message:
        yield "", first_lines(build.failure_message)
    yield "command", Text(_command(build), style="bold")
    if build.options:
        shown = " ".join(build.options[:_SHOWN_OPTIONS])
        more = len(build.options) - _SHOWN_OPTIONS
        yield "options", f"{shown} … and {more} more" if more > 0 else shown
    yield from _unless_empty("by", _sender(build))
    yield from _unless_empty("workspace", build.workspace_directory)
    start = seconds_of(build.start_time)
    yield "started", f"{clock_time(start)} ({ago(start, now)})"
    yield "took", _times(build, now)
    yield "targets", _targets(build)
    yield from _unless_empty("tests", _tests(build))
    yield "cache", _cache(build)
    yield from _unless_empty("outputs", _outputs(build))
    yield from _unless_empty("network", _network(build))
    yield from _unless_empty(
        "metadata", ", ".join(f"{key}={value}" for key, value in sorted(build.metadata.items()))
    )
    users = [
        each.removeprefix("user_keyword=") for each in build.keywords if "user_keyword" in each
    ]
    yield from _unless_empty("keywords", ", ".join(users))
    yield from _unless_empty("project", build.project_id)
    yield from _unless_empty("tool", f"Bazel {build.tool_version}" if build.tool_version else "")
    yield from _unless_empty("profile", build.profile_uri)
    if build.incomplete:
        yield "note", Text("some events could not be read; something may be missing", "yellow")


def _times(build: pb.Build, now: float) -> Text:
    from rich.text import Text

    from nativelink.client.builds import seconds_of

    text = Text(_took(build, now) or "unknown", style="bold")
    parts = [
        f"{name} {span(seconds_of(duration))}"
        for name, duration in (
            ("critical path", build.critical_path_time),
            ("analysis", build.analysis_time),
            ("execution", build.execution_time),
            ("Bazel's processor", build.cpu_time),
        )
        if duration.seconds or duration.nanos
    ]
    return text.append(f"  {', '.join(parts)}" if parts else "", style="not bold")


def _targets(build: pb.Build) -> Text:
    from rich.text import Text

    waiting = (
        build.targets_configured
        - build.targets_built
        - build.targets_failed
        - build.targets_skipped
    )
    return (
        _list_of(
            (f"{build.targets_built:,} built", ""),
            (f"{build.targets_failed:,} failed" if build.targets_failed else "", "red"),
            (f"{build.targets_skipped:,} skipped" if build.targets_skipped else "", ""),
            (f"{waiting:,} not built" if waiting > 0 else "", "yellow"),
        )
        if build.targets_configured or build.targets_failed
        else Text("none yet", style="dim")
    )


def _tests(build: pb.Build) -> Text | str:
    if not build.tests_passed and not build.tests_failed:
        return ""
    cached = f" ({build.tests_cached:,} cached)" if build.tests_cached else ""
    return _list_of(
        (f"{build.tests_passed:,} passed{cached}", ""),
        (f"{build.tests_failed:,} failed" if build.tests_failed else "", "red"),
        (f"{build.tests_flaky:,} flaky" if build.tests_flaky else "", "yellow"),
    )


def _cache(build: pb.Build) -> Text:
    """The hit rate, or why there is none to tell."""
    from rich.text import Text

    from nativelink.client.builds import cache_figures

    figures = cache_figures(build)
    text = Text()
    if figures is not None:
        text.append(f"{figures.rate:.0%}", style="bold")
        text.append(f"  {figures.hits:,} of {count(figures.actions, 'action')}")
    elif build.finish_time.seconds and build.runners:
        text.append("no action was to run", style="dim")
    elif build.finish_time.seconds:
        text.append("unknown: Bazel told no counts of actions", style="dim")
    else:
        text.append("known when the build ends", style="dim")
    if build.has_action_cache:
        looked_up = build.action_cache_hits + build.action_cache_misses
        text.append(f"; up to date before: {build.action_cache_hits:,} of {looked_up:,}")
    return text


def _outputs(build: pb.Build) -> str:
    if not build.output_files:
        return ""
    return f"{count(build.output_files, 'file')}, {size(build.output_bytes)}"


def _network(build: pb.Build) -> str:
    sent, received = build.network_sent_bytes, build.network_received_bytes
    if not sent and not received:
        return ""
    return f"{size(received)} received, {size(sent)} sent (the whole machine, while it built)"


def _list_of(*parts: tuple[str, str]) -> Text:
    from rich.text import Text

    text = Text()
    for words, style in parts:
        if words:
            text.append(", " if text else "").append(words, style=style or None)
    return text


def _unless_empty(name: str, fact: Text | str) -> Iterator[tuple[str, Text | str]]:
    if fact:
        yield name, fact


def _command(build: pb.Build) -> str:
    return printable(" ".join(["bazel", build.command or "?", *build.patterns]))


def _sender(build: pb.Build) -> str:
    person = build.identity or build.user
    return printable("@".join(filter(None, (person, build.host))))


def _took(build: pb.Build, now: float) -> str:
    from nativelink.client.builds import seconds_of, state_of

    start, finish = seconds_of(build.start_time), seconds_of(build.finish_time)
    if finish:
        return span(max(0.0, finish - start))
    last = now if state_of(build, now) == "RUNNING" else seconds_of(build.seen_time)
    return f"{span(max(0.0, last - start))}{_SO_FAR}"


def _told(good: int, bad: int) -> Text | str:
    from rich.text import Text

    if bad:
        return Text(f"{bad:,}/{good + bad:,} failed", style="red")
    return f"{good:,}" if good else ""


def _distinct_length(names: Sequence[str]) -> int:
    """How much of the names tells them apart."""
    length = _SHORT_NAME
    while len({name[:length] for name in names}) < len(set(names)):
        length += 1
    return length


def first_lines(text: str, lines: int = 5) -> str:
    """The beginning of a text."""
    return "\n".join(text.strip().splitlines()[:lines])


def styled(state: str) -> Text:
    """A state in its colour."""
    from rich.text import Text

    return Text(state, style=_STYLES.get(state, "red"))
