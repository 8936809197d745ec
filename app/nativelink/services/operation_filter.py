"""The filter of ListOperations.

Terms joined by `AND`, each `field=value` or `field!=value`; a value that holds spaces stands in
double quotes. Fields: `stage` (CACHE_CHECK, QUEUED, EXECUTING, COMPLETED), `worker`, `action` (a
hash, or hash and size as `hash/size` or `hash-size`), `operation` (the execution, as workers know
it), `invocation`, `target`, `mnemonic`, `identity`. Stages, `AND` and hashes may be in either case.

    stage=QUEUED AND mnemonic=CppCompile
    stage!=COMPLETED AND target="//some where:else"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from nativelink.core.digest import Digest
from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.scheduler.operation import ExecutionStage, OperationView

__all__ = ["OperationFilter", "parse_filter"]

OperationFilter: TypeAlias = Callable[[OperationView], bool]

_TERM: Final = re.compile(r'\s*(\w+)\s*(!=|=)\s*(?:"([^"]*)"|([^\s"]+))(?=\s|$)')
_AND: Final = re.compile(r"\s+AND\s+", re.IGNORECASE)
#: A filter is typed by a person or a small program.
_MAX_LENGTH: Final = 4096

_FIELDS: Final[Mapping[str, Callable[[OperationView], str]]] = {
    "stage": lambda view: view.stage.name,
    "worker": lambda view: view.worker_id,
    "operation": lambda view: view.operation_id,
    "invocation": lambda view: view.action.origin.tool_invocation_id,
    "target": lambda view: view.action.origin.target_id,
    "mnemonic": lambda view: view.action.origin.action_mnemonic,
    "identity": lambda view: view.action.origin.identity,
}


def parse_filter(text: str) -> OperationFilter:
    """What a filter says of an operation; an empty one takes all.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, telling where it cannot be understood.
    """
    if len(text) > _MAX_LENGTH:
        raise _wrong(f"it has {len(text)} characters; {_MAX_LENGTH} are allowed")
    terms: list[OperationFilter] = []
    position = 0
    while text[position:].strip():
        if terms:
            joint = _AND.match(text, position)
            if joint is None:
                raise _wrong(f"AND is expected at {text[position:].strip()[:40]!r}")
            position = joint.end()
        found = _TERM.match(text, position)
        if found is None:
            raise _wrong(f"field=value is expected at {text[position:].strip()[:40]!r}")
        name, comparison, quoted, plain = found.groups()
        terms.append(_term(name, comparison, plain if quoted is None else quoted))
        position = found.end()
    return lambda view: all(term(view) for term in terms)


def _term(name: str, comparison: str, value: str) -> OperationFilter:
    equal = comparison == "="
    if name == "action":
        hash_, _, size = value.lower().replace("-", "/").partition("/")
        return lambda view: _is_digest(view.action.key.digest, hash_, size) is equal
    read = _FIELDS.get(name)
    if read is None:
        raise _wrong(f"there is no field {name[:40]!r}; fields: action, {', '.join(_FIELDS)}")
    if name == "stage":
        value = value.upper()
        if value not in ExecutionStage.__members__:
            stages = ", ".join(ExecutionStage.__members__)
            raise _wrong(f"there is no stage {value[:40]!r}; stages: {stages}")
    return lambda view: (read(view) == value) is equal


def _is_digest(digest: Digest, hash_: str, size: str) -> bool:
    return digest.hash == hash_ and size in ("", str(digest.size_bytes))


def _wrong(why: str) -> NativeLinkError:
    return invalid_argument(f"malformed filter of operations: {why}")
