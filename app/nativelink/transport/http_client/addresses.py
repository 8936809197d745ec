"""Which addresses may be connected to: those of the internet, and of networks that were named.

A client that makes a server fetch what it names must not reach what only the server can: its own
ports, its network, the cloud's metadata service (server-side request forgery). A host name proves
nothing, as its owner decides what it resolves to, and may decide otherwise a second later. So the
check is of the very address that is connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeAlias

from nativelink.core.errors import not_found, permission_denied, unavailable

__all__ = ["AddressPolicy", "Lookup", "Network", "SystemLookup", "resolve"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
#: Finds the addresses of a host and a port.
Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Look-ups at a time.
_THREADS: Final = 8

#: Not of the public internet, or not a single host of it. From the IANA registries of special
#: addresses (RFC 6890), written down here because what Python calls global differs between its
#: versions (CVE-2024-4032).
_RESERVED: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network; a connection to 0.0.0.0 reaches this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers, and by clouds for their own services
        "127.0.0.0/8",  # this host
        "168.63.129.16/32",  # Azure's host agent, although it is a public address
        "169.254.0.0/16",  # the link; metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/96",  # this host, unspecified, IPv4-compatible
        "64:ff9b:1::/48",  # local translation
        "100::/64",  # discarded
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address of somebody's choice
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # private
        "fe80::/9",  # the link, and once the site
        "ff00::/8",  # multicast
    )
)
#: IPv4 addresses that travel as IPv6: what counts is what is inside.
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")


class AddressPolicy:
    """Says to which addresses a connection may go.

    Args:
        allowed: networks that are allowed although they are not of the public internet.
    """

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def allows(self, text: str) -> bool:
        """Whether an IP address may be connected to; anything else may not."""
        try:
            address = _inner(ipaddress.ip_address(text))
        except ValueError:
            return False
        if any(address in network for network in self._allowed):
            return True
        return not any(address in network for network in _RESERVED)


def _inner(address: _Address) -> _Address:
    """The address that is meant by one that has another one inside."""
    if address.version == 6 and (address in _MAPPED or address in _TRANSLATED):
        return ipaddress.IPv4Address(address.packed[-4:])
    return address


class SystemLookup:
    """The addresses of hosts as the machine's resolver gives them, its favourite first.

    Threads of its own wait for the resolver, which cannot be given up and may take half a minute
    for names whose servers are gone. The loop's own, few as they are, hash what is uploaded, and
    find the addresses of the stores: names that clients choose must not keep them. The threads end
    with this object.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """See `Lookup`.

        Raises:
            NativeLinkError: NOT_FOUND if there is no such host, UNAVAILABLE if the resolver does
                not know now.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "lookup")
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise unavailable(f"{host!r} cannot be looked up now: {error.strerror}") from error
            raise not_found(f"there is no host {host!r}: {error.strerror}") from error
        except (OSError, UnicodeError) as error:
            raise unavailable(f"{host!r} cannot be looked up: {error}") from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def resolve(host: str, port: int, policy: AddressPolicy, lookup: Lookup) -> Sequence[str]:
    """The addresses of a host that may be connected to.

    Raises:
        NativeLinkError: PERMISSION_DENIED if there is none; what `lookup` raised.
    """
    addresses = await lookup(host, port)
    allowed = [address for address in addresses if policy.allows(address)]
    if not allowed:
        raise permission_denied(
            f"the host {host!r} is at {', '.join(addresses[:4]) or 'no address'}, which is not of "
            "the public internet, nor of this server's allowed_networks"
        )
    return allowed
