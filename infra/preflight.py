"""What a stack asks of an account's quotas, so that it is known before a deployment stops half way.

A new account may have a handful of spot processors and five networks: a farm then seems to lose its
workers, while EC2 only refuses to start them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from infra.capacity import processors
from infra.settings import Nat, RegionSettings

__all__ = ["QUOTAS", "Finding", "Quota", "examine"]


@dataclass(frozen=True)
class Quota:
    """A quota of Service Quotas, and what a region needs of it.

    Attributes:
        service, code: as Service Quotas names it.
        name: in words.
        needed: by a region's settings.
    """

    service: str
    code: str
    name: str
    needed: Callable[[RegionSettings], int]


def _spot(settings: RegionSettings) -> int:
    return sum(
        processors(pool.types[0])
        * (pool.max - _fixed(pool.max, pool.on_demand_base, pool.on_demand_percent))
        for pool in settings.pools
    )


def _fixed(most: int, base: int, percent: int) -> int:
    """On-demand workers of a pool that has as many as it may."""
    return base + -(-(most - base) * percent // 100)


def _on_demand(settings: RegionSettings) -> int:
    """With the room that replacing machines takes."""
    cas, scheduler = settings.cas, settings.scheduler
    servers = (cas.max_count or 2 * cas.count) * processors(cas.instance_type)
    return (
        servers
        + processors(scheduler.instance_type)
        + sum(
            processors(pool.types[0])
            * _fixed(pool.max, pool.on_demand_base, pool.on_demand_percent)
            for pool in settings.pools
        )
    )


def _addresses(settings: RegionSettings) -> int:
    network = settings.network
    zones = len(network.zone_names) or network.zones
    return {Nat.NONE: 0, Nat.SINGLE: 1, Nat.PER_ZONE: zones}[network.nat]


def _endpoints(settings: RegionSettings) -> int:
    return 8 if settings.network.shell else 5


def _rules(settings: RegionSettings) -> int:
    """Of the clients' balancer: each network counts for each of two ports, IP versions apart."""
    version_6 = sum(":" in each for each in settings.clients)
    return 2 * max(version_6, len(settings.clients) - version_6)


QUOTAS: Final = (
    Quota("ec2", "L-34B43A08", "processors of spot instances (A, C, D, H, I, M, R, T, Z)", _spot),
    Quota("ec2", "L-1216C47A", "processors of on-demand instances (the same)", _on_demand),
    Quota("vpc", "L-F678F1CE", "networks (VPCs)", lambda _: 1),
    Quota("vpc", "L-29B6F2EB", "interface endpoints of a network", _endpoints),
    Quota("ec2", "L-0263D0A3", "elastic addresses", _addresses),
    Quota("vpc", "L-0EA8095F", "rules of a security group", _rules),
    Quota("elasticloadbalancing", "L-69A177A2", "network load balancers", lambda _: 2),
)


@dataclass(frozen=True)
class Finding:
    """A quota that was looked at.

    Attributes:
        quota: which.
        needed: by this region, on top of what the account has already.
        allowed: by the account; None if that could not be read.
    """

    quota: Quota
    needed: int
    allowed: float | None

    @property
    def enough(self) -> bool:
        """Whether this region alone fits. What else is in the account is not counted."""
        return self.allowed is None or self.needed <= self.allowed

    def __str__(self) -> str:
        quota = self.quota
        if self.allowed is None:
            return f"?  {quota.name}: needs {self.needed}; your account's quota cannot be read"
        if self.enough:
            return f"ok {quota.name}: needs {self.needed} of {self.allowed:g}"
        return (
            f"!! {quota.name}: needs {self.needed}, the account allows {self.allowed:g}: aws "
            f"service-quotas request-service-quota-increase --service-code {quota.service} "
            f"--quota-code {quota.code} --desired-value {self.needed}"
        )


def examine(
    settings: RegionSettings, allowed: Callable[[Quota], float | None]
) -> Iterator[Finding]:
    """Compare every quota that this region needs anything of."""
    for quota in QUOTAS:
        needed = quota.needed(settings)
        if needed:
            yield Finding(quota, needed, allowed(quota))
