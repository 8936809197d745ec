"""Whole blobs and parts of them through an upstream's ByteStream.

A read that breaks goes on where it stopped. A write can be tried again only until the first byte
was taken from its source, which nobody can rewind.
Source: google.bytestream; REAPI v2, ContentAddressableStorage, for the names.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from nativelink.core.channel import Channel
from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.eager import begin
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    internal,
    invalid_argument,
    missing_blob,
    unavailable,
)
from nativelink.core.retry import Retry
from nativelink.core.streams import Chunk, CountingSink, Sink, Source
from nativelink.core.varint import varint
from nativelink.core.zstandard import Compressor, DecompressingSink
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.stores.remote.call_metadata import Headers

__all__ = ["Asked", "ByteStreamClient"]

_READ: Final = "/google.bytestream.ByteStream/Read"
_WRITE: Final = "/google.bytestream.ByteStream/Write"

#: Blob bytes of one message; NativeLink takes 2 MiB, everybody takes messages of 4 MiB. A larger
#: one saves nothing any more: a message costs 30 us, 1 MiB of bytes 250 us.
_MESSAGE_BYTES: Final = 1024 * 1024

#: Tags of the `data` fields of ReadResponse and WriteRequest (both number 10, length-delimited).
_DATA_TAG: Final = 10 << 3 | 2


class Asked(NamedTuple):
    """On whose behalf a call is made: requests of equal ones may travel together.

    Attributes:
        function: the digest function of the keys.
        headers: request headers.
    """

    function: DigestFunction
    headers: Headers


class ByteStreamClient:
    """Reads and writes blobs of one upstream instance.

    Args:
        channel: the connections.
        instance_name: used upstream.
        legacy_names: leave the digest function out of names.
        timeout_s: of each call; None: as long as it needs.
        retry: what is tried again.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        instance_name: str,
        legacy_names: bool,
        timeout_s: float | None,
        retry: Retry,
    ) -> None:
        self._channel = channel
        self._instance = f"{instance_name}/" if instance_name else ""
        self._legacy_names = legacy_names
        self._timeout_s = timeout_s
        self._retry = retry

    def _name(self, digest: Digest, function: DigestFunction, *, compressed: bool) -> str:
        blobs = "compressed-blobs/zstd" if compressed else "blobs"
        # The names of old functions MUST be left out (REAPI v2); casd refuses `sha256`.
        named = not self._legacy_names and function is not DigestFunction.SHA256
        token = f"{function.token}/" if named else ""
        return f"{blobs}/{token}{digest.hash}/{digest.size_bytes}"

    async def read(
        self,
        digest: Digest,
        sink: Sink,
        asked: Asked,
        *,
        offset: int = 0,
        limit: int | None = None,
        compressed: bool = False,
    ) -> None:
        """Write the bytes `[offset, offset + limit)` of a blob, cut at its end, into `sink`.

        Args:
            digest: the blob; its size is taken to be right.
            sink: takes the bytes.
            asked: on whose behalf.
            offset: less than the blob's size.
            limit: more than 0.
            compressed: transfer the blob zstd-compressed; for whole blobs only.
        """
        end = digest.size_bytes
        if limit is not None:
            end = min(end, offset + limit)
        counting = CountingSink(sink)
        tries = self._retry.tries()
        reached = 0
        while True:
            at = offset + counting.size
            # What is left of an interrupted read is read plain: peers differ in what an offset
            # into a compressed blob means.
            whole = compressed and not counting.size
            try:
                await self._read_once(digest, counting, asked, at, end, compressed=whole)
            except NativeLinkError as error:
                if counting.failed:
                    raise
                if offset + counting.size == end:
                    return
                if error.code is Code.NOT_FOUND:
                    if counting.size:
                        raise unavailable(f"blob {digest} went away while it was read") from error
                    raise missing_blob(digest) from error
                if counting.size > reached:
                    reached = counting.size
                    tries.renew()
                await tries.after(error)
            else:
                return

    async def _read_once(
        self,
        digest: Digest,
        sink: Sink,
        asked: Asked,
        start: int,
        end: int,
        *,
        compressed: bool,
    ) -> None:
        name = self._name(digest, asked.function, compressed=compressed)
        request = bs.ReadRequest(
            resource_name=self._instance + name,
            read_offset=start,
            read_limit=0 if end == digest.size_bytes else end - start,
        )
        answers = self._channel.server_stream(
            _READ,
            request.SerializeToString(),
            metadata=asked.headers,
            timeout_s=self._timeout_s,
        )
        plain: _ExactSink | DecompressingSink
        plain = (DecompressingSink if compressed else _ExactSink)(sink, end - start)
        async with aclosing(answers):
            async for answer in answers:
                data = _data_of(answer)
                if data:
                    await plain.write(data)
        plain.end()

    async def write(
        self, digest: Digest, source: Source, asked: Asked, *, compressed: bool = False
    ) -> int:
        """Send a blob. The last piece is sent when the source has ended, not before.

        Raises:
            NativeLinkError: INVALID_ARGUMENT if the source has another size than the digest; what
                the upstream says.
        """
        tries = self._retry.tries()
        while True:
            upload = _Upload(digest, source, Compressor() if compressed else None)
            name = self._name(digest, asked.function, compressed=compressed)
            full_name = f"{self._instance}uploads/{uuid.uuid4()}/{name}"
            try:
                async with aclosing(upload.messages(full_name)) as messages:
                    answer = await self._channel.client_stream(
                        _WRITE, messages, metadata=asked.headers, timeout_s=self._timeout_s
                    )
            except NativeLinkError as error:
                await upload.abandon()
                if upload.touched:
                    raise
                await tries.after(error)
            except BaseException:
                await upload.abandon()
                raise
            else:
                await upload.finish()
                upload.check(bs.WriteResponse.FromString(answer).committed_size)
                return digest.size_bytes


class _Upload:
    """One try of sending a source.

    The upstream may answer at any time, which ends the sending; the reading of the source goes on
    unharmed, because it must come to its end all the same (contract 9).
    """

    def __init__(self, digest: Digest, source: Source, compressor: Compressor | None) -> None:
        self._digest = digest
        self._source = source
        self._compressor = compressor
        self._reading: asyncio.Task[Chunk] | None = None
        self._read_bytes = 0
        self._sent_bytes = 0
        self._ended = False
        #: Whether anything was asked of the source.
        self.touched = False

    async def messages(self, name: str) -> AsyncGenerator[bytes, None]:
        """`WriteRequest`s; only the first one has the name."""
        parts: list[Chunk] = []
        size = 0
        while chunk := await self._next():
            if size + len(chunk) > _MESSAGE_BYTES and parts:
                yield await self._message(name, parts)
                name, parts, size = "", [], 0
            if len(chunk) > _MESSAGE_BYTES:
                view = memoryview(chunk)
                while len(view) > _MESSAGE_BYTES:
                    yield await self._message(name, [view[:_MESSAGE_BYTES]])
                    name = ""
                    view = view[_MESSAGE_BYTES:]
                chunk = view
            parts.append(chunk)
            size += len(chunk)
        yield await self._message(name, parts, last=True)

    async def _message(self, name: str, parts: list[Chunk], *, last: bool = False) -> bytes:
        if self._compressor is not None:
            parts = [await self._compressor.compress(parts, last=last)]
        size = sum(map(len, parts))
        head = bs.WriteRequest(
            resource_name=name, write_offset=self._sent_bytes, finish_write=last
        ).SerializeToString()
        self._sent_bytes += size
        return b"".join((head, bytes((_DATA_TAG,)), varint(size), *parts))

    async def _next(self) -> Chunk:
        """The next piece of the source. Cancelling it loses nothing: the next call gets it."""
        if self._ended:
            return b""
        self.touched = True
        if self._reading is None:
            begun = begin(self._source.read(), asyncio.get_running_loop())
            if isinstance(begun, tuple):
                return self._check_size(begun[0])
            self._reading = begun
        reading = self._reading
        await asyncio.wait((reading,))
        self._reading = None
        return self._check_size(reading.result())

    def _check_size(self, chunk: Chunk) -> Chunk:
        self._read_bytes += len(chunk)
        size = self._digest.size_bytes
        if not chunk:
            self._ended = True
            if self._read_bytes < size:
                raise invalid_argument(f"{self._digest}: only {self._read_bytes} bytes were put")
        elif self._read_bytes > size:
            raise invalid_argument(f"{self._digest}: more than {size} bytes were put")
        return chunk

    async def finish(self) -> None:
        """Read what the upstream did not want any more."""
        try:
            while await self._next():
                pass
        except BaseException:
            await self.abandon()
            raise

    async def abandon(self) -> None:
        """Stop reading the source."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait((reading,))
            if not reading.cancelled():
                reading.exception()

    def check(self, committed_size: int) -> None:
        """Whether the upstream has everything.

        Raises:
            NativeLinkError: DATA_LOSS if it says that it has not.
        """
        if self._compressor is None:
            complete = committed_size == self._digest.size_bytes
        else:
            # -1 is the answer of who had the blob already (REAPI v2).
            complete = committed_size in {-1, self._sent_bytes}
        if not complete:
            raise NativeLinkError(
                Code.DATA_LOSS, f"the upstream took {committed_size} bytes of {self._digest}"
            )


class _ExactSink:
    """Passes on exactly `size` bytes; more or less is the upstream's fault."""

    __slots__ = ("_left", "_sink", "_size")

    def __init__(self, sink: Sink, size: int) -> None:
        self._sink = sink
        self._size = self._left = size

    async def write(self, chunk: Chunk, /) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            raise NativeLinkError(
                Code.DATA_LOSS, f"the upstream sent more than the {self._size} bytes asked for"
            )
        await self._sink.write(chunk)

    def end(self) -> None:
        if self._left:
            raise NativeLinkError(
                Code.DATA_LOSS,
                f"the upstream sent {self._size - self._left} of the {self._size} bytes asked for",
            )


def _data_of(answer: bytes) -> Chunk:
    """The blob bytes of a `ReadResponse`, not copied."""
    if len(answer) > 1 and answer[0] == _DATA_TAG:
        size = shift = 0
        for at in range(1, min(len(answer), 6)):
            size |= (answer[at] & 0x7F) << shift
            if answer[at] < 0x80:
                if at + 1 + size == len(answer):
                    return memoryview(answer)[at + 1 :]
                break
            shift += 7
    # Another shape: other fields, or a number that is longer than need be.
    try:
        return bs.ReadResponse.FromString(answer).data
    except DecodeError as error:
        raise internal(f"the upstream sent what is no ReadResponse: {error}") from error
