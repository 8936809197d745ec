"""Trying again what failed for a while: pauses, and which errors are worth it.

The pause before try n + 1 is `delay_s * 2^n`, so the first one is twice `delay_s`, times a random
factor between `1 - jitter / 2` and `1 + jitter / 2` (NativeLink v1.6.6, `retry`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from nativelink.core.errors import Code, NativeLinkError

__all__ = ["RETRIED_BY_DEFAULT", "Retry", "Tries"]

T = TypeVar("T")

#: Failures that the same request may survive next time.
RETRIED_BY_DEFAULT: Final = frozenset(
    {
        Code.CANCELLED,
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
#: 2^64 times any delay is longer than anyone waits, and a larger power is no float any more.
_MAX_DOUBLINGS: Final = 64


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how long after each other, a failing request is tried again.

    Attributes:
        max_retries: tries after the first one; 0: a failure is final.
        delay_s: base of the pauses.
        jitter: width of the random spread of a pause as a part of it, 0.0 to 1.0.
        codes: the status codes that are worth another try; every other one is final.
        random: gives a number from 0.0 up to 1.0.
        sleep: lets a number of seconds pass.
    """

    max_retries: int = 0
    delay_s: float = 0.0
    jitter: float = 0.0
    codes: frozenset[Code] = RETRIED_BY_DEFAULT
    random: Callable[[], float] = field(default=random.random, repr=False)
    sleep: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep, repr=False)

    def tries(self) -> Tries:
        """The tries of one request."""
        return Tries(self)

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, tried again where that helps.

        Only for requests that may be sent twice.

        Raises:
            NativeLinkError: of the last try, or the first whose code is final.
        """
        tries = None
        while True:
            try:
                return await attempt()
            except NativeLinkError as error:
                if tries is None:
                    tries = Tries(self)
                await tries.after(error)

    def pause_s(self, number: int) -> float:
        """Seconds before retry `number`, which counts from 1."""
        spread = 1 + self.jitter * (self.random() - 0.5)
        return max(0.0, self.delay_s * 2.0 ** min(number, _MAX_DOUBLINGS) * spread)


class Tries:
    """How many tries one request has had, for loops that go on where they were interrupted."""

    __slots__ = ("_failed", "_retry")

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._failed = 0

    async def after(self, error: NativeLinkError) -> None:
        """Return when it is time for the next try.

        Raises:
            NativeLinkError: `error`, if there is no next try.
        """
        retry = self._retry
        if error.code not in retry.codes or self._failed >= retry.max_retries:
            raise error
        self._failed += 1
        await retry.sleep(retry.pause_s(self._failed))

    def renew(self) -> None:
        """Some progress was made: what fails next fails for the first time."""
        self._failed = 0
