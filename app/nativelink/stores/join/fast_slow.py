"""A fast store in front of a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from nativelink.core.clock import Clock, SystemClock
from nativelink.core.digest import Digest, StoreKey
from nativelink.core.eager import begin
from nativelink.core.errors import Code, NativeLinkError, permission_denied, unavailable
from nativelink.core.streams import (
    BytesSink,
    BytesSource,
    Chunk,
    CountingSink,
    Pipe,
    Sink,
    Source,
)
from nativelink.stores.join.single_flight import (
    PIPE_BYTES,
    GivenUpError,
    StreamFlight,
    WholeFlight,
)
from nativelink.stores.join.tiers import (
    FailureReport,
    FastSlowStatistics,
    StoreDirection,
    TierCounts,
)
from nativelink.stores.store import Store

__all__ = ["FastSlowStatistics", "FastSlowStore", "StoreDirection"]

#: Blobs of up to this size go through memory in one piece, without pipes and tasks.
_WHOLE_BYTES: Final = 64 * 1024

#: Values whose digest is not their own (action results), and those of string keys, are read in
#: one piece too. Messages end at this size; what is larger is neither shared nor kept.
_MAX_WHOLE_BYTES: Final = 4 * 1024 * 1024

#: How long a reader who came too late to read along waits for the blob to be in the fast store
#: before he reads the slow one himself. Clients give up after a minute without a byte (Bazel's
#: --remote_timeout), so it must be well below that.
_LATE_WAIT_S: Final = 10.0

#: So many keys whose value in the fast side may be out of date are remembered, some 10 MiB.
_MAX_STALE: Final = 65_536

#: Reading a member of an enumeration takes as long as a tenth of a look-up, before Python 3.12.
_NOT_FOUND: Final = Code.NOT_FOUND

_SYSTEM_CLOCK: Final = SystemClock()


class FastSlowStore:
    """Reads from the fast side what it has, and keeps there what the slow side gave.

    The slow side is the truth. `has` asks it alone, so what the fast side still holds after the
    slow one lost it counts as absent: the client uploads it again and both have it. (A blob that
    only one machine's fast side has would be promised to everyone.) Only where the slow side
    takes no uploads the fast one is asked for what the slow one lacks.

    - A `put` goes to both sides. It succeeds when the slow side has it; nothing is visible in
      the fast side before that. A slow side that fails makes it fail.
    - A fast side that fails, in `get` or `put`, is counted and reported, and the slow side alone
      goes on, from the very byte where the fast one broke.
    - Concurrent reads of what the fast side lacks read the slow side once and fill the fast side
      on the way (`single_flight`). Ranged reads go straight to the slow side and fill nothing.
    - The value of a key may change (a string's, an action's): a key is remembered as stale while
      the fast side may hold an older value than the slow one, and its reads pass the fast side by
      until they filled it anew.

    A side that keeps nothing (noop) is best given the direction READ_ONLY.

    Args:
        fast: asked first.
        slow: asked for what `fast` lacks.
        fast_direction: what `fast` keeps.
        slow_direction: what `slow` keeps; of reads it never keeps anything.
        bypass_dedup_threshold_bytes: digests of at least this size are read straight from the
            slow side, by everyone for himself, and are not kept in the fast side. 0: none.
        clock: for the interval of reports.
    """

    def __init__(
        self,
        fast: Store,
        slow: Store,
        *,
        fast_direction: StoreDirection = StoreDirection.BOTH,
        slow_direction: StoreDirection = StoreDirection.BOTH,
        bypass_dedup_threshold_bytes: int = 0,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self._fast = fast
        self._slow = slow
        self._fast_keeps_puts = fast_direction.keeps_puts
        self._fast_keeps_gets = fast_direction.keeps_gets
        self._slow_keeps_puts = slow_direction.keeps_puts
        self._bypass_bytes = bypass_dedup_threshold_bytes
        self._flights: dict[StoreKey, WholeFlight | StreamFlight] = {}
        #: How many puts of a key are under way; what is read meanwhile may be old already.
        self._putting: dict[StoreKey, int] = {}
        self._stale: dict[StoreKey, None] = {}
        self._counts = TierCounts()
        self._failures = FailureReport(clock)

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        if self._slow_keeps_puts:
            return await self._slow.has(keys)
        # Both may have what the other lacks; the fast side first, as in `get`.
        failure: Exception | None = None
        sizes: list[int | None] = [None] * len(keys)
        try:
            sizes = await self._fast.has(keys)
        except Exception as error:  # noqa: BLE001 - reported; the slow side may know all of them
            self._fast_failed("be asked", error)
            failure = error
        absent = [key for key, size in zip(keys, sizes, strict=True) if size is None]
        if not absent:
            return sizes
        slow_sizes = await self._slow.has(absent)
        if failure is not None and None in slow_sizes:
            raise failure
        rest = iter(slow_sizes)
        return [next(rest) if size is None else size for size in sizes]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        if self._stale and key in self._stale:
            self._counts.fast_stale += 1
            await self._get_cold(key, sink, offset, limit)
            return
        counted = CountingSink(sink)
        try:
            await self._fast.get(key, counted, offset=offset, limit=limit)
        except Exception as error:  # noqa: BLE001 - raised again if the slow side cannot help
            failure = self._failure_of_fast(error, counted)
        else:
            self._counts.fast_hits += 1
            self._counts.fast_read_bytes += counted.size
            return
        if counted.size and failure is not None:
            # It broke in the middle: the slow side goes on where it stopped.
            self._counts.fast_read_bytes += counted.size
            if not await self._is_constant(key):
                raise failure
            left = None if limit is None else limit - counted.size
            await self._get_slow(key, sink, offset + counted.size, left)
            return
        if failure is None or self._slow_keeps_puts:
            await self._get_cold(key, sink, offset, limit)
            return
        try:
            await self._get_cold(key, sink, offset, limit)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                # It can only be in the fast side, which could not be asked.
                raise failure from error
            raise

    async def put(self, key: StoreKey, source: Source) -> int:
        putting = self._putting
        others = putting.get(key, 0)
        putting[key] = others + 1
        try:
            flight = self._flights.pop(key, None)
            if flight is not None:
                # What it reads may be the older value: that must not come after this one.
                await flight.stop_filling()
            if not self._slow_keeps_puts:
                return await self._put_fast_only(key, source)
            if others:
                # The sides may end up with different ones of the racing values.
                self._mark_stale(key)
            try:
                if not self._fast_keeps_puts:
                    return await self._put_slow_only(key, source)
                if source.size is not None and source.size <= _WHOLE_BYTES:
                    return await self._put_whole(key, source)
                return await self._put_stream(key, source)
            except BaseException:
                # The slow side may have the new value all the same.
                self._mark_stale(key)
                raise
        finally:
            if putting[key] == 1:
                del putting[key]
            else:
                putting[key] -= 1

    def statistics(self) -> FastSlowStatistics:
        """Figures of this moment."""
        return self._counts.statistics(flights=len(self._flights), stale_keys=len(self._stale))

    # -- reads ------------------------------------------------------------------------------

    def _failure_of_fast(self, error: Exception, counted: CountingSink) -> Exception | None:
        """Count why the fast side gave no blob; the error if it is to blame for it.

        Raises:
            Exception: `error`, if it is the reader's own.
        """
        if counted.failed:
            raise error
        if isinstance(error, NativeLinkError):
            if error.code is _NOT_FOUND and not counted.size:
                self._counts.fast_misses += 1
                return None
            if error.code is Code.OUT_OF_RANGE:
                raise error
        self._fast_failed("read", error)
        return error

    async def _is_constant(self, key: StoreKey) -> bool:
        """Whether the slow side has a value of this key that is sure never to change.

        Only then a read may go on in the slow side that began elsewhere: the halves of two
        values must not be put together. A blob has the size that its digest says; the value of
        an action's digest, its result, does not.
        """
        return isinstance(key, Digest) and await self._slow.has((key,)) == [key.size_bytes]

    def _get_cold(
        self, key: StoreKey, sink: Sink, offset: int, limit: int | None
    ) -> Coroutine[Any, Any, None]:
        """What reads a value that the fast side does not have; to be awaited at once."""
        if offset or limit is not None or not self._shares(key):
            return self._get_slow(key, sink, offset, limit)
        if self._flights and key in self._flights:
            return self._get_shared(key, sink)
        if isinstance(key, str) or key.size_bytes <= _WHOLE_BYTES:
            return self._lead_whole(key, sink)
        return self._get_shared(key, sink)

    def _shares(self, key: StoreKey) -> bool:
        """Whether a whole read of a key is shared with others, and kept in the fast side."""
        if not self._fast_keeps_gets or (self._putting and key in self._putting):
            return False
        bypass = self._bypass_bytes
        return not bypass or isinstance(key, str) or key.size_bytes < bypass

    async def _get_slow(
        self, key: StoreKey, sink: Sink, offset: int = 0, limit: int | None = None
    ) -> None:
        counted = CountingSink(sink)
        try:
            await self._slow.get(key, counted, offset=offset, limit=limit)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND and not counted.failed:
                self._counts.slow_misses += 1
            raise
        finally:
            self._counts.slow_read_bytes += counted.size
        self._counts.slow_hits += 1

    async def _get_shared(self, key: StoreKey, sink: Sink) -> None:
        """Read a whole blob from the slow side, together with everyone else who wants it."""
        while True:
            flight = self._flights.get(key)
            if flight is not None:
                self._counts.shared_reads += 1
            elif isinstance(key, str) or key.size_bytes <= _WHOLE_BYTES:
                await self._lead_whole(key, sink)
                return
            else:
                flight = self._flights[key] = StreamFlight(
                    key,
                    key.size_bytes,
                    lambda sink: self._get_slow(key, sink),
                    lambda pipe: self._fill_read(key, pipe),
                    lambda flight: self._end_flight(key, flight),
                )
            if isinstance(flight, StreamFlight):
                await self._follow_stream(key, flight, sink)
                return
            await flight.wait()
            if flight.error is not None:
                raise _copy(flight.error)
            if flight.too_large:
                await self._get_slow(key, sink)
                return
            if flight.data is not None:
                if flight.data:
                    await sink.write(flight.data)
                return

    async def _lead_whole(self, key: StoreKey, sink: Sink) -> None:
        """Read a small blob for all who want it."""
        flight = self._flights[key] = WholeFlight()
        collected = BytesSink(_MAX_WHOLE_BYTES)
        try:
            try:
                await self._slow.get(key, collected)
            except NativeLinkError as error:
                flight.too_large = collected.size > _MAX_WHOLE_BYTES
                if not flight.too_large:
                    flight.fail(error)
                    if error.code is _NOT_FOUND:
                        self._counts.slow_misses += 1
                    raise
            else:
                self._counts.slow_hits += 1
                self._counts.slow_read_bytes += collected.size
                data = flight.data = collected.getvalue()
                flight.set()
                if data:
                    await sink.write(data)
                await flight.fill(self._fill_read(key, BytesSource(data)))
                return
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.set()
        await self._get_slow(key, sink)

    async def _follow_stream(self, key: StoreKey, flight: StreamFlight, sink: Sink) -> None:
        done: int | None = 0
        if flight.can_join:
            done = await flight.follow(sink)
        else:
            try:
                async with asyncio.timeout(_LATE_WAIT_S):
                    await flight.ended.wait()
            except TimeoutError:
                pass
        if done is None:
            return
        if done and not await self._is_constant(key):
            raise unavailable(f"{key} could not be read as fast as it changed, read it again")
        # By now it may be in the fast side.
        counted = CountingSink(sink)
        try:
            await self._fast.get(key, counted, offset=done)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reader's
            self._failure_of_fast(error, counted)
        else:
            self._counts.fast_hits += 1
            self._counts.fast_read_bytes += counted.size
            return
        await self._get_slow(key, sink, done + counted.size)

    def _end_flight(self, key: StoreKey, flight: WholeFlight | StreamFlight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    # -- writes -----------------------------------------------------------------------------

    async def _put_fast_only(self, key: StoreKey, source: Source) -> int:
        if not self._fast_keeps_puts:
            raise permission_denied(
                f"{key} cannot be stored: neither side of fast_slow takes uploads "
                "(fast_direction and slow_direction are each 'get' or 'read_only')"
            )
        size = await self._fast.put(key, source)
        self._counts.fast_written_bytes += size
        return size

    async def _put_slow_only(self, key: StoreKey, source: Source) -> int:
        size = await self._slow.put(key, source)
        self._counts.slow_written_bytes += size
        try:
            (older,) = await self._fast.has((key,))
        except Exception as error:  # noqa: BLE001 - reported; the upload is safe
            self._fast_failed("be asked", error)
            older = 0
        if older is not None:
            self._mark_stale(key)
        return size

    async def _put_whole(self, key: StoreKey, source: Source) -> int:
        """Both sides get the same bytes, one after the other: no pipe, no task."""
        data = await source.read()
        if data:
            while more := await source.read():
                data = b"".join((data, more))
        size = await self._slow.put(key, BytesSource(data))
        self._counts.slow_written_bytes += size
        if not await self._put_fast(key, BytesSource(data)):
            self._mark_stale(key)
        return size

    async def _put_stream(self, key: StoreKey, source: Source) -> int:
        """Both sides get each piece at once; the end reaches the fast side last."""
        pipe = Pipe(source.size, capacity_bytes=PIPE_BYTES)
        filling = begin(self._put_fast(key, pipe), asyncio.get_running_loop())
        try:
            size = await self._slow.put(key, _TeeSource(source, pipe))
            self._counts.slow_written_bytes += size
            pipe.close()
        except BaseException as error:
            # The source's own error, if it is one: stores pass it on as it is.
            pipe.fail(GivenUpError(str(error)))
            raise
        finally:
            if isinstance(filling, asyncio.Task) and not filling.done():
                await asyncio.wait((filling,))
        kept = filling.result() if isinstance(filling, asyncio.Task) else filling[0]
        if not kept:
            self._mark_stale(key)
        return size

    async def _fill_read(self, key: StoreKey, source: Source) -> bool:
        """Keep in the fast side what a read of the slow one gives; whether that worked."""
        kept = await self._put_fast(key, source)
        if kept and self._stale and key not in self._putting:
            self._stale.pop(key, None)
        return kept

    async def _put_fast(self, key: StoreKey, source: Source) -> bool:
        """Store a blob in the fast side; whether that worked. Raises nothing but cancellation."""
        try:
            self._counts.fast_written_bytes += await self._fast.put(key, source)
        except GivenUpError:
            return False
        except Exception as error:  # noqa: BLE001 - the slow side has it
            self._fast_failed("write", error)
            return False
        finally:
            if isinstance(source, Pipe):
                # Whoever writes must not wait for a reader who is gone.
                source.abandon(GivenUpError())
        return True

    def _mark_stale(self, key: StoreKey) -> None:
        """Read a key from the slow side until the fast side got its newest value.

        The oldest mark is given up for a new one when there are too many. Marks come from races
        of one key and from a failing fast side, and only matter for keys whose value changes.
        """
        stale = self._stale
        stale.pop(key, None)
        if len(stale) >= _MAX_STALE:
            del stale[next(iter(stale))]
        stale[key] = None

    def _fast_failed(self, verb: str, error: Exception) -> None:
        """Count a failure of the fast side, and report it now and then."""
        self._counts.fast_errors += 1
        self._failures.add(verb, error)


class _TeeSource:
    """Gives each piece to a pipe first, as long as somebody reads there."""

    __slots__ = ("_pipe", "_source", "size")

    def __init__(self, source: Source, pipe: Pipe) -> None:
        self._source = source
        self._pipe: Pipe | None = pipe
        self.size = source.size

    async def read(self) -> Chunk:
        chunk = await self._source.read()
        if chunk and self._pipe is not None:
            try:
                await self._pipe.write(chunk)
            except Exception:  # noqa: BLE001 - the fast side gave up, and said why where it did
                self._pipe = None
        return chunk


def _copy(error: Exception) -> Exception:
    return error.copy() if isinstance(error, NativeLinkError) else error
