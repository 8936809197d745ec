"""What a person sees while the region runs: tables on a terminal, else plain lines."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from scripts.region_local.agent import Agent, Happening, Status
from scripts.region_local.machine import Machine, Stage

__all__ = ["draw", "header", "line", "picture", "summary"]

_EVENTS: Final = 12
_FEWEST_EVENTS: Final = 3
#: Lines of everything else, about.
_FRAMES: Final = 28
_MACHINES: Final = 24
#: Columns of the picture in the documents.
_WIDTH: Final = 120
_STYLES: Final[Mapping[str, str]] = {
    Stage.BOOTING: "yellow",
    Stage.STARTING: "yellow",
    Stage.IN_SERVICE: "green",
    Stage.LEAVING: "magenta",
    Stage.STOPPING: "magenta",
    "ALARM": "bold red",
    "OK": "green",
}


def line(happening: Happening) -> str:
    """One line of what happened."""
    return f"{_time(happening.at)}  {happening.text}"


def summary(status: Status) -> str:
    """One line about everything."""
    groups = ", ".join(
        f"{each.name} {len(each.instances)}/{each.desired}" for each in status.groups
    )
    pools = "; ".join(
        f"{each.get('QueuedActions', 0):.0f} queued, {each.get('RunningActions', 0):.0f} running"
        for each in status.pools.values()
    )
    alarms = [each.name for each in status.alarms if each.state == "ALARM"]
    return f"{groups} | {pools or 'no metrics yet'} | alarms: {', '.join(alarms) or 'none'}"


def header(endpoint: str, up_s: float) -> str:
    """The first line of the picture."""
    return f"{endpoint}   up {up_s:.0f} s   make interrupt: a spot notice   Ctrl-C: the end"


def picture(agent: Agent, title: str, now: float, height: int = 100) -> RenderableType:
    """The whole view.

    Args:
        agent: what is shown.
        title: its first line.
        now: monotonic seconds.
        height: lines that there are; with fewer, fewer events are shown.
    """
    status = agent.status()
    machines = min(len(status.machines), _MACHINES)
    events = max(_FEWEST_EVENTS, min(_EVENTS, height - _FRAMES - len(status.groups) - machines))
    return Group(
        Text(title, style="bold"),
        _groups(status),
        _machines(status.machines, now),
        _doors(status),
        _alarms(status),
        _happenings(list(agent.happenings)[-events:]),
    )


def _groups(status: Status) -> Table:
    table = Table(title="auto scaling groups", title_justify="left", expand=True)
    for name in ("group", "wanted", "of", "there", "queued", "running", "oldest", "idle", "load"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group in status.groups:
        values = status.pools.get(group.name)
        shown = ["", "", "", "", ""]
        if values is not None:
            shown = [
                f"{values.get('QueuedActions', 0):.0f}",
                f"{values.get('RunningActions', 0):.0f}",
                f"{values.get('OldestQueuedSeconds', 0):.0f} s",
                f"{values.get('IdleWorkers', 0):.0f}",
                f"{values.get('LoadRatio', 0):.0f} %",
            ]
        there = sum(
            each.stage is Stage.IN_SERVICE
            for each in status.machines
            if each.instance.group == group.name
        )
        limits = f"{group.smallest} to {group.largest}"
        table.add_row(group.name, str(group.desired), limits, str(there), *shown)
    return table


def _machines(machines: Sequence[Machine], now: float) -> Table:
    table = Table(title="instances", title_justify="left", expand=True)
    for name in ("instance", "group", "address", "state", "age", "notice"):
        table.add_column(name)
    for machine in machines[:_MACHINES]:
        notice = "" if machine.ends_at is None else f"gone in {max(0, machine.ends_at - now):.0f} s"
        table.add_row(
            machine.instance.id,
            machine.instance.group,
            machine.address,
            Text(machine.stage, style=_STYLES.get(machine.stage, "")),
            f"{now - machine.launched_at:.0f} s",
            Text(notice, style="bold red"),
        )
    if len(machines) > _MACHINES:
        table.add_row(f"and {len(machines) - _MACHINES} more", "", "", "", "", "")
    return table


def _doors(status: Status) -> Panel:
    text = "   ".join(
        f"{name} {healthy} healthy, {connections} connections"
        for name, (healthy, connections) in status.doors.items()
    )
    return Panel(Text(text), title="load balancers", title_align="left")


def _alarms(status: Status) -> Panel:
    text = Text()
    for alarm in status.alarms:
        if text:
            text.append("   ")
        text.append(f"{alarm.name} ")
        text.append(alarm.state, style=_STYLES.get(alarm.state, "dim"))
    return Panel(text, title="alarms", title_align="left")


def _happenings(happenings: Sequence[Happening]) -> Panel:
    text = "\n".join(line(each) for each in happenings)
    return Panel(Text(text), title="events", title_align="left")


def _time(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def draw(agent: Agent, title: str, now: float, file: Path) -> None:
    """Write the view as an SVG picture that needs no fonts from elsewhere."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO())
    console.print(picture(agent, title, now))
    text = console.export_svg(title="make region-local")
    file.write_text(re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL), encoding="utf-8")
