"""Environment variables in the texts of a configuration, in one pass over the tree.

`$NAME`, `${NAME}` and `${NAME:-default}` expand, `$$` is a dollar sign. The default counts only
for an unset variable (an empty one stays empty), ends at the first `}` and is not expanded again.
A dollar sign before anything else, and `${` without `}`, stay as they are. Which fields expand is
part of their kind (`fields.Expansion`): those that expand in NativeLink.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from nativelink.config.fields import Expansion, Kind
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.shape import Scalar, Shape, child
from nativelink.config.units import parse_duration

__all__ = ["UnsetVariableError", "expand_text", "expand_tree"]

_REFERENCE: Final = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<braced>[^}]*)\}|(?P<name>\w+))")


class UnsetVariableError(ValueError):
    """A variable without a value and without a default."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the environment variable {name} is not set")
        self.name = name


def expand_text(text: str, environment: Mapping[str, str]) -> str:
    """`text` with its variables replaced.

    Raises:
        UnsetVariableError: a variable has neither a value nor a default.
    """
    if "$" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name, default = match["name"], None
        if name is None:
            name, marker, after = match["braced"].partition(":-")
            if marker and name:
                default = after
            else:
                # ":-" without a name before it is no default but part of an impossible name.
                name = match["braced"]
        found = environment.get(name, default)
        if found is None:
            raise UnsetVariableError(name)
        return found

    return _REFERENCE.sub(value, text)


def expand_tree(
    raw: object, shape: Shape, environment: Mapping[str, str]
) -> tuple[object, list[Problem]]:
    """A copy of the tree with every text expanded that its place lets expand.

    Returns:
        The copy, in which a text that cannot be expanded is left as it was, and the problems.
    """
    problems: list[Problem] = []

    def walk(value: object, shape: Shape | None, path: Path) -> object:
        if isinstance(value, dict):
            return {
                key: walk(below, child(shape, key, value), (*path, key))
                for key, below in value.items()
            }
        if isinstance(value, list):
            return [
                walk(below, child(shape, index, value), (*path, index))
                for index, below in enumerate(value)
            ]
        if isinstance(value, str) and isinstance(shape, Scalar):
            return _expand_scalar(value, shape.kind, path, environment, problems.append)
        return value

    return walk(raw, shape, ()), problems


def _expand_scalar(
    text: str,
    kind: Kind,
    path: Path,
    environment: Mapping[str, str],
    report: Callable[[Problem], None],
) -> str:
    if kind.expansion is Expansion.NONE:
        return text
    try:
        expanded = expand_text(text, environment)
    except UnsetVariableError as unset:
        report(
            error(
                path,
                str(unset),
                hint=f"set it, or write ${{{unset.name}:-default}}",
            )
        )
        return text
    if kind.expansion is Expansion.PATH and (expanded == "~" or expanded.startswith("~/")):
        home = environment.get("HOME")
        if not home:
            report(error(path, "~ has no meaning, because HOME is not set"))
            return text
        return home.rstrip("/") + expanded[1:]
    if kind.whole_seconds:
        _report_lost_fraction(expanded, path, report)
    return expanded


def _report_lost_fraction(text: str, path: Path, report: Callable[[Problem], None]) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    if seconds.denominator != 1:
        report(warning(path, f"only whole seconds count: this is {int(seconds)} s"))
