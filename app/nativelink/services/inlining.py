"""Blobs put into an ActionResult, so that a client need not fetch them one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from nativelink.core.digest import Digest
from nativelink.core.eager import run_all
from nativelink.core.errors import NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import Store, read_bytes

__all__ = ["InlineWishes", "inline_outputs", "wishes_any"]


class InlineWishes(Protocol):
    """The fields of GetActionResultRequest and ExecuteRequest that say what to inline."""

    @property
    def inline_stdout(self) -> bool: ...

    @property
    def inline_stderr(self) -> bool: ...

    @property
    def inline_output_files(self) -> Sequence[str]: ...


#: A blob that may be inlined, and what puts it into the result.
_Place: TypeAlias = tuple[Digest, Callable[[bytes], None]]


def wishes_any(request: InlineWishes) -> bool:
    """Whether the client would like to have anything inlined."""
    return bool(request.inline_stdout or request.inline_stderr or request.inline_output_files)


async def inline_outputs(
    result: pb.ActionResult, request: InlineWishes, cas: Store, room: int
) -> bool:
    """Inline what is wished for, in order, as far as it fits and can be read.

    It is a hint (REAPI v2, GetActionResultRequest), so nothing that fails is an error.

    Args:
        result: to be filled.
        request: what the client would like.
        cas: where the blobs are.
        room: bytes that may be added.

    Returns:
        Whether anything was.
    """
    fitting: list[_Place] = []
    for digest, put in _wanted(result, request):
        if digest.size_bytes <= room:
            room -= digest.size_bytes
            fitting.append((digest, put))
    blobs = await run_all([_read_or_none(cas, digest) for digest, _ in fitting])
    for (_, put), blob in zip(fitting, blobs, strict=True):
        if blob is not None:
            put(blob)
    return any(blob is not None for blob in blobs)


def _wanted(result: pb.ActionResult, request: InlineWishes) -> list[_Place]:
    """What a client would like to have inlined and what is not there yet, in its order."""
    places: list[tuple[pb.Digest, Callable[[bytes], None]]] = []
    if request.inline_stdout and not result.stdout_raw:
        places.append((result.stdout_digest, partial(setattr, result, "stdout_raw")))
    if request.inline_stderr and not result.stderr_raw:
        places.append((result.stderr_digest, partial(setattr, result, "stderr_raw")))
    paths = frozenset(request.inline_output_files)
    if paths:
        places += [
            (file.digest, partial(setattr, file, "contents"))
            for file in result.output_files
            if file.path in paths and not file.contents
        ]
    wanted: list[_Place] = []
    for message, put in places:
        try:
            digest = Digest.parse(message.hash, message.size_bytes)
        except NativeLinkError:
            # Somebody else wrote this result; whoever reads it may not need this output.
            continue
        if digest.size_bytes:
            wanted.append((digest, put))
    return wanted


async def _read_or_none(cas: Store, digest: Digest) -> bytes | None:
    try:
        blob = await read_bytes(cas, digest, max_size=digest.size_bytes)
    except NativeLinkError:
        return None
    return blob if len(blob) == digest.size_bytes else None
