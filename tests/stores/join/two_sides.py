"""A fast side before a slow one, both counted and made to fail at will."""

import random

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import BytesSink
from nativelink.stores.join.fast_slow import FastSlowStore
from nativelink.stores.join.single_flight import WINDOW_BYTES
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.faults import FaultyStore

SMALL, LARGE, HUGE = 1_000, 300_000, 3 * WINDOW_BYTES
#: Sizes on both sides of the border between the ways to read and write.
SIZES = (SMALL, LARGE)


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return DigestFunction.SHA256.digest_of(data), data


class Pair:
    """A fast_slow over two dictionaries whose calls are counted and can be made to fail."""

    def __init__(self, *, chunk_size: int = 50_000, **settings) -> None:
        self.fast_blobs = DictStore(chunk_size=chunk_size)
        self.slow_blobs = DictStore(chunk_size=chunk_size)
        self.fast = FaultyStore(self.fast_blobs)
        self.slow = FaultyStore(self.slow_blobs)
        self.clock = FakeClock()
        self.store = FastSlowStore(self.fast, self.slow, clock=self.clock, **settings)

    async def read(self, key: StoreKey, *, offset: int = 0, limit: int | None = None) -> bytes:
        sink = BytesSink()
        await self.store.get(key, sink, offset=offset, limit=limit)
        return sink.getvalue()

    def forget(self) -> None:
        """Start counting again."""
        self.fast.calls.clear()
        self.slow.calls.clear()


async def code_of(work) -> Code | None:
    try:
        await work
    except NativeLinkError as error:
        return error.code
    return None
