"""What two actions differ in: why the second one was no cache hit of the first.

An action's digest covers its command, its inputs and a few fields of its own, so two digests that
differ are explained by what is found here. Both input trees are walked together, level by level;
a directory that is the same on both sides is not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Final

from nativelink.client.actions import Description, fetch_action, output_paths, platform_of
from nativelink.client.digests import digest_text
from nativelink.client.remote import Remote
from nativelink.client.trees import (
    Directories,
    Entry,
    Kind,
    Totals,
    entries_of,
    fetch_directories,
    fetch_tree,
)
from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError, invalid_argument

__all__ = ["Aspect", "Change", "Comparison", "Difference", "compare"]

#: Pairs of paths that are looked at; the largest input trees have 200,000.
_MAX_PAIRS: Final = 1_000_000
#: Finding the shortest difference of two lists takes as many steps as the product of their lengths.
_MAX_STEPS: Final = 10_000_000


class Aspect(StrEnum):
    """What differs."""

    ARGUMENT = "argument"
    ENVIRONMENT = "environment"
    WORKING_DIRECTORY = "working_directory"
    PLATFORM = "platform"
    OUTPUT = "output"
    TIMEOUT = "timeout"
    DO_NOT_CACHE = "do_not_cache"
    SALT = "salt"
    COMMAND_FIELD = "command_field"
    INPUT = "input"
    ENCODING = "encoding"


class Change(StrEnum):
    """How."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One of them.

    Attributes:
        aspect: what differs.
        change: how, from the first action to the second.
        name: which: the number of an argument, the name of a variable or property, a path.
        before: in the first action; "" where there is nothing.
        after: in the second one.
        totals: of an added or removed directory.
    """

    aspect: Aspect
    change: Change
    name: str
    before: str = ""
    after: str = ""
    totals: Totals | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two actions and what they differ in; nothing if they are the same."""

    first: Digest
    second: Digest
    differences: tuple[Difference, ...]


async def compare(remote: Remote, first: Digest, second: Digest) -> Comparison:
    """What two actions differ in.

    Raises:
        NativeLinkError: NOT_FOUND naming what the CAS lacks; INVALID_ARGUMENT for a blob that is
            something else.
    """
    if first == second:
        return Comparison(first, second, ())
    a = await fetch_action(remote, first)
    b = await fetch_action(remote, second)
    differences = [
        *_arguments(list(a.command.arguments), list(b.command.arguments)),
        *_mappings(Aspect.ENVIRONMENT, a.environment, b.environment),
        *_values(
            Aspect.WORKING_DIRECTORY, a.command.working_directory, b.command.working_directory
        ),
        *_mappings(Aspect.PLATFORM, _properties(a), _properties(b)),
        *_sets(Aspect.OUTPUT, output_paths(a.command), output_paths(b.command)),
        *_sets(
            Aspect.COMMAND_FIELD,
            [f"output_node_properties: {each}" for each in a.command.output_node_properties],
            [f"output_node_properties: {each}" for each in b.command.output_node_properties],
        ),
        *_values(Aspect.TIMEOUT, _seconds(a.timeout_s), _seconds(b.timeout_s)),
        *_values(
            Aspect.DO_NOT_CACHE,
            str(a.action.do_not_cache).lower(),
            str(b.action.do_not_cache).lower(),
        ),
        *_values(Aspect.SALT, a.action.salt.hex(), b.action.salt.hex()),
        *await _Inputs(remote).compare(a.input_root, b.input_root),
    ]
    if not differences:
        differences.append(_encoding(a, b))
    return Comparison(first, second, tuple(differences))


def _arguments(a: Sequence[str], b: Sequence[str]) -> Iterator[Difference]:
    """The shortest difference of two command lines, by the number of the argument."""
    begin = 0
    while begin < min(len(a), len(b)) and a[begin] == b[begin]:
        begin += 1
    end = 0
    while end < min(len(a), len(b)) - begin and a[-1 - end] == b[-1 - end]:
        end += 1
    left, right = a[begin : len(a) - end], b[begin : len(b) - end]
    blocks = [("replace", 0, len(left), 0, len(right))]
    if len(left) * len(right) <= _MAX_STEPS:
        blocks = list(SequenceMatcher(None, left, right, autojunk=False).get_opcodes())
    for kind, from_a, to_a, from_b, to_b in blocks:
        if kind == "equal":
            continue
        gone, come = left[from_a:to_a], right[from_b:to_b]
        for at in range(max(len(gone), len(come))):
            if at >= len(come):
                name = str(begin + from_a + at)
                yield Difference(Aspect.ARGUMENT, Change.REMOVED, name, before=gone[at])
            elif at >= len(gone):
                name = str(begin + from_b + at)
                yield Difference(Aspect.ARGUMENT, Change.ADDED, name, after=come[at])
            else:
                name = str(begin + from_b + at)
                yield Difference(Aspect.ARGUMENT, Change.CHANGED, name, gone[at], come[at])


def _mappings(aspect: Aspect, a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted({*a, *b}):
        if name not in b:
            yield Difference(aspect, Change.REMOVED, name, before=a[name])
        elif name not in a:
            yield Difference(aspect, Change.ADDED, name, after=b[name])
        elif a[name] != b[name]:
            yield Difference(aspect, Change.CHANGED, name, a[name], b[name])


def _values(aspect: Aspect, a: str, b: str) -> Iterator[Difference]:
    if a != b:
        yield Difference(aspect, Change.CHANGED, "", a, b)


def _sets(aspect: Aspect, a: Sequence[str], b: Sequence[str]) -> Iterator[Difference]:
    for name in sorted({*a} ^ {*b}):
        yield Difference(aspect, Change.REMOVED if name in a else Change.ADDED, name)


def _properties(description: Description) -> dict[str, str]:
    platform = platform_of(description.action, description.command)
    return {name: ", ".join(values) for name, values in platform.items()}


def _seconds(timeout_s: float | None) -> str:
    return "" if timeout_s is None else f"{timeout_s:g} s"


def _encoding(a: Description, b: Description) -> Difference:
    """Of actions that say the same in other words: an order, a field that nobody knows here."""
    where = "Command" if a.command_digest != b.command_digest else "Action"
    if a.input_root != b.input_root:
        where = "Directory"
    return Difference(
        Aspect.ENCODING,
        Change.CHANGED,
        where,
        before="the same content",
        after="in other bytes: the order of entries, or a field that is not shown here",
    )


class _Inputs:
    """Two input trees side by side."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._pairs = 0

    async def compare(self, a: Digest, b: Digest) -> list[Difference]:
        """What differs, by path."""
        found: list[Difference] = []
        level = [("", a, b)] if a != b else []
        while level:
            self._pairs += len(level)
            if self._pairs > _MAX_PAIRS:
                raise invalid_argument(
                    f"the input trees differ in more than {_MAX_PAIRS} directories"
                )
            directories = await fetch_directories(
                self._remote.cas, [digest for _, *both in level for digest in both]
            )
            following: list[tuple[str, Digest, Digest]] = []
            for path, first, second in level:
                before = _by_name(directories, first, path)
                after = _by_name(directories, second, path)
                for name in sorted({*before, *after}):
                    old, new = before.get(name), after.get(name)
                    if old is not None and new is not None and _are_directories(old, new):
                        if old.digest is not None and new.digest is not None and old != new:
                            following.append((old.path, old.digest, new.digest))
                    elif old != new:
                        found.append(await self._difference(old, new))
            level = following
        found.sort(key=lambda each: each.name)
        return found

    async def _difference(self, old: Entry | None, new: Entry | None) -> Difference:
        only = old if new is None else new
        assert only is not None
        totals = None
        change = Change.CHANGED
        if old is None or new is None:
            change = Change.ADDED if old is None else Change.REMOVED
            if only.kind is Kind.DIRECTORY and only.digest is not None:
                totals = await self._totals(only.digest)
        return Difference(
            Aspect.INPUT,
            change,
            only.path,
            _told(old, new),
            _told(new, old),
            totals=totals,
        )

    async def _totals(self, digest: Digest) -> Totals | None:
        try:
            tree = await fetch_tree(self._remote.cas, digest, self._remote.function)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        return tree.totals


def _by_name(directories: Directories, digest: Digest, path: str) -> dict[str, Entry]:
    directory = directories[digest]
    if directory is None:
        where = f"at {path!r}" if path else "the root"
        raise NativeLinkError(
            Code.NOT_FOUND, f"input directory {digest} ({where}) is not in the CAS"
        )
    return {entry.name: entry for entry in entries_of(directory, path)}


def _are_directories(old: Entry, new: Entry) -> bool:
    return old.kind is Kind.DIRECTORY and new.kind is Kind.DIRECTORY


def _told(entry: Entry | None, other: Entry | None) -> str:
    """What an input is, as far as the other one is something else."""
    if entry is None:
        return ""
    if other is None or entry.kind is not other.kind:
        words = [entry.kind.value]
        if entry.kind is Kind.SYMLINK:
            words.append(f"to {entry.target}")
        elif entry.is_executable:
            words.insert(0, "executable")
        return " ".join(words)
    words = []
    if entry.target != other.target:
        words.append(f"link to {entry.target}")
    if entry.digest != other.digest:
        words.append("" if entry.digest is None else digest_text(entry.digest))
    if entry.is_executable is not other.is_executable:
        words.append("executable" if entry.is_executable else "not executable")
    if entry.mode != other.mode:
        words.append("any mode" if entry.mode is None else f"mode {entry.mode:04o}")
    if entry.mtime_ns != other.mtime_ns:
        seconds = "any" if entry.mtime_ns is None else f"{entry.mtime_ns / 1e9:.9f}"
        words.append(f"mtime {seconds}")
    return ", ".join(words)
