"""What is wrong with a configuration, and how a person reads it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

__all__ = [
    "Path",
    "Problem",
    "Severity",
    "closest",
    "error",
    "format_path",
    "format_value",
    "here",
    "mask_passwords",
    "warning",
]

#: Keys and list positions from the root of the file.
Path: TypeAlias = tuple[str | int, ...]

#: A list of allowed words longer than this is left out once the right one was guessed.
_MANY: Final = 12
_LONGEST_VALUE: Final = 60

#: In a URL: user and password, in which "@" may stand as it is (the last one ends them), and
#: passwords among its options, such as `sentinelPassword` and `tlsCertificateKeyFilePassword`.
_SECRETS: Final = re.compile(
    r"(?<=://)[^/\s\"']+(?=@)|(?<=password=)[^&#\s\"']+|(?<=aws_session_token:)[^,&#\s\"']+",
    re.IGNORECASE,
)


class Severity(StrEnum):
    """Whether the server starts, and how."""

    #: It does not, anywhere.
    ERROR = "error"
    #: It does not, or not whole, on this machine.
    HERE = "here"
    #: It does, but probably not as it was meant.
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend.

    Attributes:
        path: the place, in the tree as validated (`origins` leads back to the file).
        what: the fact, without the place.
        got: the value as the file has it, if it helps.
        allowed: what may stand there.
        suggestion: the word that was probably meant.
        hint: what to do.
        at_key: the key is wrong rather than its value.
    """

    severity: Severity
    path: Path
    what: str
    got: str | None = None
    allowed: str | Sequence[str] | None = None
    suggestion: str | None = None
    hint: str | None = None
    at_key: bool = False

    def sentence(self) -> str:
        """What, got, allowed, did you mean: in one line."""
        parts = [self.what]
        if self.got is not None:
            parts.append(f"got {self.got}")
        allowed = self.allowed
        if isinstance(allowed, str):
            parts.append(f"allowed: {allowed}")
        elif allowed is not None and (len(allowed) <= _MANY or self.suggestion is None):
            parts.append(f"allowed: {', '.join(allowed)}")
        if self.hint is not None:
            parts.append(self.hint)
        if self.suggestion is not None:
            parts.append(f'did you mean "{self.suggestion}"?')
        return "; ".join(parts)


def error(
    path: Path,
    what: str,
    *,
    got: str | None = None,
    allowed: str | Sequence[str] | None = None,
    suggestion: str | None = None,
    hint: str | None = None,
    at_key: bool = False,
) -> Problem:
    """The server cannot start with this."""
    return Problem(Severity.ERROR, path, what, got, allowed, suggestion, hint, at_key)


def warning(
    path: Path,
    what: str,
    *,
    hint: str | None = None,
    at_key: bool = False,
) -> Problem:
    """The server starts, but probably not as it was meant."""
    return Problem(Severity.WARNING, path, what, hint=hint, at_key=at_key)


def here(path: Path, what: str, *, hint: str | None = None) -> Problem:
    """This machine lacks something; the one that the file is for may have it."""
    return Problem(Severity.HERE, path, what, hint=hint)


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant by `word`."""
    by_folded = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def format_path(path: Path, root: object = None) -> str:
    """`stores.CAS.memory`, `servers[0].listener`: entries of `root` with a name show it."""
    text = ""
    node = root
    for part in path:
        below = _step(node, part)
        if isinstance(part, int):
            name = below.get("name") if isinstance(below, dict) else None
            named = isinstance(name, str) and name.isidentifier() and _is_unique(name, node)
            text += f".{name}" if named else f"[{part}]"
        elif part.replace("-", "_").isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
        node = below
    return text


def _step(node: object, part: str | int) -> object:
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list) and isinstance(part, int) and part < len(node):
        return node[part]
    return None


def _is_unique(name: str, entries: object) -> bool:
    return (
        isinstance(entries, list)
        and sum(isinstance(entry, dict) and entry.get("name") == name for entry in entries) == 1
    )


def mask_passwords(text: str) -> str:
    """The text with user and passwords of every URL in it as asterisks, as many as there were."""
    return _SECRETS.sub(lambda match: "*" * len(match[0]), text)


def format_value(value: object) -> str:
    """As JSON, without passwords, cut where it is long."""
    if isinstance(value, dict) and value:
        return "an object"
    if isinstance(value, list) and value:
        return "a list"
    text = mask_passwords(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
