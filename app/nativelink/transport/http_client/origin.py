"""What a URL leads to, within what the operator allows.

Every step of a redirect is held against the same rules as the first: scheme, host, address.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import h11

from nativelink.core.errors import (
    Code,
    NativeLinkError,
    context,
    invalid_argument,
    not_found,
    permission_denied,
    unavailable,
)
from nativelink.core.hosts import HostPattern
from nativelink.core.streams import Sink
from nativelink.transport.http_client.addresses import (
    AddressPolicy,
    Lookup,
    SystemLookup,
    resolve,
)
from nativelink.transport.http_client.exchange import Exchange, Header, open_exchange
from nativelink.transport.http_client.urls import HttpUrl, parse_url, require_allowed

__all__ = ["HttpOrigin", "OriginSettings", "origin_tls"]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ASCII: Final = bytes(range(128))
#: Browsers follow 20; a chain that is longer leads nowhere.
_MAX_REDIRECTS: Final = 20
#: What may be asked of a server that the client did not name: nothing that could be a secret.
_HARMLESS: Final = frozenset({"accept", "accept-language", "user-agent"})
_TRY_LATER: Final = frozenset({408, 425, 429})
_FORBIDDEN: Final = frozenset({401, 402, 403, 407, 451})
_GONE: Final = frozenset({404, 410})
#: Of decompressed contents at a time.
_INFLATED_BYTES: Final = 256 * 1024
#: zlib's number for a window of 32 KiB in a gzip file.
_GZIP: Final = 31
#: Of compressed contents at a time: what stands behind the end of a member is copied.
_SLICE_BYTES: Final = 16 * 1024
#: A gzip file may have several members (RFC 1952 section 2.2), each of which takes 10 us, whatever
#: it holds. Beyond so many, each must hold so many bytes on average.
_FREE_MEMBERS: Final = 100
_MEAN_MEMBER_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """Limits of what is downloaded.

    Attributes:
        allowed_hosts: who may be asked; nobody, if there is none.
        addresses: where they may be.
        allow_http: whether plain HTTP may be used.
        max_size_bytes: of a download.
        connect_timeout_s: for one address, with its TLS handshake.
        idle_timeout_s: without a byte.
        user_agent: what requests without a User-Agent say.
    """

    allowed_hosts: tuple[HostPattern, ...]
    addresses: AddressPolicy
    allow_http: bool = False
    max_size_bytes: int = 4 * 1024**3
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    user_agent: str = "nativelink"


def origin_tls(ca_file: Path | None) -> ssl.SSLContext:
    """TLS that trusts the machine's authorities, and those of a file if one is named.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a file that cannot be used.
    """
    tls = ssl.create_default_context()
    if ca_file is not None:
        try:
            tls.load_verify_locations(ca_file)
        except OSError as error:
            raise invalid_argument(f"ca_file {ca_file} cannot be used: {error}") from error
    return tls


class HttpOrigin:
    """Reads what URLs lead to (`services.remote_asset.downloads.Origin`).

    Args:
        settings: limits.
        tls: for https.
        lookup: finds the addresses of hosts; None: as the machine does.
    """

    def __init__(
        self, settings: OriginSettings, tls: ssl.SSLContext, *, lookup: Lookup | None = None
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._lookup = SystemLookup() if lookup is None else lookup

    async def read(self, uri: str, headers: Sequence[Header], sink: Sink) -> None:
        """Write what a URI leads to into `sink`.

        Headers go to the server of the URI; of them, a server that it redirects to gets only such
        as cannot be a secret.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for a URI that cannot be downloaded;
                PERMISSION_DENIED for one that may not, or where the origin refuses; NOT_FOUND;
                RESOURCE_EXHAUSTED for contents that are too large; UNAVAILABLE, `retryable`, for
                what may go better later; ABORTED for any other answer.
        """
        url: HttpUrl = parse_url(uri)
        asked = url.origin
        sent = _complete(headers, self._settings.user_agent)
        for _ in range(_MAX_REDIRECTS + 1):
            require_allowed(url, self._settings.allowed_hosts, allow_http=self._settings.allow_http)
            with context(url.public):
                location = await self._ask(url, sent, sink)
                if location is None:
                    return
                url = url.join(location)
            if url.origin != asked:
                # For good: a server that was not named might redirect back with other intentions.
                sent = [each for each in sent if each[0].lower() in _HARMLESS]
        raise _final(Code.ABORTED, f"{parse_url(uri).public} redirects more than 20 times")

    async def _ask(self, url: HttpUrl, headers: Sequence[Header], sink: Sink) -> str | None:
        """Where the server sends us, or None when the contents were written."""
        settings = self._settings
        addresses = await resolve(url.host, url.port, settings.addresses, self._lookup)
        try:
            async with open_exchange(
                url,
                addresses,
                [*headers, ("Accept-Encoding", "identity")],
                tls=self._tls,
                connect_timeout_s=settings.connect_timeout_s,
                idle_timeout_s=settings.idle_timeout_s,
            ) as exchange:
                if exchange.status in _REDIRECTS:
                    location = exchange.field("location")
                    if location is None:
                        raise _final(Code.ABORTED, f"{_answer(exchange)} without a Location")
                    # Octets that no URI has stand for themselves; as text they would be others.
                    return quote(location.encode("latin-1"), safe=_ASCII)
                _require_contents(exchange)
                await self._copy(url, exchange, sink)
        except h11.LocalProtocolError as error:
            raise invalid_argument(f"the request cannot be sent: {error}") from error
        return None

    async def _copy(self, url: HttpUrl, exchange: Exchange, sink: Sink) -> None:
        limit = self._settings.max_size_bytes
        announced = exchange.field("content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            raise _too_large(f"{announced} bytes", limit)
        gunzip = _gunzip(url, exchange)
        size = 0
        while piece := await exchange.read():
            for contents in (piece,) if gunzip is None else gunzip.feed(piece):
                size += len(contents)
                if size > limit:
                    raise _too_large("more", limit)
                await sink.write(contents)
        if gunzip is not None and not gunzip.is_whole:
            raise unavailable("the origin's gzip ends before its end")


def _complete(headers: Sequence[Header], user_agent: str) -> list[Header]:
    named = {name.lower() for name, _ in headers}
    added = [("User-Agent", user_agent)] if "user-agent" not in named else []
    if "accept" not in named:
        added.append(("Accept", "*/*"))
    return [*headers, *added]


def _answer(exchange: Exchange) -> str:
    return f"the origin answered {exchange.status} {exchange.reason}".rstrip()


def _require_contents(exchange: Exchange) -> None:
    """Return if the answer is the contents.

    Raises:
        NativeLinkError: what the answer means.
    """
    status, said = exchange.status, _answer(exchange)
    if status == 200:
        return
    if status in _GONE:
        raise not_found(said)
    if status in _FORBIDDEN:
        raise permission_denied(said)
    if status >= 500 or status in _TRY_LATER:
        raise unavailable(said)
    raise _final(Code.ABORTED, said)


def _gunzip(url: HttpUrl, exchange: Exchange) -> _Gunzip | None:
    """What takes a compression off that was not asked for; None if there is nothing to be done.

    Some origins send what they store compressed no matter what is asked for. As Bazel does, the
    name decides whether the compression is part of the contents.
    """
    encoding = (exchange.field("content-encoding") or "identity").strip().lower()
    path = url.target.partition("?")[0].lower()
    if encoding in {"", "identity"} or path.endswith((".gz", ".tgz")):
        return None
    if encoding not in {"gzip", "x-gzip"}:
        raise _final(Code.ABORTED, f"the origin compresses with {encoding!r}, unasked")
    return _Gunzip()


class _Gunzip:
    """Decompresses, a bounded piece at a time."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=_GZIP)
        self._members = 1
        self._inflated = 0

    @property
    def is_whole(self) -> bool:
        """Whether the data may end here."""
        return self._inflater.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out of some more data.

        Raises:
            NativeLinkError: ABORTED.
        """
        for start in range(0, len(data), _SLICE_BYTES):
            yield from self._feed(data[start : start + _SLICE_BYTES])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        out = b""
        # Some may wait inside although there is no more input.
        while data or len(out) == _INFLATED_BYTES:
            if self._inflater.eof:
                if not data:
                    return
                self._next_member()
            try:
                out = self._inflater.decompress(data, _INFLATED_BYTES)
            except zlib.error as error:
                raise _final(Code.ABORTED, f"the origin's gzip is damaged: {error}") from error
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            if out:
                self._inflated += len(out)
                yield out

    def _next_member(self) -> None:
        self._members += 1
        if self._members > _FREE_MEMBERS and self._inflated < self._members * _MEAN_MEMBER_BYTES:
            raise _final(
                Code.ABORTED,
                f"the origin's gzip has {self._members} members with {self._inflated} bytes in "
                "them",
            )
        self._inflater = zlib.decompressobj(wbits=_GZIP)


def _final(code: Code, message: str) -> NativeLinkError:
    return NativeLinkError(code, message, retryable=False)


def _too_large(got: str, limit: int) -> NativeLinkError:
    return _final(
        Code.RESOURCE_EXHAUSTED, f"the origin sends {got}, and {limit} bytes are allowed here"
    )
