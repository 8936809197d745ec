"""Where everything of a region is on this machine.

Linux answers on all of 127.0.0.0/8. So every machine, load balancer and service has an address of
its own, and all ports are the deployed ones: 10.64.3.17 of the region is 127.N.3.17 here. Two
regions on one machine have different N.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

__all__ = ["FIRST", "LAST", "Network", "replace_names"]

#: The second number of addresses: one of these for machines, the next for everything else.
FIRST, LAST = 64, 250


@dataclass(frozen=True)
class Network:
    """One region's addresses.

    Attributes:
        number: N above; even.
    """

    number: int

    def machine(self, address: str) -> str:
        """Where the machine is that has this address in the region's network (at most a /16)."""
        _, _, third, fourth = IPv4Address(address).exploded.split(".")
        return f"127.{self.number}.{third}.{fourth}"

    def balancer(self, index: int) -> str:
        """Where a load balancer is."""
        return f"127.{self.number + 1}.1.{index + 1}"

    @property
    def services(self) -> str:
        """Where moto, Redis and this program are."""
        return f"127.{self.number + 1}.0.1"


def replace_names(text: str, addresses: Mapping[str, str]) -> str:
    """A text with addresses in place of host names.

    Args:
        text: of user data or outputs.
        addresses: by names; a name within a longer one is left alone.
    """
    if not addresses:
        return text
    names = "|".join(re.escape(name) for name in sorted(addresses, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])(?:{names})(?![\w-])", lambda found: addresses[found[0]], text)
