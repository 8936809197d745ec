"""Requests' header blocks: decoded, checked (RFC 9113 section 8.3), and remembered by their bytes.

A client that repeats a call sends the very same block again, as every field stands in the dynamic
table by then. Such a block means the same as long as the table stays as it is, so its request
head is found with one dictionary look-up; any block that changes the table empties the cache.
"""

from __future__ import annotations

from typing import Any, Final

from nativelink.transport.fields import Field, FieldDecoder

__all__ = ["HeaderReader", "MalformedRequestError", "RequestHead", "content_length_of"]

#: Entries of a cache; a call's block seldom has more than a handful of shapes per connection.
_MAX_CACHED: Final = 128
#: Longer blocks are not worth the memory: 128 of them are 128 KiB at most.
_MAX_CACHED_BLOCK_BYTES: Final = 1024

# RFC 9113 section 8.2.2.
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_COLON: Final = 0x3A
_MAX_LENGTH_DIGITS: Final = 19


class MalformedRequestError(Exception):
    """A request that RFC 9113 section 8.1.1 calls malformed: its stream dies, not more."""


class RequestHead:
    """A request's pseudo-header fields and fields; shared by all requests with the same block.

    Attributes:
        fields: the fields that are no pseudo-header fields, in order.
        content_length: what `content-length` announces, or None.
        oversized: the list was longer than allowed; `fields` is not all of it.
        plan: what the driver made of this head, kept with it so that it is made once.
    """

    __slots__ = (
        "authority",
        "content_length",
        "fields",
        "method",
        "oversized",
        "path",
        "plan",
        "protocol",
        "scheme",
    )

    def __init__(self) -> None:
        self.method = b""
        self.scheme = b""
        self.path = b""
        self.authority = b""
        self.protocol = b""
        self.fields: tuple[Field, ...] = ()
        self.content_length: int | None = None
        self.oversized = False
        self.plan: Any = None

    def __repr__(self) -> str:
        return f"<{self.method.decode('latin-1')} {self.path.decode('latin-1')}>"

    @classmethod
    def check(cls, fields: list[Field], *, connect_protocol: bool = False) -> RequestHead:
        """The head that `fields` describe.

        Raises:
            MalformedRequestError: with the reason.
        """
        head = cls()
        seen: dict[bytes, bytes] = {}
        for name, value in fields:
            if name[0] != _COLON:
                break
            if name in seen:
                raise MalformedRequestError(f"{name!r} twice")
            seen[name] = value
        head.fields = tuple(fields[len(seen) :]) if seen else tuple(fields)
        head.method = seen.pop(b":method", b"")
        head.scheme = seen.pop(b":scheme", b"")
        head.path = seen.pop(b":path", b"")
        head.authority = seen.pop(b":authority", b"")
        if connect_protocol:
            head.protocol = seen.pop(b":protocol", b"")
        if seen:
            raise MalformedRequestError(f"unknown pseudo-header fields {sorted(seen)}")
        if head.method == b"CONNECT" and not head.protocol:
            # RFC 9113 section 8.5: only :authority goes with it.
            if not head.authority or head.scheme or head.path:
                raise MalformedRequestError("CONNECT with anything but :authority")
        elif not head.method or not head.scheme or not head.path:
            raise MalformedRequestError(":method, :scheme and :path are each needed once")
        for name, value in head.fields:
            if name[0] == _COLON:
                raise MalformedRequestError(f"{name!r} after a field or twice")
            if name == b"content-length":
                length = content_length_of(value)
                if length is None or head.content_length not in {None, length}:
                    raise MalformedRequestError(f"content-length {value[:40]!r}")
                head.content_length = length
            elif name == b"te":
                if value != b"trailers":
                    raise MalformedRequestError("te with anything but trailers")
            elif name in _CONNECTION_SPECIFIC:
                raise MalformedRequestError(f"connection-specific field {name!r}")
        return head


def content_length_of(value: bytes) -> int | None:
    """The number that a content-length says, or None if it says none (RFC 9110 section 8.6)."""
    return int(value) if value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS else None


class HeaderReader:
    """Turns header blocks of one connection into request heads.

    Args:
        max_list_bytes: see `FieldDecoder`.
        connect_protocol: whether `:protocol` is allowed (RFC 8441).
    """

    __slots__ = ("_connect_protocol", "_decoder", "cache")

    def __init__(self, max_list_bytes: int, *, connect_protocol: bool = False) -> None:
        self._decoder = FieldDecoder(max_list_bytes)
        self._connect_protocol = connect_protocol
        #: Look here first; `request` fills it.
        self.cache: dict[bytes, RequestHead] = {}

    def request(self, block: bytes) -> RequestHead:
        """The head of a block that is not in the cache.

        Raises:
            FieldDecodingError: the connection is lost.
            MalformedRequestError: the stream is lost.
        """
        fields = self._decode(block)
        decoder = self._decoder
        if decoder.oversized:
            # Whatever else may be wrong with it: the answer names the limit.
            head = RequestHead()
            head.oversized = True
            return head
        if decoder.malformed:
            raise MalformedRequestError("a field name or value with forbidden octets")
        head = RequestHead.check(fields, connect_protocol=self._connect_protocol)
        if not decoder.table_changed and len(block) <= _MAX_CACHED_BLOCK_BYTES:
            if len(self.cache) >= _MAX_CACHED:
                self.cache.clear()
            self.cache[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """Decode a block of a stream that is not served, for the table's sake.

        Raises:
            FieldDecodingError: the connection is lost.
        """
        self._decode(block)

    def trailers(self, block: bytes) -> None:
        """Decode and check trailers; gRPC clients send none, and none are kept.

        Raises:
            FieldDecodingError: the connection is lost.
            MalformedRequestError: the stream is lost.
        """
        fields = self._decode(block)
        if self._decoder.malformed or any(name[0] == _COLON for name, _ in fields):
            raise MalformedRequestError("malformed trailers")

    def _decode(self, block: bytes) -> list[Field]:
        fields = self._decoder.decode(block)
        if self._decoder.table_changed:
            self.cache.clear()
        return fields
