"""`nativelink workers list|show|drain|undrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nativelink.cli.output import Column, ago, clock_time
from nativelink.cli.remote import Session, asks_server
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from nativelink.client.workers import WorkerView

__all__ = ["app"]

app = typer.Typer(
    help="Look after the workers that joined a scheduler.",
    no_args_is_help=True,
    add_completion=False,
)

_AdminPath = Annotated[
    str,
    typer.Option(
        envvar="NATIVELINK_ADMIN_PATH",
        help="Where the server's administration page is.",
        metavar="PATH",
        rich_help_panel="Server",
    ),
]
_HELP = "As `workers list` shows it, or its beginning."
_Id = Annotated[str, typer.Argument(help=_HELP, metavar="WORKER")]
_Ids = Annotated[list[str], typer.Argument(help=_HELP, metavar="WORKER")]

#: A list shows so many properties; `show` shows all.
_PROPERTIES_IN_A_LIST = 4


@asks_server(app, "list")
async def list_(session: Session, admin_path: _AdminPath = "/admin") -> None:
    """List the workers: what they are doing, and what they offer."""
    from nativelink.client.workers import list_workers
    from nativelink.core.clock import SystemClock

    workers = await list_workers(session.remote, admin_path=admin_path)
    if session.screen.json:
        session.screen.show_json([each.document() for each in workers])
        return
    if not workers:
        session.screen.line("no workers")
        return
    now = SystemClock().time()
    columns = [
        Column("worker"),
        Column("state"),
        Column("running", right=True),
        Column("seen", right=True, optional=1),
        Column("scheduler", optional=2),
        Column("address", optional=3),
        Column("properties", flexible=True),
    ]
    session.screen.table(
        columns,
        [
            (
                session.screen.name(each.view.worker_id),
                _state(each.view),
                _load(each.view),
                ago(each.view.last_seen_at, now),
                each.scheduler,
                each.view.address,
                _properties(each.view),
            )
            for each in workers
        ],
    )


@asks_server(app, "show")
async def show(session: Session, worker: _Id, admin_path: _AdminPath = "/admin") -> None:
    """Show all that is known of a worker."""
    from nativelink.client.workers import find_worker
    from nativelink.core.clock import SystemClock

    found = await find_worker(session.remote, worker, admin_path=admin_path)
    if session.screen.json:
        session.screen.show_json(found.document())
        return
    view = found.view
    now = SystemClock().time()
    facts: list[tuple[str, Text | str]] = [
        ("worker", printable(view.worker_id)),
        ("state", _state(view)),
        ("scheduler", found.scheduler),
        ("address", view.address),
        ("connected", f"{clock_time(view.connected_at)} ({ago(view.connected_at, now)})"),
        ("seen", ago(view.last_seen_at, now)),
        ("running", _load(view)),
    ]
    facts += [("", operation) for operation in view.running]
    properties = [f"{name}={value}" for name, value in view.properties] or ["none"]
    facts += [
        ("properties" if number == 0 else "", printable(each))
        for number, each in enumerate(properties)
    ]
    session.screen.facts(facts)


@asks_server(app, "drain")
async def drain(session: Session, workers: _Ids, admin_path: _AdminPath = "/admin") -> None:
    """Give workers no new actions; what they run already goes on to its end."""
    await _set_drain(session, workers, admin_path, draining=True)


@asks_server(app, "undrain")
async def undrain(session: Session, workers: _Ids, admin_path: _AdminPath = "/admin") -> None:
    """Give drained workers actions again."""
    await _set_drain(session, workers, admin_path, draining=False)


async def _set_drain(
    session: Session, workers: list[str], admin_path: str, *, draining: bool
) -> None:
    from nativelink.client.workers import find_worker, set_drain

    # All are looked up before the first is drained: a name that is wrong changes nothing.
    found = [await find_worker(session.remote, each, admin_path=admin_path) for each in workers]
    for each in found:
        await set_drain(session.remote, each, draining=draining, admin_path=admin_path)
    if session.screen.json:
        session.screen.show_json(
            [{"worker_id": each.view.worker_id, "draining": draining} for each in found]
        )
        return
    for each in found:
        what = "gets no new actions" if draining else "gets actions again"
        running = f", {len(each.view.running)} still running" if each.view.running else ""
        session.screen.line(f"{printable(each.view.worker_id)} {what}{running}")


def _state(view: WorkerView) -> Text:
    from rich.text import Text

    if not view.connected:
        return Text("lost", style="red")
    if view.draining:
        return Text("draining", style="yellow")
    if view.quarantined:
        return Text("quarantined", style="yellow")
    if view.paused:
        return Text("full", style="yellow")
    return Text("busy" if view.running else "idle", style="green")


def _load(view: WorkerView) -> str:
    limit = f" of {view.max_inflight_tasks}" if view.max_inflight_tasks else ""
    return f"{len(view.running)}{limit}"


def _properties(view: WorkerView) -> str:
    pairs = [f"{name}={value}" for name, value in view.properties]
    more = len(pairs) - _PROPERTIES_IN_A_LIST
    shown = ", ".join(pairs[:_PROPERTIES_IN_A_LIST])
    return printable(f"{shown}, {more} more" if more > 0 else shown)
