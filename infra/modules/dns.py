"""Names: the one that clients call, and those that machines call each other by."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import (
    Lb,
    Route53Record,
    Route53RecordAlias,
    Route53RecordLatencyRoutingPolicy,
    Route53Zone,
    Route53ZoneVpc,
    TerraformResourceLifecycle,
)
from infra.kit import Kit
from infra.modules.network import Network
from infra.settings import NoTls

__all__ = ["InternalNames", "PublicName"]


class InternalNames(Construct):
    """A zone that only the network sees.

    Attributes:
        domain: its name.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit, network: Network) -> None:
        super().__init__(scope, id_)
        self.domain = f"{kit.settings.name}.nativelink.internal"
        self._zone = Route53Zone(
            self,
            "zone",
            name=self.domain,
            comment="Names that machines call each other by",
            vpc=[Route53ZoneVpc(vpc_id=network.vpc.id)],
            force_destroy=True,
            lifecycle=TerraformResourceLifecycle(ignore_changes=["vpc"]) if kit.local else None,
        )

    def add(self, name: str, balancer: Lb) -> str:
        """`NAME.domain` leads to a balancer; gives the whole name."""
        whole = f"{name}.{self.domain}"
        Route53Record(
            self,
            name,
            zone_id=self._zone.zone_id,
            name=whole,
            type="A",
            alias=_alias(balancer),
        )
        return whole


class PublicName(Construct):
    """The name that clients call, if its zone is ours to write; one of several, or the only one."""

    def __init__(self, scope: Construct, id_: str, *, kit: Kit, balancer: Lb) -> None:
        super().__init__(scope, id_)
        tls = kit.settings.tls
        if isinstance(tls, NoTls) or tls.zone_id is None:
            return
        kinds = ["A"]
        if kit.settings.network.ipv6 and kit.settings.public:
            kinds.append("AAAA")
        for kind in kinds:
            Route53Record(
                self,
                kind.lower(),
                zone_id=tls.zone_id,
                name=tls.domain,
                type=kind,
                alias=_alias(balancer),
                set_identifier=kit.region if tls.nearest else None,
                latency_routing_policy=Route53RecordLatencyRoutingPolicy(region=kit.region)
                if tls.nearest
                else None,
            )


def _alias(balancer: Lb) -> Route53RecordAlias:
    return Route53RecordAlias(
        name=balancer.dns_name, zone_id=balancer.zone_id, evaluate_target_health=True
    )
