"""The calls of one HTTP/2 connection: streams with news become handlers that run, and answers.

A unary request that lies complete in one DATA frame, and whose handler never waits, is answered
within the `receive` of its bytes: no task, no future, no timer. Everything else is an `Exchange`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from nativelink.core.eager import begin
from nativelink.core.errors import Code
from nativelink.core.rpc import CallContext, current_call
from nativelink.transport.exchanges import (
    CallEnvironment,
    Exchange,
    HttpExchange,
    StreamingExchange,
    UnaryExchange,
    parsed_request,
)
from nativelink.transport.grpc import PREFIX_BYTES, split_prefix
from nativelink.transport.routing import GrpcPlan, HttpPlan, Kind, Plan
from nativelink.transport.status import error_of
from nativelink.transport.streams import Stream

__all__ = ["Calls"]


class Calls(CallEnvironment):
    """Runs the calls of one connection.

    `handle` leaves the current call set in its caller's context, which saves a context switch a
    call; `rest` clears it.
    """

    #: Calls and HTTP requests begun.
    begun = 0

    def handle(self, stream: Stream) -> None:
        """Act on a stream with news."""
        exchange: Exchange | None = stream.call
        if exchange is not None:
            exchange.on_news()
            return
        if stream.reset is not None:
            return
        head = stream.head
        plan: Plan | None = head.plan
        if plan is None:
            plan = head.plan = self.router.plan(head)
        kind = plan.kind
        self.begun += 1
        if kind is Kind.UNARY:
            unary = cast("GrpcPlan", plan)
            if stream.ended and len(stream.inbox) == 1:
                body = stream.inbox[0]
                size = len(body) - PREFIX_BYTES
                if 0 <= size <= self.max_message and split_prefix(body) == (0, size):
                    self._answer_unary(stream, unary, bytes(body[PREFIX_BYTES:]))
                    return
            UnaryExchange(self, stream, unary).on_news()
        elif kind is Kind.STREAMING:
            StreamingExchange(self, stream, cast("GrpcPlan", plan)).on_news()
        elif kind is Kind.HTTP:
            HttpExchange(self, stream, cast("HttpPlan", plan)).on_news()
        else:
            assert not isinstance(plan, GrpcPlan | HttpPlan)
            self.connection.send_only(stream, plan.block)
            if plan.path and self.observer is not None:
                self.observer.call_ended(plan.path, plan.code, 0.0)

    def _answer_unary(self, stream: Stream, plan: GrpcPlan, message: bytes) -> None:
        started = self.monotonic()
        timeout = plan.timeout_s
        context = CallContext(
            plan.path, plan.metadata, self.peer, None if timeout is None else started + timeout
        )
        current_call.set(context)
        try:
            begun = begin(
                cast(
                    "Coroutine[Any, Any, Any]",
                    plan.handler(parsed_request(plan, message), context),
                ),
                self.loop,
            )
            if isinstance(begun, tuple):
                self.reply(stream, plan, context, begun[0])
                if self.observer is not None:
                    self.observer.call_ended(plan.path, Code.OK, self.monotonic() - started)
                return
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to the client
            UnaryExchange(self, stream, plan, context, started).fail(error_of(raised, plan.path))
            return
        UnaryExchange(self, stream, plan, context, started).follow(begun)

    def rest(self) -> None:
        """No call is under way in this context any more."""
        current_call.set(None)

    def cancel(self) -> None:
        """Cancel every handler that waits: the server stops."""
        for task in list(self.running):
            task.cancel()
