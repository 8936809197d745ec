"""Where workers connect: NativeLink's WorkerApi, for workers of theirs and of ours.

One stream is a worker's whole life: it says what it offers, gets orders, brings results. One
coroutine reads and one writes; nothing is made per message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.errors import Code, invalid_argument
from nativelink.core.rpc import CallContext, MessageSink, MessageSource, Method
from nativelink.core.streams import Chunk
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as api,
)
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.scheduler import WorkerGateway, WorkerLink
from nativelink.services.limits import MAX_MESSAGE_BYTES
from nativelink.services.methods import method, service
from nativelink.services.operation_views import failure_of
from nativelink.services.worker_messages import (
    DISCONNECT,
    KEEP_ALIVE,
    complete_symlinks,
    connection_result,
    hello_of,
    order_message,
)

__all__ = ["WorkerApiService"]

_SERVICE: Final = service(api.DESCRIPTOR, "WorkerApi")
#: Values of all properties of a worker; they stay in memory as long as it does.
_MAX_WORKER_PROPERTIES: Final = 4096
_MAX_PROPERTY_BYTES: Final = 1024 * 1024
#: It stands in front of every log line, metric and page that names the worker.
_MAX_PREFIX_LENGTH: Final = 256
#: Operations that a worker says that it still has. Each takes it room until it has answered the
#: order to stop it, also if it was made up.
_MAX_RUNNING: Final = 20_000
#: A client gets it in an Operation, whose names and times take some KiB, and takes messages of
#: 4 MiB: it would ask again and again for one that it cannot receive.
_MAX_RESPONSE_BYTES: Final = MAX_MESSAGE_BYTES - 64 * 1024
_NO_RESULT: Final = Failure(Code.INTERNAL, "the worker reported neither a result nor an error")

_log = logging.getLogger(__name__)


class WorkerApiService:
    """Lets workers join a scheduler.

    Nothing is asked of a worker beyond what NativeLink's worker does. Give this service a port
    that clients cannot reach: whoever connects is given actions, and believed.

    Args:
        gateway: the scheduler.
    """

    def __init__(self, gateway: WorkerGateway) -> None:
        self._gateway = gateway

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [method(_SERVICE, "ConnectWorker", self._connect_worker)]

    async def _connect_worker(
        self, source: MessageSource, call: CallContext, sink: MessageSink
    ) -> None:
        first = await source.read()
        update = api.UpdateForScheduler() if first is None else _parsed(first)
        if update.WhichOneof("update") != "connect_worker_request":
            raise invalid_argument(
                "a worker's first message must be a ConnectWorkerRequest, got "
                f"{update.WhichOneof('update') or 'none'}"
            )
        request = update.connect_worker_request
        size = sum(each.ByteSize() for each in request.properties)
        if len(request.properties) > _MAX_WORKER_PROPERTIES or size > _MAX_PROPERTY_BYTES:
            raise invalid_argument(
                f"the worker offers {len(request.properties)} property values of {size} bytes; "
                f"{_MAX_WORKER_PROPERTIES} of {_MAX_PROPERTY_BYTES} bytes together are allowed"
            )
        prefix = request.worker_id_prefix
        if len(prefix) > _MAX_PREFIX_LENGTH or not prefix.isprintable():
            raise invalid_argument(
                f"worker_id_prefix {prefix[:80]!r}: up to {_MAX_PREFIX_LENGTH} printable "
                "characters are allowed"
            )
        if len(request.running) > _MAX_RUNNING:
            raise invalid_argument(
                f"the worker says that it has {len(request.running)} operations; {_MAX_RUNNING} "
                "are allowed"
            )
        link = self._gateway.connect(hello_of(request, call))
        try:
            await sink.write(connection_result(link.worker_id))
            async with asyncio.TaskGroup() as tasks:
                ends = (
                    tasks.create_task(_send_orders(link, sink)),
                    tasks.create_task(_take_updates(link, source, sink)),
                )
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    end.cancel()
        finally:
            link.lost()


async def _send_orders(link: WorkerLink, sink: MessageSink) -> None:
    """Pass on what the scheduler wants done until it wants the worker gone."""
    worker_id = link.worker_id
    while orders := await link.next_orders():
        for order in orders:
            await sink.write(order_message(order, worker_id))
    await sink.write(DISCONNECT)


async def _take_updates(link: WorkerLink, source: MessageSource, sink: MessageSink) -> None:
    """Take what the worker says until it says no more."""
    while (message := await source.read()) is not None:
        update = _parsed(message)
        match update.WhichOneof("update"):
            case "execute_result":
                _take_result(link, update.execute_result)
            case "execute_complete":
                link.process_ended(update.execute_complete.operation_id)
            case "keep_alive_request":
                link.keep_alive()
                alive = update.keep_alive_request
                if alive.HasField("draining"):
                    link.drain(draining=alive.draining)
                # So that the worker, too, hears of a connection that died in silence.
                await sink.write(KEEP_ALIVE)
            case "going_away_request":
                link.going_away()
            case "connect_worker_request":
                link.keep_alive()
                _log.warning("worker %s introduced itself twice", link.worker_id)
            case None:
                # Something newer than this server; the worker is alive at least.
                link.keep_alive()


def _take_result(link: WorkerLink, result: api.ExecuteResult) -> None:
    kind = result.WhichOneof("result")
    if kind == "internal_error":
        link.failed(result.operation_id, failure_of(result.internal_error))
        return
    response = result.execute_response
    if kind is None or not (response.HasField("result") or response.status.code):
        link.failed(result.operation_id, _NO_RESULT)
        return
    complete_symlinks(response.result)
    # Cheaper than to cut the bytes out of the message; nothing is lost, as unknown fields are kept.
    data = response.SerializeToString()
    if len(data) > _MAX_RESPONSE_BYTES:
        link.failed(result.operation_id, _too_long(len(data)))
        return
    usage = result.resource_usage
    link.result(
        result.operation_id,
        data,
        exit_code=response.result.exit_code,
        peak_memory_kb=usage.peak_memory_kb,
        cpu_time_ms=usage.cpu_time_ms,
    )


def _too_long(size: int) -> Failure:
    return Failure(
        Code.INVALID_ARGUMENT,
        f"the action's result takes {size} bytes to list; {_MAX_RESPONSE_BYTES} fit into what "
        "clients receive. Output directories are listed in blobs of their own",
    )


def _parsed(message: Chunk) -> api.UpdateForScheduler:
    try:
        return api.UpdateForScheduler.FromString(bytes(message))
    except DecodeError as error:
        raise invalid_argument(f"malformed UpdateForScheduler: {error}") from error
