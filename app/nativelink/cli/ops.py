"""`nativelink ops list|show|wait|cancel`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from nativelink.cli.output import Column, ago, clock_time, span
from nativelink.cli.remote import Session, asks_server
from nativelink.client.digests import digest_text
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from nativelink.client.operations import OperationView

__all__ = ["app"]

app = typer.Typer(
    help="Look after executions: what runs, what waits, and why.",
    no_args_is_help=True,
    add_completion=False,
)

_HELP = "As `ops list` shows it, or its beginning."
_Name = Annotated[str, typer.Argument(help=_HELP, metavar="OPERATION")]
_Names = Annotated[list[str], typer.Argument(help=_HELP, metavar="OPERATION")]
_STYLES = {"CACHE_CHECK": "cyan", "QUEUED": "yellow", "EXECUTING": "green", "COMPLETED": "dim"}
#: What a person reads at a time.
_IN_A_LIST = 100
#: Of `wait`: the action's own failure, or that it has not ended, is no error of this command.
_SUCCEEDED, _NOT_SUCCEEDED = 0, 1


@asks_server(app, "list")
async def list_(
    session: Session,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            help="field=value or field!=value, joined by AND; fields: stage, worker, action, "
            "operation, invocation, target, mnemonic, identity.",
            metavar="FILTER",
        ),
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Show so many at most, the oldest first; 0: all. By default 100, in JSON all.",
            min=0,
            metavar="N",
        ),
    ] = None,
) -> None:
    """List the operations of an instance; finished ones as long as the scheduler keeps them."""
    from nativelink.client.operations import document_of, list_operations
    from nativelink.core.clock import SystemClock

    if limit is None:
        limit = 0 if session.screen.json else _IN_A_LIST
    views, more = await list_operations(session.remote, filter_=filter_, limit=limit)
    if more:
        session.screen.left_out("more")
    if session.screen.json:
        session.screen.show_json([document_of(view) for view in views])
        return
    if not views:
        session.screen.line(
            f"no operations of instance {session.options.instance!r}; --instance asks for another"
        )
        return
    now = SystemClock().time()
    columns = [
        Column("operation"),
        Column("stage"),
        Column("since", right=True),
        Column("priority", right=True, optional=3),
        Column("what", flexible=True, telling_end=True),
        Column("worker", flexible=True, optional=2),
        Column("note", flexible=True, optional=1),
    ]
    session.screen.table(
        columns,
        [
            (
                session.screen.name(view.name),
                _stage(view),
                span(max(0.0, now - _since(view))),
                str(view.priority),
                _what(view),
                session.screen.name(view.worker_id),
                _note(view),
            )
            for view in views
        ],
    )


@asks_server(app, "show")
async def show(session: Session, name: _Name) -> None:
    """Show an operation: its stage, why it waits, and what happened to it so far."""
    from nativelink.client.operations import document_of, find_operation

    view = await find_operation(session.remote, name)
    if session.screen.json:
        session.screen.show_json(document_of(view))
    else:
        _show(session, view)


@asks_server(app, "wait")
async def wait(
    session: Session,
    name: _Name,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", help="Wait so many seconds at most.", min=0, metavar="SECONDS"),
    ] = None,
) -> int:
    """Follow an operation to its end.

    The exit code is 0 if it succeeded, 1 if it failed or has not ended in time.
    """
    from nativelink.client.operations import (
        document_of,
        find_operation,
        follow_operation,
        outcome_of,
    )

    latest = await find_operation(session.remote, name)
    said = ""
    try:
        async with (
            asyncio.timeout(timeout_s),
            follow_operation(session.remote, latest.name) as views,
        ):
            async for latest in views:
                line = ", ".join(filter(None, (_stage(latest).plain, _note(latest))))
                if line != said and not latest.done and not session.screen.json:
                    session.screen.line(line)
                said = line
    except TimeoutError:
        pass
    if session.screen.json:
        session.screen.show_json(document_of(latest))
    elif latest.done:
        _show(session, latest)
    else:
        session.screen.line(f"not ended within {timeout_s:g} s", style="yellow")
    succeeded = latest.done and outcome_of(latest).succeeded
    return _SUCCEEDED if succeeded else _NOT_SUCCEEDED


@asks_server(app, "cancel")
async def cancel(session: Session, names: _Names) -> None:
    """Cancel operations; an execution that others wait for as well goes on for them."""
    from nativelink.client.operations import cancel_operation, find_operation

    # All are looked up before the first is cancelled: a name that is wrong changes nothing.
    found = [await find_operation(session.remote, name) for name in names]
    for view in found:
        if not view.done:
            await cancel_operation(session.remote, view.name)
        if not session.screen.json:
            what = "has ended already" if view.done else "is cancelled"
            session.screen.line(f"{printable(view.name)} {what}")
    if session.screen.json:
        session.screen.show_json(
            [{"name": view.name, "cancelled": not view.done} for view in found]
        )


def _show(session: Session, view: OperationView) -> None:
    from rich.text import Text

    from nativelink.client.operations import outcome_of
    from nativelink.core.clock import SystemClock
    from nativelink.core.errors import Code

    now = SystemClock().time()
    origin = view.action.origin
    facts: list[tuple[str, Text | str]] = [
        ("operation", view.name),
        ("stage", _stage(view)),
        ("action", digest_text(view.action.key.digest)),
        ("target", origin.target_id),
        ("mnemonic", origin.action_mnemonic),
        ("invocation", origin.tool_invocation_id),
        ("priority", str(view.priority)),
        ("queued", _moment(view.queued_at, now)),
        ("started", _moment(view.started_at, now)),
        ("finished", _moment(view.finished_at, now)),
        ("worker", view.worker_id),
        ("attempts", f"{view.attempts} failed" if view.attempts else ""),
        ("note", _note(view)),
    ]
    if view.done:
        outcome = outcome_of(view)
        style = "bold green" if outcome.succeeded else "bold red"
        code = outcome.status_code
        if code or outcome.exit_code is None:
            told = f"{Code(code).name if code in set(Code) else code}: {outcome.status_message}"
        else:
            told = f"exit code {outcome.exit_code}"
            told += ", from the action cache" if outcome.cached else ""
        facts += [("outcome", Text(printable(told), style=style)), ("message", outcome.message)]
    session.screen.facts([(name, fact) for name, fact in facts if fact])
    if view.story:
        session.screen.line()
        session.screen.line("story", style="bold")
        for entry in view.story:
            session.screen.line(f"  {clock_time(entry.at)}  {printable(entry.text)}")


def _moment(seconds: float | None, now: float) -> str:
    return "" if not seconds else f"{clock_time(seconds)} ({ago(seconds, now)})"


def _since(view: OperationView) -> float:
    """When it came to the stage where it is, as far as that is known."""
    return view.finished_at or view.started_at or view.queued_at


def _stage(view: OperationView) -> Text:
    from rich.text import Text

    from nativelink.client.operations import outcome_of

    if view.done:
        succeeded = outcome_of(view).succeeded
        return Text("COMPLETED" if succeeded else "FAILED", style="dim" if succeeded else "red")
    return Text(view.stage.name, style=_STYLES.get(view.stage.name, ""))


def _what(view: OperationView) -> str:
    origin = view.action.origin
    words = [origin.action_mnemonic, origin.target_id]
    return printable(" ".join(filter(None, words))) or view.action.key.digest.hash[:12]


def _note(view: OperationView) -> str:
    """Why it waits: for what the scheduler says, or else for those before it."""
    if view.note or view.queue_position is None:
        return printable(view.note)
    if view.queue_position == 0:
        return "next in the queue"
    return f"{view.queue_position:,} before it"
