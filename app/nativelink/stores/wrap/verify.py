"""Nothing wrong gets in: size and hash of an upload are checked before it is committed."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from nativelink.core.digest import (
    EMPTY_DIGESTS,
    Digest,
    DigestFunction,
    Hasher,
    StoreKey,
    digest_function,
)
from nativelink.core.errors import invalid_argument
from nativelink.core.streams import Chunk, Source
from nativelink.stores.store import DelegatingStore, Store

__all__ = ["VerifyStore"]

# A chunk is hashed on the event loop unless handing it to a thread costs the loop less. Measured
# on one core of an Xeon with uvloop (CPU of the loop's thread per chunk, microseconds):
#
#     chunk      SHA-256 here / handed over    BLAKE3 here / handed over
#     16 KiB            10 / 20                       4 / 20
#     64 KiB            38 / 21                      12 / 21
#     256 KiB          147 / 25                      42 / 21
#     1 MiB            583 / 27                     163 / 26
#
# Handing over adds about 40 us of latency and needs the GIL twice more, so it must win clearly:
# at these sizes it saves the loop two thirds. With one CPU there is nobody to hand over to.
_OFF_LOOP_BYTES: Final = {DigestFunction.SHA256: 128 * 1024, DigestFunction.BLAKE3: 512 * 1024}


class VerifyStore(DelegatingStore):
    """Checks what is put against the digest that it is put under.

    The check happens in the source that the backend reads from: the read that would give the end
    raises instead, so the backend sees a source that failed and leaves nothing (contract 2).
    Reads pass through. Only blobs can be checked, so a `put` of a string key is refused.

    The hash function is the request's own (`core.digest.digest_function`), else the default.

    Args:
        backend: where blobs go.
        verify_size: whether the number of bytes must be the digest's.
        verify_hash: whether the bytes must have the digest's hash.
        default_function: for requests that name no digest function.
    """

    __slots__ = ("_cpus", "_default_function", "_verify_hash", "_verify_size")

    def __init__(
        self,
        backend: Store,
        *,
        verify_size: bool,
        verify_hash: bool,
        default_function: DigestFunction,
    ) -> None:
        super().__init__(backend)
        self._verify_size = verify_size
        self._verify_hash = verify_hash
        self._default_function = default_function
        self._cpus = len(os.sched_getaffinity(0))

    async def put(self, key: StoreKey, source: Source) -> int:
        """Store a blob if it is what its digest says.

        Raises:
            NativeLinkError: INVALID_ARGUMENT if it is not, or if `key` is no digest.
        """
        if not isinstance(key, Digest):
            raise invalid_argument(
                f"verify cannot check the string key {key[:100]!r}: a digest is needed"
            )
        # The empty blob has a name under every function, and its size says it all.
        is_empty = key in EMPTY_DIGESTS
        verify_size = self._verify_size or is_empty
        if verify_size and source.size is not None and source.size != key.size_bytes:
            raise _wrong_size(key, source.size)
        hasher: Hasher | None = None
        off_loop_bytes = 0
        function = self._default_function
        if self._verify_hash and not is_empty:
            function = digest_function.get() or function
            hasher = function.new()
            if self._cpus > 1:
                off_loop_bytes = _OFF_LOOP_BYTES[function]
        return await self._backend.put(
            key, _CheckedSource(source, key, verify_size, hasher, function, off_loop_bytes)
        )


class _CheckedSource:
    """A source whose end is reached only if the bytes were the right ones.

    A large chunk is hashed in a thread while the backend writes it; the next read waits for that.

    Args:
        source: what is passed on.
        digest: what the bytes must have.
        verify_size: whether their number is checked.
        hasher: new, or None if the hash is not checked.
        function: which function `hasher` is, for messages.
        off_loop_bytes: chunks of this size or more are hashed in a thread; 0 for none.
    """

    __slots__ = (
        "_digest",
        "_function",
        "_hasher",
        "_hashing",
        "_off_loop_bytes",
        "_received",
        "_source",
        "_verify_size",
        "size",
    )

    def __init__(
        self,
        source: Source,
        digest: Digest,
        verify_size: bool,
        hasher: Hasher | None,
        function: DigestFunction,
        off_loop_bytes: int,
    ) -> None:
        self._source = source
        self._digest = digest
        self._verify_size = verify_size
        self._hasher = hasher
        self._function = function
        self._off_loop_bytes = off_loop_bytes
        self._hashing: asyncio.Future[None] | None = None
        self._received = 0
        #: A blob of another size never comes to its end, so the backend may rely on this one.
        self.size = digest.size_bytes if verify_size else source.size

    async def read(self) -> Chunk:
        chunk = await self._source.read()
        if self._hashing is not None:
            await self._hashing
            self._hashing = None
        size = len(chunk)
        if not size:
            self._check()
            return chunk
        self._received += size
        if self._verify_size and self._received > self._digest.size_bytes:
            raise _wrong_size(self._digest, self._received, "or more ")
        if self._hasher is not None:
            if self._off_loop_bytes and size >= self._off_loop_bytes:
                loop = asyncio.get_running_loop()
                self._hashing = loop.run_in_executor(None, self._hasher.update, chunk)
            else:
                self._hasher.update(chunk)
        return chunk

    def _check(self) -> None:
        """Raise unless everything was right."""
        if self._verify_size and self._received != self._digest.size_bytes:
            raise _wrong_size(self._digest, self._received)
        if self._hasher is not None and (got := self._hasher.hexdigest()) != self._digest.hash:
            raise invalid_argument(
                f"the {self._received} bytes sent as {self._digest} have the "
                f"{self._function.name} hash {got}"
            )


def _wrong_size(digest: Digest, size: int, more: str = "") -> Exception:
    return invalid_argument(
        f"{size} bytes {more}were sent as {digest}, which has {digest.size_bytes}"
    )
