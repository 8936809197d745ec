"""From `regions/NAME.yaml` to `RegionSettings`, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any, Final

import yaml
from pydantic import ValidationError

from infra.settings import RegionSettings
from infra.settings_check import check
from nativelink.config.load import Finding
from nativelink.config.messages import problems_of
from nativelink.config.problems import Path, Problem, Severity, format_path
from nativelink.config.shape import shape_of
from nativelink.core.errors import invalid_argument, not_found

__all__ = ["REGIONS", "examine", "find_region", "load"]

REGIONS: Final = FilePath(__file__).parent / "regions"


def find_region(name: str) -> FilePath:
    """The file of a region: `NAME` stands for `infra/regions/NAME.yaml`, else it is a path.

    Raises:
        NativeLinkError: NOT_FOUND, with the regions that there are.
    """
    path = FilePath(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = REGIONS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in REGIONS.glob("*.yaml"))
        raise not_found(
            f"no file {path}; known regions: {', '.join(known) or 'none'}; copy one of "
            "infra/examples and answer its six questions"
        )
    return path


def load(path: FilePath) -> RegionSettings:
    """The settings in `path`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, with every error at its line.
    """
    settings, findings = examine(path.read_text(encoding="utf-8"), str(path))
    if settings is None:
        raise invalid_argument("\n".join(map(str, findings)))
    return settings


def examine(text: str, file: str) -> tuple[RegionSettings | None, tuple[Finding, ...]]:
    """The settings in `text`, None if anything is wrong, and what that is, in the file's order."""
    lines = text.splitlines()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree: Any = yaml.safe_load(text)
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = f"not YAML: {failure.problem or failure.context or 'unreadable'}"
        source = lines[line - 1] if line <= len(lines) else None
        return None, (Finding(Severity.ERROR, file, line, column, "", what, source),)
    spots = dict(_spots(node, ())) if node is not None else {}
    shape = shape_of(RegionSettings)
    problems: list[Problem] = []
    settings: RegionSettings | None = None
    try:
        settings = RegionSettings.model_validate(tree if tree is not None else {})
    except ValidationError as failure:
        problems = problems_of(failure.errors(include_url=False), tree, shape)
    else:
        problems = list(check(settings))
    findings = [_finding(problem, spots, lines, file, tree) for problem in problems]
    findings.sort(key=lambda each: (each.line, each.column))
    return (None if findings else settings), tuple(findings)


#: Where a key and its value stand: line and column, from 0.
_Spot = tuple[tuple[int, int], tuple[int, int]]


def _spots(node: yaml.Node, path: Path) -> Iterator[tuple[Path, _Spot]]:
    here = (node.start_mark.line, node.start_mark.column)
    if not path:
        yield path, (here, here)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            start = (value.start_mark.line, value.start_mark.column)
            yield below, ((key.start_mark.line, key.start_mark.column), start)
            yield from _spots(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            start = (value.start_mark.line, value.start_mark.column)
            yield (*path, index), (start, start)
            yield from _spots(value, (*path, index))


def _finding(
    problem: Problem, spots: dict[Path, _Spot], lines: list[str], file: str, tree: object
) -> Finding:
    path, exact = problem.path, True
    while path not in spots and path:
        path, exact = path[:-1], False
    key, value = spots.get(path, ((0, 0), (0, 0)))
    line, column = key if problem.at_key or not exact else value
    source = lines[line] if line < len(lines) else None
    where = format_path(problem.path, tree)
    return Finding(Severity.ERROR, file, line + 1, column + 1, where, problem.sentence(), source)
