"""One connection to a Redis server, shared by everybody who has something to ask.

Redis answers in the order of the commands, so nobody has to wait for anybody else's answer: the
commands of one turn of the loop leave together, and each answer goes to whoever is next. Giving up
(a cancellation) leaves the connection as it is; the answer that nobody wants any more is dropped.
That, and commands that travel together, is what a connection of redis-py cannot do: it belongs to
one command at a time and is closed when that one is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

import hiredis

from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.stores.remote.redis_address import Endpoint, Login
from nativelink.stores.remote.redis_replies import (
    RefusedReplies,
    ReplyError,
    SilentServerError,
    as_error,
)

__all__ = ["Command", "RedisConnection", "dial", "pack"]

#: Name and arguments.
Command: TypeAlias = tuple[bytes | memoryview | str | int, ...]

_INCOMPLETE: Final = object()
# Its stub knows tuples of one element only.
_pack_command: Final[Callable[[Command], bytes]] = cast("Any", hiredis.pack_command)


def pack(commands: Iterable[Command]) -> list[bytes]:
    """Commands as they travel (RESP)."""
    return list(map(_pack_command, commands))


class _Batch:
    """Commands that were sent together, and the answers so far."""

    __slots__ = ("answer", "count", "replies")

    def __init__(self, answer: asyncio.Future[list[Any]], count: int) -> None:
        self.answer = answer
        self.count = count
        self.replies: list[Any] = []


class RedisConnection(asyncio.Protocol):
    """The protocol of a connection (RESP3); `dial` makes one that is ready for use.

    Args:
        endpoint: the server's, for messages.
        timeout_s: seconds that the oldest unanswered command may be without an answer. Then the
            server counts as dead, and all commands that wait fail.
        on_push: told what the server says unasked, as its elements.

    Attributes:
        lost: why it cannot be used any more; None while it can.
        waiting: how many batches of commands wait for their answers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout_s: float,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._refused = False
        self._reader = hiredis.Reader(replyError=self._reply_error, notEnoughData=_INCOMPLETE)
        self._waiting: deque[_Batch] = deque()
        self._out: list[bytes] = []
        #: Since when the first of those that wait is the first.
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.lost: NativeLinkError | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def send(self, packed: Sequence[bytes], count: int) -> asyncio.Future[list[Any]]:
        """Send `count` commands; the future gives their answers in order.

        The answers are a `RefusedReplies` if any of them is an error.

        Raises:
            NativeLinkError: UNAVAILABLE, here or from the future, if the connection is lost. The
                server may have executed the commands.
        """
        if self.lost is not None:
            raise self.lost.copy()
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        if not self._waiting:
            self._since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_at(self._since + self._timeout_s, self._look)
        self._waiting.append(_Batch(answer, count))
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.extend(packed)
        return answer

    async def call(self, *command: bytes | str | int) -> Any:
        """The answer to one command.

        Raises:
            NativeLinkError: what the server answered, if that is an error.
        """
        (reply,) = await self.send(pack((command,)), 1)
        if isinstance(reply, ReplyError):
            raise as_error(reply, who=self._endpoint)
        return reply

    def say(self, *command: bytes | str | int) -> None:
        """Send a command whose only answers are pushes, such as SUBSCRIBE."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.extend(pack((command,)))

    def close(self, why: NativeLinkError | None = None) -> None:
        """Drop the connection; whoever still waits gets UNAVAILABLE."""
        self._fail(why or unavailable(f"the connection to Redis at {self._endpoint} was closed"))
        if self._transport is not None:
            self._transport.abort()

    async def wait_lost(self) -> None:
        """Return when the connection cannot be used any more."""
        await asyncio.shield(self._closed)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _INCOMPLETE:
                if isinstance(reply, hiredis.PushNotification):
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                batch = waiting[0]
                batch.replies.append(reply)
                if len(batch.replies) == batch.count:
                    waiting.popleft()
                    self._since = self._loop.time()
                    replies = batch.replies
                    if self._refused:
                        self._refused = False
                        replies = RefusedReplies(replies)
                    if not batch.answer.done():
                        batch.answer.set_result(replies)
        except (hiredis.HiredisError, IndexError) as error:
            # An IndexError is an answer that nobody asked for.
            self.close(
                unavailable(f"Redis at {self._endpoint} does not speak its protocol: {error}")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        why = "" if exc is None else f": {exc}"
        self._fail(unavailable(f"the connection to Redis at {self._endpoint} was lost{why}"))
        self._transport = None

    # -- within

    def _reply_error(self, text: str) -> ReplyError:
        self._refused = True
        return ReplyError(text)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.writelines(out)

    def _look(self) -> None:
        """Notice a server that answers no more."""
        self._timer = None
        if self._waiting:
            due = self._since + self._timeout_s
            if self._loop.time() < due:
                self._timer = self._loop.call_at(due, self._look)
            else:
                self.close(
                    SilentServerError(
                        f"Redis at {self._endpoint} gave no answer for {self._timeout_s:g} s"
                    )
                )

    def _fail(self, error: NativeLinkError) -> None:
        if self.lost is None:
            self.lost = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for batch in waiting:
            if not batch.answer.done():
                batch.answer.set_exception(self.lost.copy())
        if not self._closed.done():
            self._closed.set_result(None)


async def dial(
    endpoint: Endpoint,
    login: Login,
    *,
    connect_timeout_s: float,
    timeout_s: float,
    on_push: Callable[[list[Any]], None] | None = None,
) -> RedisConnection:
    """A connection that is logged in, speaks RESP3 and has its database selected.

    Raises:
        NativeLinkError: UNAVAILABLE if nobody answers within `connect_timeout_s`;
            PERMISSION_DENIED if user and password are refused.
    """
    connection = RedisConnection(endpoint, timeout_s=timeout_s, on_push=on_push)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(connect_timeout_s):
            await loop.create_connection(
                lambda: connection, endpoint.host, endpoint.port, ssl=login.tls
            )
            hello: list[bytes | str | int] = ["HELLO", 3]
            if login.password:
                hello += ["AUTH", login.username or "default", login.password]
            await connection.call(*hello, "SETNAME", "nativelink")
            if login.database:
                await connection.call("SELECT", login.database)
    except TimeoutError as error:
        connection.close()
        raise SilentServerError(
            f"Redis at {endpoint} let us wait for a connection for {connect_timeout_s:g} s"
        ) from error
    except OSError as error:
        connection.close()
        raise unavailable(
            f"Redis at {endpoint} cannot be reached: {error.strerror or error}"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection
