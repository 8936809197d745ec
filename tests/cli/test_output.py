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
    printable,
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


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("a\x1b[2J\n\u202eü") == "a\\x1b[2J\\n\\u202eü"


ROWS = [("name-that-is-to-be-copied", "12", "a long text for people " * 5), ("b", "3", "")]
COLUMNS = [Column("name"), Column("n", right=True), Column("text", flexible=True)]


def test_in_a_file_a_table_is_whole_and_has_no_empty_cell(capsys: pytest.CaptureFixture[str]):
    Screen(as_json=False).table(COLUMNS, ROWS)
    assert capsys.readouterr().out == (
        "name                        n  text\n"
        f"name-that-is-to-be-copied  12  {ROWS[0][2].rstrip()}\n"
        "b                           3  -\n"
    )


def test_on_a_narrow_terminal_only_flexible_columns_are_cut(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name, value in (("COLUMNS", "50"), ("TERM", "vt100"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    Screen(as_json=False).table(COLUMNS, ROWS)
    assert re.sub(r"\x1b\[\d*m", "", sys.stdout.getvalue()) == (
        "name                        n  text\n"
        "name-that-is-to-be-copied  12  a long text for pe…\n"
        "b                           3  -\n"
    )


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]):
    Screen(as_json=True).show_json({"name": "ü"})
    assert json.loads(capsys.readouterr().out) == {"name": "ü"}
    assert not console_of(sys.stdout).is_terminal
