"""Whether a server's answer is the right one."""

from __future__ import annotations

__all__ = ["WrongAnswerError", "expect"]


class WrongAnswerError(Exception):
    """A server's answer is not what the case expects, so its speed means nothing."""


def expect(what: str, got: object, wanted: object) -> None:
    """Compare a part of an answer with what it must be.

    Raises:
        WrongAnswerError: it is something else.
    """
    if got != wanted:
        raise WrongAnswerError(f"{what}: got {got!r:.200}, expected {wanted!r:.200}")
