"""How a build looks to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from nativelink.cli.builds_facts import build_facts, first_lines, styled
from nativelink.cli.output import Column, count, span
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from nativelink.cli.remote import Session
    from nativelink.proto.nativelink.v1 import builds_pb2 as pb

__all__ = ["show_build"]

#: More is found by `--json`.
_SHOWN_FAILURES: Final = 20
_SHOWN_TESTS: Final = 20
_SHOWN_STEPS: Final = 10
#: The end of a log that is read for its last lines.
_LOG_BYTES: Final = 16 << 10
_STEP: Final = re.compile(
    r"(?P<took>[\d.]+)s(?:, (?P<where>\w+) \([^)]*\): \[(?P<shares>[^\]]*)\])?,?\s+"
    r"(?:action '(?P<action>.*)'|(?P<step>.*))"
)
_SHARE: Final = re.compile(r"(\w[\w ]*): ([\d.]+)%")


async def show_build(session: Session, build: pb.Build, now: float, lines: int) -> None:
    """A build on the screen: first what everybody asks, then what went wrong, then the rest.

    Args:
        session: where.
        build: what.
        now: the time.
        lines: of logs of what failed.
    """
    session.screen.facts(list(build_facts(build, now)))
    await _show_failures(session, build, lines)
    await _show_tests(session, build, lines)
    _show_places(session, build)
    _show_critical_path(session, build)


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
            _indented(session, first_lines(failure.message).splitlines())
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
                styled(each.status),
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
