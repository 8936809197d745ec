"""Operations of a scheduler: asked for by name, followed, cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final

from nativelink.client.remote import Remote
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import empty_pb2
from nativelink.scheduler.operation import OperationView
from nativelink.services.farm import operation_document
from nativelink.services.operation_messages import response_of
from nativelink.services.operation_views import view_of

__all__ = [
    "OperationView",
    "Outcome",
    "cancel_operation",
    "document_of",
    "find_operation",
    "follow_operation",
    "get_operation",
    "list_operations",
    "outcome_of",
]

_OPERATIONS: Final = "/google.longrunning.Operations/"
_WAIT_EXECUTION: Final = "/build.bazel.remote.execution.v2.Execution/WaitExecution"
_PAGE_SIZE: Final = 1000
#: Of a name behind its instance, where a person cuts it down.
_LEAST_BEGINNING: Final = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended.

    Attributes:
        succeeded: the action ran, or its result was cached, and its exit code is 0.
        exit_code: of the action; None if it has no result.
        status_code: a gRPC code that says what became of the execution; 0 if it has a result.
        status_message: what goes with it.
        message: of the server, for people.
        cached: the result came from the action cache.
    """

    succeeded: bool
    exit_code: int | None
    status_code: int
    status_message: str
    message: str
    cached: bool


def outcome_of(view: OperationView) -> Outcome:
    """How a finished operation ended."""
    response = pb.ExecuteResponse.FromString(response_of(view))
    code = response.status.code
    exit_code = response.result.exit_code if response.HasField("result") else None
    return Outcome(
        succeeded=code == 0 and exit_code == 0,
        exit_code=exit_code,
        status_code=code,
        status_message=response.status.message,
        message=response.message,
        cached=response.cached_result,
    )


def document_of(view: OperationView) -> dict[str, object]:
    """An operation as JSON has it, with its outcome if it has ended."""
    outcome = asdict(outcome_of(view)) if view.done else None
    return {**operation_document(view), "outcome": outcome}


async def list_operations(
    remote: Remote, *, filter_: str = "", limit: int = 0
) -> tuple[list[OperationView], bool]:
    """The operations of the remote's instance, oldest first.

    Args:
        remote: who is asked.
        filter_: as `services/operation_filter.py` describes it.
        limit: give no more than these; 0: all.

    Returns:
        The operations, and whether there are more.
    """
    views: list[OperationView] = []
    token = ""
    while True:
        left = limit - len(views) if limit else _PAGE_SIZE
        answer = await remote.call(
            f"{_OPERATIONS}ListOperations",
            operations_pb2.ListOperationsRequest(
                name=remote.instance_name,
                filter=filter_,
                page_size=min(left, _PAGE_SIZE),
                page_token=token,
            ),
            operations_pb2.ListOperationsResponse,
        )
        views += map(view_of, answer.operations)
        token = answer.next_page_token
        if not token or 0 < limit <= len(views):
            return views, bool(token)


async def get_operation(remote: Remote, name: str) -> OperationView:
    """One operation as it is now.

    Raises:
        NativeLinkError: NOT_FOUND.
    """
    request = operations_pb2.GetOperationRequest(name=name)
    answer = await remote.call(f"{_OPERATIONS}GetOperation", request, operations_pb2.Operation)
    return view_of(answer)


async def find_operation(remote: Remote, name: str) -> OperationView:
    """One operation as it is now, by its name, or by the beginning of its name.

    Raises:
        NativeLinkError: NOT_FOUND; INVALID_ARGUMENT if several names begin so.
    """
    try:
        return await get_operation(remote, name)
    except NativeLinkError as error:
        instance, _, beginning = name.rpartition("/")
        if error.code is not Code.NOT_FOUND or len(beginning) < _LEAST_BEGINNING:
            raise
        views, _ = await list_operations(replace(remote, instance_name=instance))
        found = [view for view in views if view.name.startswith(name)]
        if not found:
            raise
    if len(found) > 1:
        names = ", ".join(view.name for view in found[:5])
        raise invalid_argument(f"{len(found)} operations begin with {name!r}: {names}")
    return found[0]


async def cancel_operation(remote: Remote, name: str) -> None:
    """End the interest in an operation; it is stopped unless somebody else waits for it.

    Raises:
        NativeLinkError: NOT_FOUND.
    """
    request = operations_pb2.CancelOperationRequest(name=name)
    await remote.call(f"{_OPERATIONS}CancelOperation", request, empty_pb2.Empty)


@asynccontextmanager
async def follow_operation(
    remote: Remote, name: str
) -> AsyncIterator[AsyncIterator[OperationView]]:
    """An operation as it is now and whenever it changes, up to its end.

    Raises:
        NativeLinkError: NOT_FOUND.
    """
    request = pb.WaitExecutionRequest(name=name)
    async with remote.stream(_WAIT_EXECUTION, request, operations_pb2.Operation) as answers:
        yield (view_of(answer) async for answer in answers)
