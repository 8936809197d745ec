"""How a build looks to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from nativelink.cli.output import Column, ago, clock_time, count, printable, size, span

if TYPE_CHECKING:
    from rich.text import Text

    from nativelink.cli.remote import Session
    from nativelink.proto.nativelink.v1 import builds_pb2 as pb

__all__ = ["list_rows", "show_build"]

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
#: More is found by `--json`.
_SHOWN_FAILURES: Final = 20
_SHOWN_TESTS: Final = 20
_SHOWN_STEPS: Final = 10
_SHOWN_OPTIONS: Final = 12
#: The end of a log that is read for its last lines.
_LOG_BYTES: Final = 16 << 10
_SO_FAR: Final = " so far"
_STEP: Final = re.compile(
    r"(?P<took>[\d.]+)s(?:, (?P<where>\w+) \([^)]*\): \[(?P<shares>[^\]]*)\])?,?\s+"
    r"(?:action '(?P<action>.*)'|(?P<step>.*))"
)
_SHARE: Final = re.compile(r"(\w[\w ]*): ([\d.]+)%")


def list_rows(builds: Sequence[pb.Build], now: float) -> list[Sequence[Text | str]]:
    """Builds as rows of a table."""
    length = _distinct_length([build.invocation_id for build in builds])
    return [_row(build, now, length) for build in builds]


async def show_build(session: Session, build: pb.Build, now: float, lines: int) -> None:
    """A build on the screen: first what everybody asks, then what went wrong, then the rest.

    Args:
        session: where.
        build: what.
        now: the time.
        lines: of logs of what failed.
    """
    session.screen.facts(list(_facts(build, now)))
    await _show_failures(session, build, lines)
    await _show_tests(session, build, lines)
    _show_places(session, build)
    _show_critical_path(session, build)


def _row(build: pb.Build, now: float, length: int) -> Sequence[Text | str]:
    from nativelink.client.builds import cache_figures, seconds_of, state_of

    figures = cache_figures(build)
    return (
        printable(build.invocation_id[:length]),
        _styled(state_of(build, now)),
        span(max(0.0, now - seconds_of(build.start_time))),
        _took(build, now).removesuffix(_SO_FAR),
        _command(build),
        _sender(build),
        _told(build.targets_built, build.targets_failed),
        _told(build.tests_passed, build.tests_failed),
        "" if figures is None else f"{figures.rate:.0%}",
    )


def _facts(build: pb.Build, now: float) -> Iterator[tuple[str, Text | str]]:
    from rich.text import Text

    from nativelink.client.builds import seconds_of, state_of

    state = state_of(build, now)
    told = f"  {build.exit_name} (exit code {build.exit_code})" if build.exit_code else ""
    if state == "LOST":
        told = f"  nothing has been heard of it for {span(now - seconds_of(build.seen_time))}"
    yield "build", build.invocation_id
    yield "state", Text.assemble(_styled(state), told)
    if build.failure_message:
        yield "", _first_lines(build.failure_message)
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


async def _show_failures(session: Session, build: pb.Build, lines: int) -> None:
    from rich.text import Text

    if not build.failures_total:
        return
    _heading(session, "failures")
    for failure in build.failures[:_SHOWN_FAILURES]:
        # Bazel's exit code of an action is its own, of the build: 1, whatever the action said.
        words = "".join(f"  {each}" for each in (failure.mnemonic, failure.reason) if each)
        session.screen.line(
            Text.assemble(
                ("  ✗ ", "red"),
                (printable(failure.label or "?"), "bold"),
                printable(words),
            )
        )
        if failure.message:
            _indented(session, _first_lines(failure.message).splitlines())
        said = failure.output or await _said(session, lines, failure.stderr_uri, failure.stdout_uri)
        _indented(session, said.splitlines()[-lines:] if lines else (), style="dim")
        for name, uri in (("stderr", failure.stderr_uri), ("stdout", failure.stdout_uri)):
            if uri:
                _indented(session, [f"{name}  {uri}"], style="cyan")
    left = build.failures_total - min(len(build.failures), _SHOWN_FAILURES)
    if left > 0:
        _indented(session, [f"… and {count(left, 'failure')} more"])


async def _show_tests(session: Session, build: pb.Build, lines: int) -> None:
    if not build.tests:
        return
    from nativelink.client.builds import seconds_of

    _heading(session, "tests")
    # What failed first, then what took longest.
    tests = sorted(build.tests, key=lambda each: -seconds_of(each.duration))
    tests.sort(key=lambda each: each.status == "PASSED")
    session.screen.table(
        [
            Column("  test", flexible=True),
            Column("status"),
            Column("took", right=True),
            Column("runs", right=True),
            Column("where"),
        ],
        [
            (
                f"  {printable(each.label)}",
                _styled(each.status),
                span(seconds_of(each.duration)) if each.duration.ByteSize() else "",
                str(each.runs or ""),
                _where(each),
            )
            for each in tests[:_SHOWN_TESTS]
        ],
    )
    left = build.tests_passed + build.tests_failed - min(len(tests), _SHOWN_TESTS)
    if left > 0:
        session.screen.line(f"  … and {count(left, 'test')} more", style="dim")
    for each in tests[:_SHOWN_FAILURES]:
        if each.logs:
            session.screen.line()
            session.screen.line(f"  {printable(each.label)}", style="bold")
            said = _own_lines(await _said(session, lines, each.logs[-1]))
            _indented(session, said[-lines:] if lines else (), style="dim")
            _indented(session, [f"log  {each.logs[-1]}"], style="cyan")


def _own_lines(log: str) -> list[str]:
    """A test's log without what Bazel writes above it: three lines and a rule."""
    lines = log.splitlines()
    for number, line in enumerate(lines[:5]):
        if line and not line.strip("-"):
            return lines[number + 1 :]
    return lines


def _where(test: pb.Build.Test) -> str:
    if test.cached and test.cached >= test.runs:
        return "cached"
    return printable(test.strategy)


def _show_places(session: Session, build: pb.Build) -> None:
    from rich.text import Text

    if not build.runners:
        return
    _heading(session, "actions")
    places = sorted(build.runners, key=lambda each: -each.count)
    most = max(1, places[0].count)
    width = max(len(each.name) for each in places)
    for each in places:
        style = "green" if "cache hit" in each.name else "blue"
        session.screen.line(
            Text.assemble(
                f"  {printable(each.name):{width}}  {each.count:>9,}  ",
                ("█" * max(1, round(30 * each.count / most)), style),
            )
        )


def _show_critical_path(session: Session, build: pb.Build) -> None:
    """The chain of actions that took as long as the build had to take, the last one first."""
    steps = build.critical_path.splitlines()[1:]
    if not steps:
        return
    _heading(session, "critical path")
    columns = [
        Column("  took", right=True),
        Column("where"),
        Column("mostly"),
        Column("step", flexible=True),
    ]
    rows = [_step(step.strip()) for step in steps[:_SHOWN_STEPS]]
    # Of actions that ran here Bazel tells neither where nor what they mostly did.
    told = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    session.screen.table(
        [columns[number] for number in told], [[row[number] for number in told] for row in rows]
    )
    if len(steps) > _SHOWN_STEPS:
        session.screen.line(f"  … and {count(len(steps) - _SHOWN_STEPS, 'step')} more", style="dim")


def _step(text: str) -> Sequence[str]:
    """A step as Bazel prints it: `0.46s, Remote (99% of the time): [queue: 2%, …] action 'x'`."""
    found = _STEP.fullmatch(text)
    if found is None:
        return "", "", "", printable(text)
    shares = {name: float(share) for name, share in _SHARE.findall(found["shares"] or "")}
    mostly = max(shares, key=lambda name: shares[name], default="")
    return (
        f"  {found['took']} s",
        printable((found["where"] or "").lower()),
        f"{mostly} {shares[mostly]:.0f}%" if mostly else "",
        printable(found["action"] or found["step"]),
    )


async def _said(session: Session, lines: int, *uris: str) -> str:
    """The end of what was printed, if it is in the CAS of this server."""
    from nativelink.client.builds import end_of_blob

    for uri in uris if lines else ():
        text = await end_of_blob(session.remote, uri, _LOG_BYTES)
        if text:
            return text
    return ""


def _heading(session: Session, text: str) -> None:
    session.screen.line()
    session.screen.line(text, style="bold")


def _indented(session: Session, lines: Iterable[str], *, style: str = "") -> None:
    for line in lines:
        session.screen.line(f"    {printable(line.expandtabs(4).rstrip())}", style=style)


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


def _first_lines(text: str, lines: int = 5) -> str:
    return "\n".join(text.strip().splitlines()[:lines])


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


def _styled(state: str) -> Text:
    from rich.text import Text

    return Text(state, style=_STYLES.get(state, "red"))


def _distinct_length(names: Sequence[str]) -> int:
    """How much of the names tells them apart."""
    length = _SHORT_NAME
    while len({name[:length] for name in names}) < len(set(names)):
        length += 1
    return length
