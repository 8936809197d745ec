"""Where Redis servers are, and who we are to them: the URLs of `addresses`."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from nativelink.core.errors import NativeLinkError, invalid_argument

__all__ = ["Endpoint", "Login", "RedisAddress", "Sentinels", "parse_address"]

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
#: Scheme -> whether it is TLS, and whether a sentinel listens there.
_SCHEMES: Final[Mapping[str, tuple[bool, bool]]] = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis+sentinel": (False, True),
    "rediss+sentinel": (True, True),
    "redis-sentinel": (False, True),
    "rediss-sentinel": (True, True),
}
_EXPECTED: Final = "redis://[user:password@]host[:port][/database] is expected, rediss for TLS"


class Endpoint(NamedTuple):
    """A listening socket."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """How connections begin.

    Attributes:
        username: "" for Redis' default user.
        password: "" for none.
        database: number of the database that is selected.
        tls: None without; else the context that checks the server's certificate.
    """

    username: str = ""
    password: str = ""
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, database={self.database})"


@dataclass(frozen=True, slots=True)
class Sentinels:
    """What else the address of a sentinel says.

    Attributes:
        service: name under which the sentinels know the master.
        login: for the sentinels themselves.
    """

    service: str
    login: Login


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One parsed address.

    Attributes:
        endpoint: who listens there: a server, or a sentinel if `sentinels` is set.
        login: for servers that keep data.
        sentinels: set if a sentinel listens at `endpoint`.
    """

    endpoint: Endpoint
    login: Login
    sentinels: Sentinels | None = None


def parse_address(url: str) -> RedisAddress:
    """The parts of a URL such as `rediss://user:password@host:6379/0`.

    The fragment `#insecure` of a TLS address takes any certificate. Sentinels stand in
    `redis+sentinel://host:26379/0?sentinelServiceName=NAME` (default `master`); user and password
    are the servers', the sentinels' own are `sentinelUsername` and `sentinelPassword`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT. The message quotes no part that may be a secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Whose text quotes what may be the password: one with a "/" in it ends the host.
        raise _malformed(
            "host or port cannot be read; '/', '?', '#', '@' and '%' of a password are written "
            "%2F, %3F, %23, %40 and %25"
        ) from None
    known = _SCHEMES.get(parts.scheme)
    if known is None:
        raise _malformed(f"unknown scheme {parts.scheme!r}, known: {', '.join(_SCHEMES)}")
    secure, of_sentinel = known
    if not parts.hostname:
        raise _malformed("there is no host")
    path = parts.path.strip("/")
    if path and not (path.isascii() and path.isdigit()):
        raise _malformed("the database is no number")
    tls = _tls(insecure=parts.fragment == "insecure") if secure else None
    login = Login(unquote(parts.username or ""), unquote(parts.password or ""), int(path or 0), tls)
    endpoint = Endpoint(parts.hostname, port or (_SENTINEL_PORT if of_sentinel else _PORT))
    if not of_sentinel:
        return RedisAddress(endpoint, login)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    own = replace(
        login,
        username=query.get("sentinelUsername", ""),
        password=query.get("sentinelPassword", ""),
        database=0,
    )
    service = query.get("sentinelServiceName", "master")
    return RedisAddress(endpoint, login, Sentinels(service, own))


def _malformed(why: str) -> NativeLinkError:
    return invalid_argument(f"malformed Redis address: {why}; {_EXPECTED}")


def _tls(*, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
