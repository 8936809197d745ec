"""Executions looked after by name: google.longrunning's Operations."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final

from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.core.rpc import CallContext, Method, Reply
from nativelink.proto.google.longrunning import operations_pb2 as pb
from nativelink.proto.google.protobuf import empty_pb2
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Scheduler, Watch
from nativelink.services.instances import Instances
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.services.methods import method, service
from nativelink.services.operation_filter import parse_filter
from nativelink.services.operation_lists import BEGINNING, Place, in_order, place_of
from nativelink.services.operation_messages import operation_parts
from nativelink.services.wire import varint

__all__ = ["OperationsService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Operations")
_DEFAULT_PAGE_SIZE: Final = 100
#: More than anybody reads; pages also end before they are too long for a message.
_MAX_PAGE_SIZE: Final = 10_000
#: So many are encoded before others have a turn: some 20 ms.
_AT_ONCE: Final = 1_000
#: `ListOperationsResponse.operations`.
_OPERATIONS_TAG: Final = b"\x0a"


class OperationsService:
    """Serves the operations of several instances.

    `ListOperationsRequest.name` is the instance; `filter` is described in `operation_filter.py`.
    Lists are from the oldest to the newest; a page goes on behind the operation where the last
    one ended, whether or not that is still there.

    Args:
        instances: the schedulers, by name.
        max_page_bytes: a page with more than one operation is no longer than this.
    """

    def __init__(
        self,
        instances: Mapping[str, Scheduler],
        *,
        max_page_bytes: int = MAX_BATCH_TOTAL_SIZE_BYTES,
    ) -> None:
        self._schedulers = Instances("operations service", instances)
        self._max_page_bytes = max_page_bytes

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "ListOperations", self._list),
            method(_SERVICE, "GetOperation", self._get),
            method(_SERVICE, "DeleteOperation", self._delete),
            method(_SERVICE, "CancelOperation", self._cancel),
            method(_SERVICE, "WaitOperation", self._wait),
        ]

    def _scheduler(self, name: str) -> Scheduler:
        """Who has an operation; names are `{instance}/{id}`, and instances may have slashes."""
        return self._schedulers.get(name.rpartition("/")[0])

    async def _get(self, request: pb.GetOperationRequest, _call: CallContext) -> Reply:
        return _encoded(await self._scheduler(request.name).get(request.name))

    async def _cancel(self, request: pb.CancelOperationRequest, _call: CallContext) -> Reply:
        await self._scheduler(request.name).cancel(request.name)
        return empty_pb2.Empty()

    async def _delete(self, request: pb.DeleteOperationRequest, _call: CallContext) -> Reply:
        await self._scheduler(request.name).delete(request.name)
        return empty_pb2.Empty()

    async def _wait(self, request: pb.WaitOperationRequest, _call: CallContext) -> Reply:
        scheduler = self._scheduler(request.name)
        timeout_s: float | None = None
        if request.HasField("timeout"):
            timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
            if timeout_s < 0:
                raise invalid_argument(f"a timeout of {timeout_s} s; it cannot be negative")
        if timeout_s == 0:
            return _encoded(await scheduler.get(request.name))
        watch = await scheduler.watch(request.name)
        try:
            return _encoded(await _last_view(watch, timeout_s))
        finally:
            watch.close()

    async def _list(self, request: pb.ListOperationsRequest, _call: CallContext) -> Reply:
        scheduler = self._schedulers.get(request.name)
        wanted = parse_filter(request.filter)
        if request.page_size < 0:
            raise invalid_argument(f"page_size {request.page_size}; it cannot be negative")
        page_size = min(request.page_size or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)
        last = _place_of_token(request.page_token)
        found: list[OperationView] = []
        # Nothing is looked at beyond the end of the page: there may be very many.
        async with aclosing(in_order(scheduler, after=last)) as views:
            async for view in views:
                if view.action.key.instance_name == request.name and wanted(view):
                    found.append(view)
                    if len(found) > page_size:
                        break
        parts: list[bytes] = []
        room = self._max_page_bytes
        for count, view in enumerate(found):
            if count and not count % _AT_ONCE:
                await asyncio.sleep(0)
            operation = _encoded(view)
            if count == page_size or (count and len(operation) > room):
                end = pb.ListOperationsResponse(next_page_token=_token_of_place(last))
                parts.append(end.SerializeToString())
                break
            room -= len(operation)
            parts += (_OPERATIONS_TAG, varint(len(operation)), operation)
            last = place_of(view)
        return b"".join(parts)


def _encoded(view: OperationView) -> bytes:
    return b"".join(operation_parts(view))


async def _last_view(watch: Watch, timeout_s: float | None) -> OperationView:
    """The final state, or that of the moment when the time is over."""
    latest = await watch.next()
    assert latest is not None, "a watch gives a state first"
    try:
        async with asyncio.timeout(timeout_s):
            while not latest.done and (view := await watch.next()) is not None:
                latest = view
    except TimeoutError:
        pass
    return latest


def _token_of_place(place: Place) -> str:
    queued_at, name = place
    return base64.urlsafe_b64encode(f"{queued_at!r} {name}".encode()).decode()


def _place_of_token(token: str) -> Place:
    if not token:
        return BEGINNING
    try:
        queued_at, space, name = base64.urlsafe_b64decode(token).decode().partition(" ")
        if not space:
            raise ValueError
        return float(queued_at), name
    except (binascii.Error, ValueError):
        raise _bad_token(token) from None


def _bad_token(token: str) -> NativeLinkError:
    return invalid_argument(
        f"page_token {token[:80]!r} is none that a page of operations ended with"
    )
