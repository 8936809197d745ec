"""From a file to a `Config`, or to everything that is wrong with it.

JSON5 is parsed by the `json5` package; older forms are rewritten (`legacy`), environment variables
expand (`expansion`), the models validate (`specs`), and what only the whole file can tell is
checked last (`check`). All findings of all steps are reported together, at their places in the
file.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

import json5
from pydantic import ValidationError

from nativelink.config.check import check
from nativelink.config.expansion import expand_tree
from nativelink.config.legacy import Modern, modernize
from nativelink.config.messages import problems_of
from nativelink.config.positions import Lines, MalformedError, Positions, scan
from nativelink.config.problems import (
    Path,
    Problem,
    Severity,
    format_path,
    format_value,
    mask_passwords,
)
from nativelink.config.resolve import resolve
from nativelink.config.sections import sections_of
from nativelink.config.shape import Object, Shape, Tagged, child, secret_keys, shape_of
from nativelink.config.specs import Config
from nativelink.core.errors import (
    NativeLinkError,
    invalid_argument,
    not_found,
    permission_denied,
)

__all__ = ["Finding", "Report", "examine", "examine_file", "load_file"]

_log: Final = logging.getLogger(__name__)

_JSON5_PLACE: Final = re.compile(r":(\d+) (.*) at column (\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at its place in a file.

    Attributes:
        file: as the user called it.
        line, column: counted from 1.
        where: the config path, readable; empty for the file as a whole.
        sentence: what, got, allowed, did you mean.
        source: the line of the file; None where it would show a secret.
    """

    severity: Severity
    file: str
    line: int
    column: int
    where: str
    sentence: str
    source: str | None

    def headline(self) -> str:
        """`FILE:LINE:COL: error: path: what …`."""
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {where}{self.sentence}"

    def __str__(self) -> str:
        """The headline, the line of the file and a caret below the place."""
        if self.source is None:
            return self.headline()
        # Tabs are kept so that the caret stands below its character whatever a tab is.
        indent = re.sub(r"[^\t]", " ", self.source[: self.column - 1])
        return f"{self.headline()}\n    {self.source}\n    {indent}^"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a file.

    Attributes:
        config: None if there are errors.
        findings: in the order of the file.
    """

    config: Config | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What prevents a start."""
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    @property
    def here(self) -> tuple[Finding, ...]:
        """What prevents it on this machine."""
        return tuple(each for each in self.findings if each.severity is Severity.HERE)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What does not."""
        return tuple(each for each in self.findings if each.severity is Severity.WARNING)


def load_file(path: FilePath, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in `path`; its warnings are logged.

    Raises:
        NativeLinkError: NOT_FOUND or PERMISSION_DENIED for the file, INVALID_ARGUMENT with every
            error of its content.
    """
    report = examine_file(path, environment)
    for finding in report.findings:
        if finding.severity is not Severity.ERROR:
            _log.warning("%s", finding.headline())
    if report.config is None:
        raise invalid_argument("\n".join(str(finding) for finding in report.errors))
    return report.config


def examine_file(path: FilePath, environment: Mapping[str, str] | None = None) -> Report:
    """Everything that is wrong with the file `path`.

    Raises:
        NativeLinkError: the file cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as failure:
        raise _unreadable(path, failure) from failure
    except UnicodeDecodeError as failure:
        wide = failure.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        what = "UTF-16; save it as UTF-8" if wide else f"not UTF-8 at byte {failure.start}"
        raise invalid_argument(f"{path}: {what}") from failure
    return examine(text, str(path), os.environ if environment is None else environment)


def examine(text: str, file: str, environment: Mapping[str, str]) -> Report:
    """Everything that is wrong with the configuration `text`, which is called `file`."""
    source = _Source(text, file)
    try:
        raw: object = json5.loads(text, object_pairs_hook=source.object_of)
    except ValueError as failure:
        return Report(None, (source.syntax_error(str(failure)),))
    except RecursionError:
        return Report(None, (source.finding(Severity.ERROR, 0, "", "nested too deeply"),))

    modern = modernize(raw, environment)
    shape = shape_of(Config)
    tree, problems = expand_tree(modern.tree, shape, environment)
    problems += modern.problems
    untold = {problem.path for problem in problems if problem.severity is Severity.ERROR}
    config: Config | None = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as failure:
        details = failure.errors(include_url=False)
        # A text whose variable is unset has been told about; what it is instead is no news.
        problems += [
            problem for problem in problems_of(details, tree, shape) if problem.path not in untold
        ]
    problems += check(sections_of(tree, complete=config is not None))
    findings = source.findings(problems, raw, modern)
    if any(finding.severity is Severity.ERROR for finding in findings):
        return Report(None, findings)
    return Report(None if config is None else resolve(config), findings)


def _unreadable(path: FilePath, failure: OSError) -> NativeLinkError:
    make = permission_denied if isinstance(failure, PermissionError) else not_found
    return make(f"{path}: cannot be read: {failure.strerror}")


class _Source:
    """A file's text, from which findings get their line, column and excerpt."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._lines = Lines(text)
        self._duplicates = False

    def object_of(self, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """An object of the file; remembers whether any key came twice."""
        entries = list(pairs)
        found = dict(entries)
        self._duplicates |= len(found) < len(entries)
        return found

    def finding(
        self, severity: Severity, offset: int, where: str, sentence: str, *, shown: bool = True
    ) -> Finding:
        """A finding at an offset of the text."""
        line, column = self._lines.at(offset)
        source = _excerpt(self._lines.line(line)) if shown else None
        return Finding(severity, self._file, line, column, where, sentence, source)

    def syntax_error(self, message: str) -> Finding:
        """Why the text is not JSON5: our own scanner's reason, or else that of `message`."""
        malformed = scan(self._text).malformed
        if malformed is None:
            place = _JSON5_PLACE.search(message)
            malformed = (
                MalformedError(0, message)
                if place is None
                else MalformedError(
                    self._lines.offset(int(place[1]), int(place[3])), place[2].lower()
                )
            )
        parts = [malformed.what, malformed.hint] if malformed.hint else [malformed.what]
        return self.finding(Severity.ERROR, malformed.offset, "", "; ".join(parts))

    def findings(
        self, problems: Iterable[Problem], raw: object, modern: Modern
    ) -> tuple[Finding, ...]:
        """The problems at their places, in the order of the file, each once."""
        problems = list(problems)
        if not problems and not self._duplicates:
            return ()
        positions = scan(self._text)
        found: list[tuple[int, Finding]] = []
        for path, offset in positions.duplicates:
            where, sentence = format_path(path, raw), "the key is in this object already"
            found.append((offset, self.finding(Severity.ERROR, offset, where, sentence)))
        for problem in problems:
            path = modern.origin(problem.path)
            offset = _offset(path, positions, at_key=problem.at_key)
            secret = _is_secret(problem.path, modern.tree)
            shown = _with_value(problem, _at(raw, path), secret)
            finding = self.finding(
                problem.severity,
                offset,
                format_path(path, raw),
                shown.sentence(),
                shown=not secret,
            )
            found.append((offset, finding))
        found.sort(key=lambda pair: pair[0])
        return tuple(dict.fromkeys(finding for _, finding in found))


def _excerpt(line: str) -> str | None:
    """The line as it may be shown: nothing of one with a secret key, no password in an URL."""
    if any(re.search(rf"\b{key}\b", line) for key in secret_keys(Config)):
        return None
    return mask_passwords(line)


def _offset(path: Path, positions: Positions, *, at_key: bool) -> int:
    """Where a place is; of one that is not in the file, the nearest around it that is."""
    exact = True
    while path not in positions.spots and path:
        path, exact = path[:-1], False
    spot = positions.spots.get(path)
    if spot is None:
        return 0
    return spot.key if at_key and exact and spot.key is not None else spot.start


def _at(tree: object, path: Path) -> object:
    for part in path:
        try:
            tree = tree[part]  # type: ignore[index]  # what has no parts raises
        except (LookupError, TypeError):
            return None
    return tree


def _is_secret(path: Path, tree: object) -> bool:
    """Whether the value at `path`, or one around it, is not for every eye."""
    shape: Shape | None = shape_of(Config)
    node = tree
    for part in path:
        around = (
            shape.variants.get(str(_at(node, (shape.key,)))) if isinstance(shape, Tagged) else shape
        )
        if isinstance(around, Object) and part in around.keys and around.keys[str(part)].secret:
            return True
        shape = child(shape, part, node)
        node = _at(node, (part,))
    return False


def _with_value(problem: Problem, written: object, secret: bool) -> Problem:
    """The problem with the value as the file has it, beside what it expanded to."""
    if problem.got is None:
        return problem
    if secret:
        return replace(problem, got="a value that is not shown")
    if isinstance(written, str) and problem.got != format_value(written):
        return replace(problem, got=f"{format_value(written)}, which is {problem.got}")
    return problem
