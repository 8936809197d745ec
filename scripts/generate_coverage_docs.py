#!/usr/bin/env python3
"""Writes docs/generated/coverage-of-the-reference.md: each key of the configuration, and its tests.

    generate_coverage_docs.py [--check]

The models say which keys there are, `tests/reference.toml` which tests show what a key does.
With --check nothing is written: what is wrong is printed, and the exit code is 1. Wrong are a key
without a test, a test that is not there, a name that is no key, and a page that is out of date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nativelink.config.fields import Spec
from nativelink.config.shape import Keyed, ListOf, MapOf, Object, Shape, Tagged, shape_of
from nativelink.config.specs import Config
from nativelink.config.specs_cloud import ObjectStoreSpec
from nativelink.config.specs_common import (
    ClientTlsSpec,
    EvictionSpec,
    GrpcEndpointSpec,
    RetrySpec,
)

__all__ = ["OPEN", "Entry", "entries", "findings", "page", "tests_of"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/generated/coverage-of-the-reference.md"
REGISTRY = ROOT / "tests/reference.toml"
#: The table of the registry that names what does nothing yet, and why.
OPEN = "open"

#: Models that stand in many places, or whose keys several others inherit, under one name.
_SHARED: dict[type[Spec], str] = {
    ClientTlsSpec: "tls_config",
    EvictionSpec: "eviction_policy",
    GrpcEndpointSpec: "endpoint",
    ObjectStoreSpec: "stores.experimental_cloud_object_store",
    RetrySpec: "retry",
}

_INTRODUCTION = """\
# Coverage of the reference

<!-- Written by scripts/generate_coverage_docs.py; change tests/reference.toml, not this page. -->

Every key of NativeLink's configuration reference, and the tests that show what it does here. A test
is named only if it fails when the key does nothing; that a file with the key loads is tested for
all of them at once, in `tests/config`. Keys of our own are left out. Several tests may stand for
one key, and one test for several.
"""


@dataclass(frozen=True)
class Entry:
    """A key of the reference.

    Attributes:
        section: where it stands, such as `stores.redis_store`.
        name: the key.
        no_effect: why it does nothing, if that is meant.
        tests: their ids, as pytest takes them.
        open: why it does nothing yet, if so.
    """

    section: str
    name: str
    no_effect: str | None
    tests: tuple[str, ...]
    open: str | None


def entries() -> list[Entry]:
    """All keys, in the order of the manual."""
    registry = _registry()
    open_keys = registry.get(OPEN, {})
    found = []
    for section, name, no_effect in _keys():
        tests = tuple(registry.get(section, {}).get(name, ()))
        found.append(Entry(section, name, no_effect, tests, open_keys.get(f"{section}.{name}")))
    return found


def findings() -> Iterator[str]:
    """What is wrong with the registry, one line each."""
    known = entries()
    names = {(entry.section, entry.name) for entry in known}
    registry = _registry()
    for section, keys in registry.items():
        for key in keys:
            where = tuple(key.rsplit(".", 1)) if section == OPEN else (section, key)
            if where not in names:
                yield f"{REGISTRY.name}: [{section}] {key}: there is no such key"
    for entry in known:
        where = f"{entry.section}.{entry.name}"
        if entry.no_effect is None and not entry.tests and entry.open is None:
            yield f"{where}: no test shows what it does"
        if entry.tests and entry.open is not None:
            yield f"{where}: has tests, so it is not open any more"
        for test in entry.tests:
            if not _exists(test):
                yield f"{where}: there is no test {test}"


def page() -> str:
    """The page as Markdown."""
    known = entries()
    tested = sum(1 for entry in known if entry.tests)
    idle = sum(1 for entry in known if entry.no_effect is not None)
    waiting = [entry for entry in known if entry.open is not None]
    counts = (
        f"{len(known)} keys: {tested} are exercised by tests, {idle} are accepted and do nothing "
        f"on purpose, {len(waiting)} are not there yet.\n"
    )
    lines = [_INTRODUCTION, counts]
    if waiting:
        lines += ["## Not there yet\n", "| Key | Why |", "|---|---|"]
        lines += [f"| `{entry.section}.{entry.name}` | {entry.open} |" for entry in waiting]
        lines.append("")
    section = None
    for entry in known:
        if entry.section != section:
            section = entry.section
            lines += ["", f"## `{section}`\n", "| Key | Tests |", "|---|---|"]
        if entry.tests:
            what = "<br>".join(_shown(test) for test in entry.tests)
        elif entry.no_effect is not None:
            what = f"accepted, no effect: {entry.no_effect}"
        else:
            what = f"**not there yet**: {entry.open}"
        lines.append(f"| `{entry.name}` | {what} |")
    return "\n".join(lines) + "\n"


def _shown(test: str) -> str:
    path, _, name = test.partition("::")
    link = "../../" + path
    return f"[{path.removeprefix('tests/')}]({link}) `{name}`"


def _keys() -> Iterator[tuple[str, str, str | None]]:
    """Section, name and reason for doing nothing of each key, each once."""
    seen: set[tuple[str, str]] = set()
    for section, shape in _objects():
        for key in shape.keys.values():
            if key.extension:
                continue
            declared = _declaring(shape.model, key.attribute)
            where = _SHARED.get(declared, section)
            if (where, key.name) not in seen:
                seen.add((where, key.name))
                yield where, key.name, key.no_effect


def _declaring(model: type[Spec], attribute: str) -> type[Spec]:
    """The class in which a field stands, the nearest one."""
    for parent in model.__mro__:
        if attribute in inspect.get_annotations(parent):
            return parent
    return model


def _objects() -> Iterator[tuple[str, Object]]:
    """Every object that the reference has, under its section, in reading order."""
    seen: set[type[Spec]] = set()

    def walk(shape: Shape, path: str) -> Iterator[tuple[str, Object]]:
        match shape:
            case Object():
                if shape.model in seen:
                    return
                seen.add(shape.model)
                path = _SHARED.get(shape.model, path)
                yield path or "file", shape
                for name, key in shape.keys.items():
                    if not key.extension:
                        yield from walk(key.shape, f"{path}.{name}" if path else name)
                if shape.beside is not None:
                    yield from walk(shape.beside, path)
            case ListOf():
                yield from walk(shape.item, path)
            case MapOf():
                yield from walk(shape.value, path)
            case Keyed(noun=noun):
                top = {"store": "stores", "scheduler": "schedulers"}.get(noun, path)
                for name, variant in shape.variants.items():
                    yield from walk(variant, f"{top}.{name}")
            case Tagged():
                for name, variant in shape.variants.items():
                    yield from walk(variant, f"{path}.{name}")
            case _:
                pass

    yield from walk(shape_of(Config), "")


@cache
def _registry() -> dict[str, dict[str, list[str]]]:
    """Section -> key -> tests, as they stand in the registry; `open` has reasons instead."""
    read: dict[str, dict[str, list[str]]] = tomllib.loads(REGISTRY.read_text(encoding="utf-8"))
    return read


def _exists(test: str) -> bool:
    path, _, name = test.partition("::")
    return name in tests_of(path)


@cache
def tests_of(path: str) -> frozenset[str]:
    """The tests of a file, `Class::name` for those of classes."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for each in inside:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and _runs(each):
                prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
                found.add(prefix + each.name)
    return frozenset(found)


def _runs(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is a test that is not skipped whatever happens."""
    marks = [ast.unparse(each) for each in function.decorator_list]
    skipped = any(mark.startswith(("pytest.mark.skip(", "pytest.mark.xfail")) for mark in marks)
    return function.name.startswith("test_") and not skipped and "pytest.mark.skip" not in marks


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    wrong = list(findings())
    text = page()
    if options.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            wrong.append(f"{PAGE.relative_to(ROOT)} is out of date: run {Path(__file__).name}")
    else:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
