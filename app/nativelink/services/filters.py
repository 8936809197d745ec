"""Filters of lists, as people type them.

Terms joined by `AND`, each `field=value` or `field!=value`; a value that holds spaces stands in
double quotes. `AND` may be in either case.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["Term", "malformed", "parse_terms"]

_TERM: Final = re.compile(r'\s*(\w+)\s*(!=|=)\s*(?:"([^"]*)"|([^\s"]+))(?=\s|$)')
_AND: Final = re.compile(r"\s+AND\s+", re.IGNORECASE)
#: A filter is typed by a person or a small program.
_MAX_LENGTH: Final = 4096


class Term(NamedTuple):
    """That a field is a value, or that it is another one."""

    field: str
    equal: bool
    value: str


def parse_terms(text: str, what: str) -> list[Term]:
    """The terms of a filter of `what`; an empty one has none.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, telling where it cannot be understood.
    """
    if len(text) > _MAX_LENGTH:
        raise malformed(what, f"it has {len(text)} characters; {_MAX_LENGTH} are allowed")
    terms: list[Term] = []
    position = 0
    while text[position:].strip():
        if terms:
            joint = _AND.match(text, position)
            if joint is None:
                raise malformed(what, f"AND is expected at {text[position:].strip()[:40]!r}")
            position = joint.end()
        found = _TERM.match(text, position)
        if found is None:
            raise malformed(what, f"field=value is expected at {text[position:].strip()[:40]!r}")
        name, comparison, quoted, plain = found.groups()
        terms.append(Term(name, comparison == "=", plain if quoted is None else quoted))
        position = found.end()
    return terms


def malformed(what: str, why: str) -> NativeLinkError:
    """The error of a filter that cannot be understood."""
    return invalid_argument(f"malformed filter of {what}: {why}")
