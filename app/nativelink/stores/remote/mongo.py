"""The `experimental_mongo` store: one document per blob, as NativeLink keeps them.

A document is `{_id: "{key_prefix}{key}", data: <binary>, size: <int64>}`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from bson.binary import Binary
from bson.int64 import Int64
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from nativelink.core.digest import StoreKey, is_empty
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    invalid_argument,
    out_of_range,
    unavailable,
)
from nativelink.core.retry import Retry, Tries
from nativelink.core.streams import Chunk, Sink, Source, drain
from nativelink.stores.store import absent

__all__ = ["MAX_DOCUMENT_BYTES", "MongoStore"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

#: The largest document that MongoDB keeps ("MongoDB Limits and Thresholds").
MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
#: What is in the statement that writes a document, besides its name and data. Servers differ in
#: whether that statement, too, must fit into the size of a document.
_OVERHEAD_BYTES: Final = 1024
#: Keys that one query asks for: 10,000 names of 80 bytes are a fraction of a message (48 MB).
_KEYS_PER_QUERY: Final = 10_000
#: Tries of a write that met another one of the same key.
_RACES: Final = 5
#: Tries of an operation whose connection failed, within its time limit: a restart, or an election
#: of a new primary, takes seconds.
_RETRY: Final = Retry(8, 0.05, 0.5)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
#: Error codes of MongoDB: Unauthorized, AuthenticationFailed.
_FORBIDDEN: Final = frozenset({13, 18})


class MongoStore:
    """Blobs as documents in a collection. Entered while it is used.

    A whole document is in memory while it is read or written, which is the size limit's worth at
    most.

    Args:
        connection_string: `mongodb://…` or `mongodb+srv://…`.
        database: its name.
        collection: its name.
        key_prefix: stands before every key.
        read_chunk_size: bytes that a reader is given at once.
        connect_timeout_s: seconds until no server counts as found.
        command_timeout_s: seconds for one operation, with all its tries.
        write_concern: servers that must confirm a write (`w`), whether they must have it in their
            journal (`journal`), and how long that may take (`wTimeoutMS`); empty: as the
            connection string says.
        max_requests: operations in flight; further ones wait. None: no limit.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a connection string that is none.
    """

    def __init__(
        self,
        connection_string: str,
        *,
        database: str,
        collection: str,
        key_prefix: str = "",
        read_chunk_size: int = 65_536,
        connect_timeout_s: float = 3.0,
        command_timeout_s: float = 10.0,
        write_concern: Mapping[str, Any] | None = None,
        max_requests: int | None = None,
    ) -> None:
        connect_ms = round(connect_timeout_s * 1000)
        try:
            self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
                connection_string,
                appname="nativelink",
                connectTimeoutMS=connect_ms,
                serverSelectionTimeoutMS=connect_ms,
                timeoutMS=round(command_timeout_s * 1000),
                **(write_concern or {}),
            )
        except (ConfigurationError, InvalidURI, ValueError) as error:
            # Quoted may be the rest of a password that has a "/" in it.
            said = _QUOTED.sub("…", str(error))
            raise invalid_argument(f"malformed connection_string: {said}") from None
        self._collection: AsyncCollection[dict[str, Any]] = self._client[database][collection]
        self._timeout_s = command_timeout_s
        self._prefix = key_prefix
        self._chunk_bytes = read_chunk_size
        self._permits = asyncio.Semaphore(max_requests) if max_requests else None
        self._indexed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    @property
    def collection(self) -> AsyncCollection[dict[str, Any]]:
        """Where the documents are."""
        return self._collection

    async def check(self) -> None:
        """Return if MongoDB answers.

        Raises:
            NativeLinkError: it does not.
        """
        await self._asked(lambda: self._client.admin.command("ping"))

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        names = [self._name(key) for key in keys]
        sizes: dict[str, int] = {}
        wanted = list(dict.fromkeys(names))

        async def look_up(some: list[str]) -> None:
            cursor = self._collection.find(
                {"_id": {"$in": some}}, {"size": 1}, batch_size=len(some)
            )
            async for document in cursor:
                sizes[document["_id"]] = int(document["size"])

        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            await self._asked(partial(look_up, wanted[start : start + _KEYS_PER_QUERY]))
        return [
            0 if is_empty(key) else sizes.get(name) for key, name in zip(keys, names, strict=True)
        ]

    async def get(
        self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
    ) -> None:
        data: bytes = b""
        if not is_empty(key):
            name = self._name(key)
            document = await self._asked(
                lambda: self._collection.find_one({"_id": name}, {"data": 1})
            )
            if document is None:
                raise absent(key)
            data = document["data"]
        if offset > len(data):
            raise out_of_range(f"offset {offset} is beyond the {len(data)} bytes of {key}")
        stop = len(data) if limit is None else min(len(data), offset + limit)
        view = memoryview(data)
        for start in range(offset, stop, self._chunk_bytes):
            await sink.write(view[start : min(start + self._chunk_bytes, stop)])

    async def put(self, key: StoreKey, source: Source) -> int:
        if is_empty(key):
            return await drain(source)
        name = self._name(key)
        limit = MAX_DOCUMENT_BYTES - _OVERHEAD_BYTES - len(name.encode())
        if source.size is not None and source.size > limit:
            raise _too_large(key, source.size, limit)
        chunks: list[Chunk] = []
        size = 0
        while chunk := await source.read():
            size += len(chunk)
            if size > limit:
                raise _too_large(key, size, limit)
            chunks.append(chunk)
        change = {"$set": {"data": Binary(b"".join(chunks)), "size": Int64(size)}}
        if not self._indexed:
            await self._index()
        for left in reversed(range(_RACES)):
            try:
                await self._asked(
                    lambda: self._collection.update_one({"_id": name}, change, upsert=True)
                )
                break
            except DuplicateKeyError as error:
                # Two first writes of a key met; the next try finds the document.
                if not left:
                    raise unavailable(f"{key} is written by too many at once") from error
        return size

    def _name(self, key: StoreKey) -> str:
        return f"{self._prefix}{key}"

    async def _index(self) -> None:
        """See to the index that NativeLink makes, so that either program finds it."""
        self._indexed = True
        try:
            await self._asked(lambda: self._collection.create_index("size"))
        except NativeLinkError as error:
            # It serves people who look for what takes the room; the store does without.
            _logger.warning("no index on the sizes of blobs: %s", error)

    async def _asked(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """What `attempt` returns, under one permit and with the driver's errors as ours.

        A connection that cannot be made, or that breaks, is tried again while there is time:
        asking twice, or writing the same document twice, changes nothing. The driver itself does
        so for some operations, once, and not for writes to a server that stands alone.
        """
        if self._permits is None:
            return await self._tried(attempt)
        async with self._permits:
            return await self._tried(attempt)

    async def _tried(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        tries: Tries | None = None
        failed: NativeLinkError | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        return await attempt()
                    except DuplicateKeyError:
                        raise
                    except PyMongoError as error:
                        failed = _as_ours(error)
                        if not isinstance(error, ConnectionFailure):
                            raise failed from error
                        failed.__cause__ = error
                    if tries is None:
                        tries = _RETRY.tries()
                    await tries.after(failed)
        except TimeoutError as error:
            if failed is None:
                failed = unavailable(f"MongoDB: no answer within {self._timeout_s:g} s")
            raise failed from error


def _too_large(key: StoreKey, size: int, limit: int) -> NativeLinkError:
    return invalid_argument(
        f"{key} has {size} bytes or more: MongoDB holds up to {limit} bytes of a blob (documents "
        f"of {MAX_DOCUMENT_BYTES}); larger ones belong into another store (size_partitioning)"
    )


def _as_ours(error: PyMongoError) -> NativeLinkError:
    if isinstance(error, DocumentTooLarge):
        code = Code.INVALID_ARGUMENT
    elif (
        error.timeout
        or isinstance(error, ConnectionFailure | ExecutionTimeout | WTimeoutError)
        or error.has_error_label("RetryableWriteError")
    ):
        code = Code.UNAVAILABLE
    elif isinstance(error, OperationFailure) and error.code in _FORBIDDEN:
        code = Code.PERMISSION_DENIED
    else:
        code = Code.INTERNAL
    return NativeLinkError(code, f"MongoDB: {error}")
