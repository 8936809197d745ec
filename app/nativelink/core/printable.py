"""Texts of others on terminals and in logs."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """A text that others chose, without what a terminal would obey; one line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
