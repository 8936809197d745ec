"""Allow-lists of hosts, as operators write them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_NAME", "NAME", "HostPattern", "parse_host_pattern"]

#: A host's name in lower case; of underscores in it, resolvers say less than standards.
NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*")
#: Characters of a name (RFC 1035 section 2.3.4).
MAX_NAME: Final = 253
_PORT: Final = re.compile(r"(.*):(\*|[0-9]{1,5})")
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class HostPattern:
    """Hosts that may be asked.

    Attributes:
        text: as it was written.
        host: a name, an IP address without brackets, `*.NAME` for all names below it, `*` for all.
        port: None for the default port of the scheme, 0 for all.
    """

    text: str
    host: str
    port: int | None

    def matches(self, host: str, port: int, *, is_default_port: bool) -> bool:
        """Whether a server is one of these.

        Args:
            host: a name in lower case, or an IP address without brackets.
            port: its port.
            is_default_port: whether it is the one of the scheme.
        """
        if not (is_default_port if self.port is None else self.port in {0, port}):
            return False
        if self.host.startswith("*"):
            return host.endswith(self.host[1:])
        return host == self.host


def parse_host_pattern(text: str) -> HostPattern:
    """`HOST`, `*.DOMAIN` or `*`, with `:PORT` or `:*` behind it for others than the default ports.

    Raises:
        ValueError: it is something else; says what is wrong.
    """
    host, port = text.lower(), None
    found = _PORT.fullmatch(host)
    if found is not None and (found[1].endswith("]") or ":" not in found[1]):
        host = found[1]
        port = 0 if found[2] == "*" else int(found[2])
        if found[2] != "*" and not 0 < port <= _MAX_PORT:
            raise ValueError("the port is not a number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return HostPattern(text, str(ipaddress.IPv6Address(host[1:-1])), port)
    if host != "*":
        host = host.removesuffix(".")
        if len(host) > MAX_NAME or not NAME.fullmatch(host.removeprefix("*.")):
            raise ValueError("no name of hosts")
    return HostPattern(text, host, port)
