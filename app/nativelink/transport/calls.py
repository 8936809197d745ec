"""The calls of one HTTP/2 connection: streams with news become handlers that run, and answers.

A unary request that lies complete in one DATA frame, and whose handler never waits, is answered
within the `receive` of its bytes: no task, no future, no timer. Everything else is an `Exchange`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from nativelink.core.eager import Starter
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import CallContext, current_call
from nativelink.transport.environment import CallEnvironment
from nativelink.transport.exchanges import Exchange
from nativelink.transport.grpc import PREFIX_BYTES, message_prefix, split_prefix
from nativelink.transport.grpc_exchanges import StreamingExchange, UnaryExchange, malformed
from nativelink.transport.http_exchange import http_exchange
from nativelink.transport.limits import MAX_DELAYED_BYTES, MAX_PARKED_BYTES
from nativelink.transport.routing import GrpcPlan, HttpPlan, Plan
from nativelink.transport.status import error_of
from nativelink.transport.streams import Stream

__all__ = ["Calls"]


class Calls(CallEnvironment):
    """Runs the calls of one connection.

    A stream that begins while too many answers wait to be sent waits in a backlog.
    """

    def __init__(self, *args: Any, **collaborators: Any) -> None:
        super().__init__(*args, **collaborators)
        self._starter = Starter(self.loop)
        self._backlog: dict[int, Stream] = {}

    def handle(self, streams: Sequence[Stream]) -> None:
        """Act on streams with news, in order.

        The current call is set in this very context, and cleared at the end: handlers run in
        copies of it, and setting it once here is cheaper than entering each copy twice.

        What is answered at once is told to the observer once for a run of calls of one method that
        arrived together: their answers leave together too, at the end.
        """
        connection = self.connection
        path, arrived, count = "", 0.0, 0
        for stream in streams:
            exchange: Exchange | None = stream.call
            if exchange is not None:
                exchange.on_news()
            elif stream.reset is not None:
                self._backlog.pop(stream.id, None)
            elif (
                self._backlog
                or connection.parked_bytes >= MAX_PARKED_BYTES
                or connection.delayed_bytes >= MAX_DELAYED_BYTES
            ):
                self._backlog[stream.id] = stream
            else:
                plan: Plan | None = stream.head.plan
                if plan is None:
                    plan = stream.head.plan = self.router.plan(stream.head)
                # Sending the answer is activity, too.
                began = stream.active_at
                if not (plan.unary and stream.ended and len(stream.inbox) == 1):
                    self._begin(stream, plan)
                elif self._unary(stream, cast("GrpcPlan", plan)):
                    if plan.path is not path or began != arrived:
                        if count:
                            self._tell(path, arrived, count)
                        path, arrived, count = plan.path, began, 0
                    count += 1
        if count:
            self._tell(path, arrived, count)
        current_call.set(None)

    def _tell(self, path: str, arrived: float, count: int) -> None:
        """Calls of one method have been answered with OK."""
        if self.observer is not None:
            self.observer.call_ended(path, Code.OK, self.monotonic() - arrived, count)

    @property
    def resumable(self) -> bool:
        """Whether streams of the backlog may begin."""
        connection = self.connection
        return (
            bool(self._backlog)
            and connection.parked_bytes < MAX_PARKED_BYTES // 2
            and connection.delayed_bytes < MAX_DELAYED_BYTES
        )

    def _begin(self, stream: Stream, plan: Plan) -> None:
        """A request that is not complete yet, or that no unary method takes."""
        if isinstance(plan, GrpcPlan):
            if plan.unary:
                UnaryExchange(self, stream, plan).on_news()
            else:
                StreamingExchange(self, stream, plan).begin()
        elif isinstance(plan, HttpPlan):
            http_exchange(self, stream, plan)
        else:
            self.connection.send_only(stream, plan.block)
            if plan.path and self.observer is not None:
                self.observer.call_ended(plan.path, plan.code, 0.0)

    def _unary(self, stream: Stream, plan: GrpcPlan) -> bool:
        """A unary request that arrived in one chunk; whether it is answered with OK."""
        body = stream.inbox[0]
        size = len(body) - PREFIX_BYTES
        if size < 0 or size > self.max_message or split_prefix(body) != (0, size):
            UnaryExchange(self, stream, plan).on_news()
            return False
        # The arrival of the batch that it came in: the clock is read once for all of them.
        started = stream.active_at
        timeout = plan.timeout_s
        context = CallContext(
            plan.path, plan.metadata, self.peer, None if timeout is None else started + timeout
        )
        current_call.set(context)
        try:
            request = plan.parse(bytes(body[PREFIX_BYTES:]))
        except Exception as error:  # noqa: BLE001 - told to the client
            UnaryExchange(self, stream, plan, context).fail(malformed(plan, error))
            return False
        try:
            begun = self._starter.begin(
                cast("Coroutine[Any, Any, Any]", plan.handler(request, context))
            )
            if type(begun) is not tuple:
                UnaryExchange(self, stream, plan, context).follow(cast("asyncio.Task[Any]", begun))
                return False
            (answer,) = begun
            if type(answer) is bytes and not plan.gzip and not context.trailing_metadata:
                prefix = message_prefix(0, len(answer))
                self.connection.respond(stream, plan.head, prefix, answer, self.router.ok_trailers)
            else:
                self.reply(stream, plan, context, answer)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            self._refuse(stream, plan, context, started, error_of(raised, plan.path))
            return False
        return True

    def _refuse(
        self,
        stream: Stream,
        plan: GrpcPlan,
        context: CallContext,
        started: float,
        failure: NativeLinkError,
    ) -> None:
        """Answer a unary call with an error.

        Its own frame, because the error's traceback holds the frame that caught it: a name for the
        error there would make a circle, and every miss of a cache work for the garbage collector.
        """
        if stream.head_sent:
            UnaryExchange(self, stream, plan, context).fail(failure)
            return
        head = self.router.error_head(failure, context.trailing_metadata)
        self.connection.send_only(stream, head)
        if self.observer is not None:
            self.observer.call_ended(plan.path, failure.code, self.monotonic() - started)

    def resume(self) -> bool:
        """Begin what waits in the backlog if there is room for answers; whether there was any."""
        if not self.resumable:
            return False
        waiting = list(self._backlog.values())
        self._backlog.clear()
        self.handle(waiting)
        return True

    def cancel(self) -> None:
        """Cancel every handler that waits: the server stops."""
        for task in list(self.running):
            task.cancel()
