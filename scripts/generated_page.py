"""A page of docs/ that a script writes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_or_check"]

_DOCS = Path(__file__).resolve().parent.parent / "docs"


def write_or_check(name: str, make: Callable[[], str], usage: str | None) -> int:
    """Write a page, or with `--check` on the command line only say whether it is stale.

    Args:
        name: of the page.
        make: its text.
        usage: printed if the command line has anything else.

    Returns:
        The exit code.
    """
    script, *arguments = sys.argv
    if arguments not in ([], ["--check"]):
        print(usage, file=sys.stderr)
        return 2
    page, text = _DOCS / name, make()
    if not arguments:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        print(f"docs/{name} is stale: run scripts/{Path(script).name}", file=sys.stderr)
        return 1
    return 0
