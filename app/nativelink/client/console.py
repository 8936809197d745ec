"""What a build tool printed on a terminal, replayed without one.

Bazel draws its progress over its progress: it moves the cursor up and erases. What a person wants
to read later is what stayed on the screen, line by line.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Replay"]

#: Colours; cursor up; erase to the end of the line or the screen; anything else a terminal obeys.
_CONTROL: Final = re.compile(
    r"\x1b\[(?P<sgr>[\d;]*)m|\x1b\[(?P<up>\d*)A|\x1b\[(?P<erase>[0-2]?)[KJ]"
    # Titles and links, other sequences, and single characters.
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]"
    r"|(?P<control>[\x00-\x08\x0b-\x1f\x7f-\x9f])"
)
#: Progress that is drawn over is never higher than this.
_HEIGHT: Final = 200


class Replay:
    """Turns what was printed into lines that stay.

    Args:
        colours: keep them; all else that a terminal would obey is gone in any case.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self._lines = [""]
        self._row = 0
        self._fresh = False

    def feed(self, text: str) -> list[str]:
        """Print on; the lines that nothing can draw over any more."""
        position = 0
        for found in _CONTROL.finditer(text):
            self._write(text[position : found.start()])
            position = found.end()
            kind = found.lastgroup
            if kind == "sgr" and self._colours:
                self._append(found[0])
            elif kind == "up":
                self._row = max(0, self._row - int(found["up"] or 1))
                self._fresh = True
            elif kind == "erase":
                self._lines[self._row] = ""
            elif found["control"] == "\r":
                self._fresh = True
        self._write(text[position:])
        done = max(0, len(self._lines) - _HEIGHT)
        lines, self._lines = self._lines[:done], self._lines[done:]
        self._row = max(0, self._row - done)
        return lines

    def end(self) -> list[str]:
        """The lines that are left."""
        lines, self._lines, self._row = self._lines, [""], 0
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _write(self, text: str) -> None:
        for number, line in enumerate(text.split("\n")):
            if number:
                self._row += 1
                self._fresh = False
                if self._row == len(self._lines):
                    self._lines.append("")
            if line:
                self._append(line)

    def _append(self, text: str) -> None:
        if self._fresh:
            # Drawn from the first column on: what was there is gone.
            self._lines[self._row] = ""
            self._fresh = False
        self._lines[self._row] += text
