"""What people and programs read: tables, trees, JSON, and words for sizes and times."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from nativelink.core.printable import printable

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console
    from rich.text import Text

__all__ = [
    "Column",
    "Screen",
    "ago",
    "clock_time",
    "console_of",
    "count",
    "size",
    "span",
]

#: Columns where the output goes to a file or a pipe.
_WIDTH_OF_A_FILE: Final = 160
#: Between columns of a table.
_GAP: Final = 2
#: Columns of a terminal on which a UUID is long.
_NARROW: Final = 120
#: At the end of a name, by its first eight characters.
_UUID: Final = re.compile(r"([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
#: A flexible column keeps so many characters, or it says nothing at all.
_MIN_WIDTH: Final = 8
#: Cells that say nothing.
_NOTHING: Final = frozenset({"", "-", "0"})
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: what stands above it.
        right: numbers are aligned at their ends.
        flexible: may be cut; all others are shown whole, to be copied.
        optional: may be left out where there is no room, unless 0; columns without a word go first,
            then those with the highest number.
        telling_end: what is cut goes from the middle, as a label's end tells most.
    """

    heading: str
    right: bool = False
    flexible: bool = False
    optional: int = 0
    telling_end: bool = False


class Screen:
    """Where a command's answer goes.

    Attributes:
        json: programs read it.
        console: standard output.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.json = as_json
        self.console = console_of(sys.stdout)

    def name(self, name: str) -> str:
        """A name in a list: on a small terminal no more of its UUID than tells it from others."""
        if self.console.is_terminal and self.console.width < _NARROW:
            name = _UUID.sub(r"\1", name)
        return printable(name)

    def show_json(self, answer: Mapping[str, object] | Sequence[object]) -> None:
        """Print an answer for programs."""
        print(json.dumps(answer, indent=2, ensure_ascii=False))

    def line(self, text: Text | str = "", *, style: str = "") -> None:
        """Print one line; it is neither wrapped nor cut, so that it can be copied."""
        if self.console.is_terminal:
            self.console.print(text, style=style or None, soft_wrap=True, markup=False)
        else:
            # A listing of a large tree has 100,000 of them, and a console takes 80 us for each.
            print(text)

    def left_out(self, what: str) -> None:
        """Say that not everything is shown, where nobody takes it for a part of the answer."""
        print(f"… and {what}; --limit 0 shows all", file=sys.stderr)

    def facts(self, facts: Sequence[tuple[str, Text | str]]) -> None:
        """Print names and what they stand for, a line each."""
        from rich.text import Text

        width = max((len(name) for name, _ in facts), default=0) + 2
        for name, fact in facts:
            told = printable(fact) if isinstance(fact, str) else fact
            self.line(Text.assemble((f"{name:{width}}", "bold"), told))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
        """Print a table. An empty cell is a dash, so that programs can count columns.

        On a terminal that is too narrow, optional columns are left out and flexible ones are cut;
        in a file nothing is.
        """
        from rich.text import Text

        if self.console.is_terminal:
            left_out = _superfluous(columns, rows, self.console.width)
            kept = [number for number in range(len(columns)) if number not in left_out]
            missed = [
                columns[number].heading
                for number in sorted(left_out)
                if _says_something(rows, number)
            ]
            if missed:
                print(f"… no room for: {', '.join(missed)}; --json shows all", file=sys.stderr)
            columns = [columns[number] for number in kept]
            rows = [[row[number] for number in kept] for row in rows]
        heading = [Text(column.heading, style="bold") for column in columns]
        cells = [
            [each if isinstance(each, Text) else Text(each or "-") for each in row] for row in rows
        ]
        widths = [
            max(cell.cell_len for cell in column) for column in zip(heading, *cells, strict=True)
        ]
        if self.console.is_terminal:
            room = self.console.width - _GAP * (len(columns) - 1)
            _shrink(widths, [number for number, each in enumerate(columns) if each.flexible], room)
        for row in (heading, *cells):
            line = Text()
            for number, (cell, column, width) in enumerate(zip(row, columns, widths, strict=True)):
                if column.telling_end and cell.cell_len > width:
                    cell = _without_middle(cell, width)
                cell.truncate(width, overflow="ellipsis")
                cell.align("right" if column.right else "left", width)
                line.append(" " * _GAP if number else "").append_text(cell)
            line.rstrip()
            self.line(line)


def _without_middle(text: Text, width: int) -> Text:
    """The beginning and, twice as long, the end."""
    begin = (width - 1) // 3
    end = width - 1 - begin
    return text[:begin].append("…").append_text(text[-end:])


def _superfluous(
    columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], room: int
) -> set[int]:
    """The optional columns that must go, so that all others have what they need at least."""
    needed = [_least_width(column, number, rows) for number, column in enumerate(columns)]
    optional = [number for number, column in enumerate(columns) if column.optional]
    optional.sort(key=lambda each: (_says_something(rows, each), -columns[each].optional))
    gone: set[int] = set()
    for number in optional:
        kept = [each for each in range(len(columns)) if each not in gone]
        if sum(needed[each] for each in kept) + _GAP * (len(kept) - 1) <= room:
            break
        gone.add(number)
    return gone


def _least_width(column: Column, number: int, rows: Sequence[Sequence[Text | str]]) -> int:
    from rich.cells import cell_len

    width = max(cell_len(str(each)) for each in (column.heading, *(row[number] for row in rows)))
    return min(width, _MIN_WIDTH) if column.flexible else width


def _says_something(rows: Sequence[Sequence[Text | str]], number: int) -> bool:
    return any(str(row[number]) not in _NOTHING for row in rows)


def _shrink(widths: list[int], flexible: Sequence[int], room: int) -> None:
    """Take from the widest flexible columns until all fit, or nothing is left to take."""
    while sum(widths) > room:
        widest = max(flexible, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _MIN_WIDTH:
            return
        widths[widest] -= 1


def console_of(stream: TextIO) -> Console:
    """A console that colours terminals only, and takes text for what it is."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    return console


def size(size_bytes: int) -> str:
    """A number of bytes in words."""
    number, unit = float(size_bytes), "byte" if size_bytes == 1 else "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:,.4g} {unit}"


def count(number: int, noun: str) -> str:
    """`1 file`, `2 files`, `3 directories`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def span(seconds: float) -> str:
    """A duration in one or two units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:.0f} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} d {seconds % _DAY_S // _HOUR_S:.0f} h"


def ago(then: float, now: float) -> str:
    """How long ago something was; clocks of two machines differ, so never in the future."""
    return f"{span(max(0.0, now - then))} ago"


def clock_time(seconds: float) -> str:
    """A time since the epoch, as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
