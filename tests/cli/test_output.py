"""Words for people, and tables."""

import io
import json
import re
import sys

import pytest

from nativelink.cli.output import (
    Column,
    Screen,
    ago,
    clock_time,
    console_of,
    count,
    size,
    span,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0004, "0 ms"), (0.25, "250 ms"), (1, "1.0 s"), (59.96, "60.0 s"), (61, "1 min 1 s"),
        (3600, "1 h 0 min"), (90_000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_spans(seconds: float, words: str):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1 kB"), (1_500_000, "1.5 MB"),
        (10**16, "1e+04 TB"),
    ],
)  # fmt: skip
def test_sizes(number: int, words: str):
    assert size(number) == words


def test_counts_and_times():
    assert [count(n, "directory") for n in (1, 2, 3000)] == [
        "1 directory", "2 directories", "3,000 directories",
    ]  # fmt: skip
    assert ago(10, 70) == "1 min 0 s ago"
    assert ago(70, 10) == "0 ms ago"
    assert clock_time(0) == "1970-01-01T00:00:00.000Z"


NAME = "main/0563b368-5731-4443-a71b-031f0ab0072b"
ROWS = [("name-that-is-to-be-copied", "12", "a long text for people " * 5), ("b", "3", "")]
COLUMNS = [Column("name"), Column("n", right=True), Column("text", flexible=True)]


def test_in_a_file_a_table_is_whole_and_has_no_empty_cell(capsys: pytest.CaptureFixture[str]):
    Screen(as_json=False).table(COLUMNS, ROWS)
    assert capsys.readouterr().out == (
        "name                        n  text\n"
        f"name-that-is-to-be-copied  12  {ROWS[0][2].rstrip()}\n"
        "b                           3  -\n"
    )


@pytest.mark.parametrize(("width", "shown"), [(119, "main/0563b368"), (120, NAME)])
def test_names_in_lists_are_short_on_small_terminals(
    width: int, shown: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "vt100")
    monkeypatch.setenv("COLUMNS", str(width))
    screen = Screen(as_json=False)
    assert screen.name(NAME) == shown
    assert screen.name("i-0a1b2c3d\n") == "i-0a1b2c3d\\n"


def on_terminal(
    columns: list[Column], rows: list[tuple[str, ...]], width: int, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A table as a terminal of so many columns shows it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name, value in (("COLUMNS", str(width)), ("TERM", "vt100"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patched:
        terminal = Terminal()
        patched.setattr(sys, "stdout", terminal)
        Screen(as_json=False).table(columns, rows)
    return re.sub(r"\x1b\[\d*m", "", terminal.getvalue())


def test_on_a_narrow_terminal_only_flexible_columns_are_cut(monkeypatch: pytest.MonkeyPatch):
    assert on_terminal(COLUMNS, ROWS, 50, monkeypatch) == (
        "name                        n  text\n"
        "name-that-is-to-be-copied  12  a long text for pe…\n"
        "b                           3  -\n"
    )


def test_a_text_whose_end_tells_most_loses_its_middle(monkeypatch: pytest.MonkeyPatch):
    columns = [Column("what", flexible=True, telling_end=True)]
    rows = [("CppCompile //some/where/deep:main_0",)]
    shown = on_terminal(columns, rows, 22, monkeypatch).splitlines()
    assert shown == ["what", "CppComp…re/deep:main_0"]
    assert on_terminal(columns, rows, 40, monkeypatch).splitlines()[1] == rows[0][0]


#: The widths that each needs at least: 10, 4, 8, 8, 8, and two between them.
LISTED = [
    Column("operation"),
    Column("rank", right=True, optional=2),
    Column("what", flexible=True),
    Column("worker", flexible=True, optional=1),
    Column("note", flexible=True, optional=1),
]
OPERATIONS = [("operation1", "7", "CppCompile //a", "worker-1", "")]


@pytest.mark.parametrize(
    ("width", "shown", "told"),
    [
        (46, "operation1     7  CppCompile …  worker-1  -\n", ""),
        (41, "operation1     7  CppCompile /…  worker-1\n", ""),
        (35, "operation1  CppCompile /…  worker-1\n", "rank"),
        (28, "operation1  CppCompile //a\n", "rank, worker"),
        (10, "operation1  CppComp…\n", "rank, worker"),
    ],
)
def test_columns_that_have_no_room_are_left_out_and_named(
    width: int,
    shown: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    table = on_terminal(LISTED, OPERATIONS, width, monkeypatch)
    assert table.splitlines(keepends=True)[1] == shown
    assert capsys.readouterr().err == (f"… no room for: {told}; --json shows all\n" if told else "")


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]):
    Screen(as_json=True).show_json({"name": "ü"})
    assert json.loads(capsys.readouterr().out) == {"name": "ü"}
    assert not console_of(sys.stdout).is_terminal
