"""`nativelink builds list|show|log`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nativelink.cli.builds_facts import list_rows
from nativelink.cli.builds_view import show_build
from nativelink.cli.output import Column
from nativelink.cli.remote import Session, asks_server

__all__ = ["app"]

app = typer.Typer(
    help="Look at builds: who built what, how it ended, and what it took.",
    no_args_is_help=True,
    add_completion=False,
)

_Build = Annotated[
    str,
    typer.Argument(
        help="As `builds list` or Bazel shows it, or its beginning; the latest by default.",
        metavar="BUILD",
        show_default=False,
    ),
]
_BuildId = Annotated[
    str,
    typer.Option(
        help="Bazel's --build_request_id, for a build that NativeLink recorded.", metavar="ID"
    ),
]
#: What a person reads at a time.
_IN_A_LIST = 20
_COLUMNS = (
    Column("build"),
    Column("state"),
    Column("age", right=True),
    Column("took", right=True, optional=1),
    Column("command", flexible=True),
    Column("by", flexible=True, optional=2),
    Column("targets", right=True),
    Column("tests", right=True),
    Column("cache", right=True),
)


@asks_server(app, "list")
async def list_(
    session: Session,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            help="field=value or field!=value, joined by AND; fields: state, user, host, "
            "identity, command, pattern, workspace, project, keyword, invocation, build.",
            metavar="FILTER",
        ),
    ] = "",
    days: Annotated[
        int, typer.Option(help="Look back so many days.", min=1, max=366, metavar="N")
    ] = 7,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Show so many at most; 0: all, up to 1000. By default 20, in JSON all.",
            min=0,
            metavar="N",
        ),
    ] = None,
) -> None:
    """List the latest builds, the last one first."""
    from nativelink.client.builds import document_of, list_builds
    from nativelink.core.clock import SystemClock

    if limit is None:
        limit = 0 if session.screen.json else _IN_A_LIST
    builds, more = await list_builds(session.remote, filter_=filter_, days=days, limit=limit)
    if more:
        session.screen.left_out("more")
    now = SystemClock().time()
    if session.screen.json:
        session.screen.show_json([document_of(build, now) for build in builds])
    elif builds:
        session.screen.table(_COLUMNS, list_rows(builds, now))
    else:
        session.screen.line(
            f"no builds in {days} days; Bazel tells of its builds with "
            f"--bes_backend={session.options.server}"
        )


@asks_server(app, "show")
async def show(
    session: Session,
    build: _Build = "",
    build_id: _BuildId = "",
    lines: Annotated[
        int,
        typer.Option(help="Show so many lines of what failed; 0: none.", min=0, metavar="N"),
    ] = 10,
) -> None:
    """Show a build: what failed and why, where its actions ran, and what it took."""
    from nativelink.client.builds import document_of, get_build
    from nativelink.core.clock import SystemClock

    found = await get_build(session.remote, build, build_id=build_id)
    now = SystemClock().time()
    if session.screen.json:
        session.screen.show_json(document_of(found, now))
    else:
        await show_build(session, found, now, lines)


@asks_server(app, "log")
async def log(session: Session, build: _Build = "", build_id: _BuildId = "") -> None:
    """Print what Bazel printed, without the progress that it drew over."""
    from nativelink.client.builds import read_build_log
    from nativelink.client.console import Replay

    terminal = session.screen.console.is_terminal and not session.screen.console.no_color
    replay = Replay(colours=terminal)
    pieces: list[dict[str, object]] = []
    async with read_build_log(session.remote, build, build_id=build_id) as answers:
        async for answer in answers:
            if session.screen.json:
                pieces.append({"stdout": answer.stdout, "stderr": answer.stderr})
                continue
            for line in replay.feed(answer.stderr + answer.stdout):
                print(line)
    if session.screen.json:
        session.screen.show_json(pieces)
    for line in replay.end():
        print(line)
    if terminal:
        # A colour must not outlive the log.
        sys.stdout.write("\x1b[0m")
