"""The filter of ListOperations.

Terms as in `filters.py`. Fields: `stage` (CACHE_CHECK, QUEUED, EXECUTING, COMPLETED), `worker`,
`action` (a hash, or hash and size as `hash/size` or `hash-size`), `operation` (the execution, as
workers know it), `invocation`, `target`, `mnemonic`, `identity`. Stages and hashes may be in either
case.

    stage=QUEUED AND mnemonic=CppCompile
    stage!=COMPLETED AND target="//some where:else"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from nativelink.core.digest import Digest
from nativelink.scheduler.operation import ExecutionStage, OperationView
from nativelink.services.filters import Term, malformed, parse_terms

__all__ = ["OperationFilter", "parse_filter"]

OperationFilter: TypeAlias = Callable[[OperationView], bool]

_WHAT: Final = "operations"

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
    terms = [_term(each) for each in parse_terms(text, _WHAT)]
    return lambda view: all(term(view) for term in terms)


def _term(term: Term) -> OperationFilter:
    name, equal, value = term
    if name == "action":
        hash_, _, size = value.lower().replace("-", "/").partition("/")
        return lambda view: _is_digest(view.action.key.digest, hash_, size) is equal
    read = _FIELDS.get(name)
    if read is None:
        fields = ", ".join(_FIELDS)
        raise malformed(_WHAT, f"there is no field {name[:40]!r}; fields: action, {fields}")
    if name == "stage":
        value = value.upper()
        if value not in ExecutionStage.__members__:
            stages = ", ".join(ExecutionStage.__members__)
            raise malformed(_WHAT, f"there is no stage {value[:40]!r}; stages: {stages}")
    return lambda view: (read(view) == value) is equal


def _is_digest(digest: Digest, hash_: str, size: str) -> bool:
    return digest.hash == hash_ and size in ("", str(digest.size_bytes))
