"""What lies between us and a provider, and fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from itertools import cycle

__all__ = ["Fault", "FaultProxy", "every", "faults_between"]


class Fault(Enum):
    """What happens to a request."""

    NONE = auto()
    #: The connection breaks before the request arrives.
    RESET = auto()
    #: The provider answers 500, 503 (as S3 when it is busy), 403.
    ERROR = auto()
    SLOW_DOWN = auto()
    FORBIDDEN = auto()
    #: The request is carried out, and its answer's body ends in the middle.
    HALF = auto()
    #: The answer comes in many pieces with other things in between.
    SLOW = auto()
    #: The request waits for the loop to turn a number of times.
    LATENCY = auto()
    #: Nothing ever comes back.
    SILENCE = auto()


_ANSWERS = {
    Fault.ERROR: (b"500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>"),
    Fault.SLOW_DOWN: (b"503 Slow Down", b"<Error><Code>SlowDown</Code></Error>"),
    Fault.FORBIDDEN: (b"403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>"),
}
#: Of answers without a body.
_BODILESS = frozenset({204, 304})

#: Says what happens to a request, by its method and target.
Choose = Callable[[str, str], Fault]


def every(count: int, *faults: Fault) -> Choose:
    """One fault after the other, round and round, at each `count`-th request."""
    turn, kinds = cycle(range(count)), cycle(faults)
    return lambda method, target: Fault.NONE if next(turn) else next(kinds)


class FaultProxy:
    """A proxy in front of one server, one request per connection.

    Attributes:
        port: where it listens.
        choose: what happens to the next request; a test may change it.
        requests: methods and targets, the oldest first.
        happened: how often each fault happened.
    """

    def __init__(self, upstream: int, choose: Choose) -> None:
        self._upstream = upstream
        self.choose = choose
        self.port = 0
        self.requests: list[tuple[str, str]] = []
        self.happened: Counter[Fault] = Counter()
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._serving.discard(task)
            writer.close()

    async def close(self) -> None:
        """Break all connections."""
        while self._serving:
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].split(b"\r\n")
        method, target, _ = lines[0].decode().split(" ", 2)
        length = _length(lines) or 0
        self.requests.append((method, target))
        fault = self.choose(method, target)
        self.happened[fault] += 1
        if fault is Fault.RESET:
            writer.transport.abort()
            return
        body = await reader.readexactly(length)
        if fault is Fault.SILENCE:
            await reader.read()
            return
        if fault in _ANSWERS:
            status, text = _ANSWERS[fault]
            writer.write(
                b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % (status, len(text))
            )
            if method != "HEAD":
                writer.write(text)
            await writer.drain()
            return
        if fault is Fault.LATENCY:
            for _ in range(50):
                await asyncio.sleep(0)
        answer = await self._ask(method, lines, body)
        if fault is Fault.HALF:
            end = answer.index(b"\r\n\r\n") + 4
            writer.write(answer[: end + (len(answer) - end) // 2])
            await writer.drain()
            # The client must see that this is not the end.
            writer.transport.abort() if end == len(answer) else None
            return
        step = max(1, len(answer) // 20) if fault is Fault.SLOW else len(answer)
        for start in range(0, len(answer), step):
            writer.write(answer[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)

    async def _ask(self, method: str, lines: list[bytes], body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        writer.write(b"\r\n".join([*kept, b"connection: close", b"", b""]))
        writer.write(body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answered = head[:-4].split(b"\r\n")
            status = int(answered[0].split(b" ", 2)[1])
            # Whatever its head says (RFC 9112, section 6.3).
            has_none = method == "HEAD" or status in _BODILESS
            length = 0 if has_none else _length(answered)
            # Who says how much there is may leave it to us to close the connection.
            rest = await (reader.read(-1) if length is None else reader.readexactly(length))
        finally:
            writer.close()
        fields = [line for line in answered if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*fields, b"connection: close", b"", b""]) + rest


def _length(lines: list[bytes]) -> int | None:
    """What a head says of the length of its body."""
    name = b"content-length:"
    found = [int(line[len(name) :]) for line in lines if line.lower().startswith(name)]
    return found[0] if found else None


@asynccontextmanager
async def faults_between(upstream: int, choose: Choose) -> AsyncIterator[FaultProxy]:
    """A proxy in front of a server on loopback."""
    proxy = FaultProxy(upstream, choose)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=2**20)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
        await proxy.close()
