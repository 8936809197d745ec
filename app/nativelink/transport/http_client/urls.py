"""Addresses that clients ask for: read strictly, and held against an allow-list of hosts.

What one program takes for the host and another for a password or a path is how allow-lists are
got around. So a URL is taken apart here once, and only if it leaves no room for another reading:
what is sent to the origin is made of the parts, never of the text. Source: RFC 3986, RFC 9110
section 4.2.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from nativelink.core.errors import NativeLinkError, invalid_argument, permission_denied
from nativelink.core.hosts import MAX_NAME, NAME, HostPattern

__all__ = [
    "HttpUrl",
    "parse_url",
    "require_allowed",
]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_LENGTH: Final = 16 * 1024
#: Nobody agrees on what these mean inside of a URL.
_AMBIGUOUS: Final = re.compile(r"[\x00-\x20\\\x7f]")
_UNREADABLE: Final = "its host or port cannot be read"
#: What may stand unescaped in a path or a query, "%" among it: escapes stay as they are.
_SAFE: Final = "%/:?#[]@!$&'()*+,;=~"


class HttpUrl(NamedTuple):
    """An http or https address.

    Attributes:
        scheme: `http` or `https`.
        host: a name in lower case without the root's dot, or an IP address without brackets.
        port: the default one of the scheme where none is named.
        target: path and query as they are sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def authority(self) -> str:
        """Host and port as the Host header and a URL carry them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.has_default_port else f"{host}:{self.port}"

    @property
    def has_default_port(self) -> bool:
        """Whether the port is the one of the scheme."""
        return self.port == _DEFAULT_PORTS[self.scheme]

    @property
    def origin(self) -> tuple[str, str, int]:
        """What must be the same for two URLs to belong to one server."""
        return self.scheme, self.host, self.port

    @property
    def public(self) -> str:
        """The address without its query, in which signatures and tokens travel."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"

    def join(self, location: str) -> HttpUrl:
        """Where a redirect from here leads.

        Raises:
            NativeLinkError: INVALID_ARGUMENT.
        """
        try:
            joined = urljoin(str(self), location)
        except ValueError:
            raise _malformed(location, _UNREADABLE) from None
        return parse_url(joined)


def parse_url(text: str) -> HttpUrl:
    """A URL that has one reading only.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, saying what is wrong with it.
    """
    if len(text) > _MAX_LENGTH:
        raise _malformed(text, f"it is longer than {_MAX_LENGTH} characters")
    if _AMBIGUOUS.search(text):
        raise _malformed(text, "it has spaces, control characters or backslashes in it")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        # Whose text quotes the host with what stands before it, which may be a password.
        raise _malformed(text, _UNREADABLE) from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _malformed(text, "its scheme is neither https nor http")
    if "@" in parts.netloc:
        raise _malformed(
            text, "it has a user in it: send credentials in a header (http_header:Authorization)"
        )
    if port == 0:
        raise _malformed(text, "it has port 0")
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE)
    host = _host(text, host, in_brackets="[" in parts.netloc)
    return HttpUrl(scheme, host, port or _DEFAULT_PORTS[scheme], target)


def _host(text: str, host: str, *, in_brackets: bool) -> str:
    if in_brackets:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise _malformed(text, f"[{host}] is no IPv6 address") from None
        if address.scope_id is not None:
            raise _malformed(text, "an address of one link only means nothing elsewhere")
        return str(address)
    host = host.removesuffix(".")
    if len(host) > MAX_NAME or not NAME.fullmatch(host):
        raise _malformed(text, f"{host[:100]!r} is no host name (write others than ASCII as xn--…)")
    return host


def _malformed(text: str, why: str) -> NativeLinkError:
    # Without what stands before "@" and behind "?": either may be secret.
    shown = text.partition("?")[0].rpartition("@")[2][:200]
    return invalid_argument(f"{shown!r} cannot be downloaded: {why}")


def require_allowed(url: HttpUrl, patterns: Sequence[HostPattern], *, allow_http: bool) -> None:
    """Return if a URL may be asked.

    Raises:
        NativeLinkError: PERMISSION_DENIED.
    """
    if url.scheme == "http" and not allow_http:
        raise permission_denied(f"{url.public}: plain HTTP is not allowed here, only https")
    if not any(
        each.matches(url.host, url.port, is_default_port=url.has_default_port) for each in patterns
    ):
        port = "" if url.has_default_port else f" at port {url.port}"
        raise permission_denied(
            f"{url.public}: the host {url.host!r}{port} is not in this server's allowed_hosts"
        )
