"""What actions of a target or a mnemonic needed before, from a file that somebody keeps up.

The file is NativeLink's: a JSON list, or `{"hints": [...]}`, of objects with `target_id` or
`action_mnemonic` or both, and `cpu_count`, `memory_kb` (KiB), `memory_mib`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["Hints", "Needs", "needs_of", "parse_hints"]


class Needs(NamedTuple):
    """What an action needs at least; 0 says nothing."""

    cpu_count: int
    memory_kb: int


#: By target and mnemonic; either may be empty, which stands for all.
Hints: TypeAlias = Mapping[tuple[str, str], Needs]

_TEXTS: Final = ("target_id", "action_mnemonic")
_NUMBERS: Final = ("cpu_count", "memory_kb", "memory_mib")
_KIB_PER_MIB: Final = 1024


def parse_hints(data: bytes) -> Hints:
    """The hints of a file; of several for the same actions the last one counts.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a file that is not as it should be.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise invalid_argument(f"the hints are no JSON: {error}") from error
    if isinstance(document, dict):
        document = document.get("hints")
    if not isinstance(document, list):
        raise invalid_argument('the hints must be a JSON list, or an object {"hints": [...]}')
    hints: dict[tuple[str, str], Needs] = {}
    for index, entry in enumerate(document):
        target, mnemonic, needs = _parse_hint(entry, f"hint {index}")
        hints[target, mnemonic] = needs
    return hints


def needs_of(hints: Hints, target: str, mnemonic: str) -> Needs | None:
    """The hint that fits best: for target and mnemonic, for the target, for the mnemonic."""
    for key in ((target, mnemonic), (target, ""), ("", mnemonic)):
        if key != ("", "") and key in hints:
            return hints[key]
    return None


def _parse_hint(entry: Any, where: str) -> tuple[str, str, Needs]:
    if not isinstance(entry, dict):
        raise _wrong(where, f"{entry!r:.80}", "an object")
    target, mnemonic = (entry.get(name) or "" for name in _TEXTS)
    for name, text in zip(_TEXTS, (target, mnemonic), strict=True):
        if not isinstance(text, str):
            raise _wrong(f"{where}: {name}", f"{text!r:.80}", "a string")
    if not target and not mnemonic:
        raise _wrong(where, "neither", "a target_id or an action_mnemonic")
    cpu_count, memory_kb, memory_mib = (
        _number(entry.get(name) or 0, f"{where}: {name}") for name in _NUMBERS
    )
    return target, mnemonic, Needs(cpu_count, max(memory_kb, memory_mib * _KIB_PER_MIB))


def _number(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(where, f"{value!r:.80}", "a number of 0 or more")
    return value


def _wrong(where: str, got: str, allowed: str) -> NativeLinkError:
    return invalid_argument(f"{where} is {got}; {allowed} is expected")
