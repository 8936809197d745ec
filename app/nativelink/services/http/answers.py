"""A stored value as the answer to GET or HEAD: whole, in part, or compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpSink
from nativelink.core.streams import Chunk
from nativelink.core.zstandard import Compressor
from nativelink.services.http.ranges import Part, UnsatisfiableError, parse_range
from nativelink.services.http.refusal import RefusedError
from nativelink.stores.store import Store, has_one

__all__ = ["Value", "answer_value", "header"]

_OCTETS: Final = "application/octet-stream"
#: A value whose size is not known beforehand is held so far: most entries are smaller, and then
#: one question to the store is enough. It is one chunk of most stores.
_HELD_BYTES: Final = 256 * 1024
#: Below this a compressed answer is no smaller, for the fields that it needs.
_MIN_ZSTD_BYTES: Final = 1024
#: A value that was there when its size was asked for, and is not any more.
_LOST: Final = frozenset({Code.NOT_FOUND, Code.OUT_OF_RANGE})
_FOREVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Value:
    """What a path stands for.

    Attributes:
        store: where it is.
        keys: its possible keys, the best first.
        what: for people, such as `blob 4d1e…`.
        is_blob: the bytes are named by their hash: their size is the digest's, and what is under
            the path never changes.
        headers: further fields of the answer.
    """

    store: Store
    keys: Sequence[StoreKey]
    what: str
    is_blob: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, status: int, **headers: str) -> HttpResponse:
        """The head of an answer that carries the value."""
        fields = {
            # What is stored here is nobody's page: a browser shall not take it for one.
            "x-content-type-options": "nosniff",
            "accept-ranges": "bytes",
            "vary": "accept-encoding",
            **self.headers,
        }
        key = self.keys[0]
        if self.is_blob and isinstance(key, Digest):
            fields["etag"] = f'"{key.hash}"'
            fields["cache-control"] = _FOREVER
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return HttpResponse(status, content_type=_OCTETS, headers=fields)

    def absent(self) -> RefusedError:
        """404."""
        return RefusedError(404, f"{self.what} is not here")


def header(request: HttpRequest, name: bytes) -> str:
    """The first value of a request's field, empty if there is none. `name` is lower case."""
    for key, value in request.headers:
        if key == name:
            return value.decode("latin-1")
    return ""


async def answer_value(request: HttpRequest, sink: HttpSink, value: Value) -> HttpResponse | None:
    """Answer GET or HEAD with a value.

    Raises:
        RefusedError: 404; 416 for a range that has no byte.
        NativeLinkError: what the store says, other than NOT_FOUND.
    """
    wanted = header(request, b"range")
    matches = header(request, b"if-none-match")
    if request.method == "HEAD" or wanted or matches:
        key, size = await _find(value)
        if value.is_blob and _is_match(matches, value):
            sink.begin(value.response(304), size)
            return None
        if request.method == "HEAD":
            # Ranges are of GET alone (RFC 9110 section 14.2).
            sink.begin(value.response(200), size)
            return None
        part = _part(wanted, size, value, header(request, b"if-range"))
        if part is not None:
            await _answer_part(sink, value, key, part, size)
            return None
    zstd = _accepts_zstd(header(request, b"accept-encoding"))
    for key in value.keys:
        answer = _Answer(sink, value, key, zstd=zstd)
        try:
            await value.store.get(key, answer)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND and not answer.has_begun:
                continue
            raise
        return await answer.end()
    raise value.absent()


async def _find(value: Value) -> tuple[StoreKey, int]:
    sizes = await value.store.has(value.keys)
    for key, size in zip(value.keys, sizes, strict=True):
        if size is not None:
            return key, size
    raise value.absent()


def _is_match(matches: str, value: Value) -> bool:
    """Whether If-None-Match names the blob, compressed or not (RFC 9110 section 13.1.2)."""
    key = value.keys[0]
    if not matches or not isinstance(key, Digest):
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in matches.split(",")}
    return bool(tags & {"*", key.hash})


def _part(wanted: str, size: int, value: Value, if_range: str) -> Part | None:
    """The part that is asked for, None for the whole.

    Raises:
        RefusedError: 416.
    """
    key = value.keys[0]
    if if_range and not (value.is_blob and isinstance(key, Digest) and if_range == f'"{key.hash}"'):
        return None
    try:
        return parse_range(wanted, size)
    except UnsatisfiableError:
        raise RefusedError(
            416,
            f"range {wanted[:80]!r} is beyond the {size} bytes of {value.what}",
            {"content-range": f"bytes */{size}"},
        ) from None


async def _answer_part(sink: HttpSink, value: Value, key: StoreKey, part: Part, size: int) -> None:
    last = part.offset + part.length - 1
    head = value.response(206, content_range=f"bytes {part.offset}-{last}/{size}")
    answer = _PartAnswer(sink, head, part.length)
    try:
        await value.store.get(key, answer, offset=part.offset, limit=part.length)
    except NativeLinkError as error:
        if error.code in _LOST and not answer.has_begun:
            raise value.absent() from error
        raise
    if not answer.has_begun:
        raise value.absent()


class _PartAnswer:
    """A part on its way to the client. The head waits for the first bytes.

    Until then the value may turn out to be gone, or to be another one, that is shorter.
    """

    def __init__(self, sink: HttpSink, head: HttpResponse, length: int) -> None:
        self._sink = sink
        self._head = head
        self._length = length
        self.has_begun = False

    async def write(self, chunk: Chunk, /) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._sink.begin(self._head, self._length)
        await self._sink.write(chunk)


class _Answer:
    """A value on its way to the client: the sink that the store writes into.

    The head waits for the first bytes, as before them there may be none; and for all of them up to
    `_HELD_BYTES`, where their number is not known.
    """

    def __init__(self, sink: HttpSink, value: Value, key: StoreKey, *, zstd: bool) -> None:
        self._sink = sink
        self._value = value
        self._key = key
        self._zstd = zstd
        self._size = key.size_bytes if value.is_blob and isinstance(key, Digest) else None
        self._held: list[Chunk] = []
        self._held_bytes = 0
        self._given_bytes = 0
        self._compressor: Compressor | None = None
        self.has_begun = False

    def begin(self, head: HttpResponse, length: int | None) -> None:
        """Send the head."""
        self.has_begun = True
        self._sink.begin(head, length)

    async def write(self, chunk: Chunk, /) -> None:
        self._given_bytes += len(chunk)
        if self.has_begun:
            await self._send(chunk)
            return
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._size is None and self._held_bytes > _HELD_BYTES and not self._zstd:
            self._size = await has_one(self._value.store, self._key)
            if self._size is None:
                raise NativeLinkError(Code.ABORTED, f"{self._value.what} was evicted meanwhile")
        if self._size is not None or self._held_bytes > _HELD_BYTES:
            await self._release()

    async def _release(self) -> None:
        """Send the head, and what was held."""
        if self._zstd and (self._size is None or self._size >= _MIN_ZSTD_BYTES):
            self._compressor = Compressor()
            self.begin(self._compressed(), None)
        else:
            self.begin(self._value.response(200), self._size)
        held, self._held = self._held, []
        for chunk in held:
            await self._send(chunk)

    def _compressed(self) -> HttpResponse:
        head = self._value.response(200, content_encoding="zstd")
        if "etag" in head.headers:
            # Other bytes for the same thing: a weak tag says that (RFC 9110 section 8.8.1).
            head = self._value.response(
                200, content_encoding="zstd", etag=f"W/{head.headers['etag']}"
            )
        return head

    async def _send(self, chunk: Chunk) -> None:
        if self._compressor is None:
            await self._sink.write(chunk)
        elif packed := await self._compressor.compress([chunk], last=False):
            await self._sink.write(packed)

    async def end(self) -> HttpResponse | None:
        """The store gave everything: end the answer, or give it whole.

        Raises:
            NativeLinkError: DATA_LOSS if that is not all, which a client could not see where the
                answer tells no length.
        """
        if self._size is not None and self._given_bytes != self._size:
            raise NativeLinkError(
                Code.DATA_LOSS,
                f"{self._given_bytes} of the {self._size} bytes of {self._value.what} came",
            )
        if not self.has_begun:
            return await self._whole()
        if self._compressor is not None and (
            rest := await self._compressor.compress([], last=True)
        ):
            await self._sink.write(rest)
        return None

    async def _whole(self) -> HttpResponse:
        head, body = self._value.response(200), b"".join(self._held)
        if self._zstd and len(body) >= _MIN_ZSTD_BYTES:
            head, body = self._compressed(), await Compressor().compress([body], last=True)
        return HttpResponse(200, body, content_type=head.content_type, headers=head.headers)


def _accepts_zstd(text: str) -> bool:
    """Whether Accept-Encoding names zstd, other than to refuse it (RFC 9110 section 12.5.3)."""
    for item in text.split(","):
        coding, _, weight = item.partition(";")
        if coding.strip().lower() == "zstd":
            return weight.replace(" ", "").lower() not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
