"""The virtual network: zones, subnets, routes."""

from __future__ import annotations

import ipaddress
from typing import Final

from constructs import Construct

from infra._cdk import (
    DataAwsAvailabilityZones,
    DataAwsAvailabilityZonesFilter,
    DefaultRouteTable,
    DefaultSecurityGroup,
    EgressOnlyInternetGateway,
    Eip,
    Fn,
    InternetGateway,
    NatGateway,
    Route,
    RouteTable,
    RouteTableAssociation,
    Subnet,
    Vpc,
)
from infra.kit import Kit
from infra.settings import Nat

__all__ = ["Network"]

#: A subnet of machines is an eighth of the network; the last eighth is divided among public ones.
_EIGHTH: Final = 3


class Network(Construct):
    """A private and a public subnet in each zone.

    Machines are in private ones. In the public ones there are load balancers that were asked for,
    and NAT gateways.

    Attributes:
        vpc: the network.
        private, public: the subnets, by zone.
        private_tables: the route tables of the private ones.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit) -> None:
        super().__init__(scope, id_)
        self._kit = kit
        settings = kit.settings.network
        self.vpc = Vpc(
            self,
            "vpc",
            cidr_block=settings.cidr,
            enable_dns_support=True,
            enable_dns_hostnames=True,
            assign_generated_ipv6_cidr_block=settings.ipv6 or None,
            tags={"Name": kit.name()},
        )
        # Whatever is made without a choice gets neither a route nor an open port.
        DefaultSecurityGroup(self, "no-default", vpc_id=self.vpc.id, ingress=[], egress=[])
        DefaultRouteTable(
            self,
            "no-default-routes",
            default_route_table_id=self.vpc.default_route_table_id,
            route=[],
        )
        self._internet = InternetGateway(
            self, "internet", vpc_id=self.vpc.id, tags={"Name": kit.name()}
        )
        self._egress_ipv6 = (
            EgressOnlyInternetGateway(self, "internet-ipv6", vpc_id=self.vpc.id)
            if settings.ipv6
            else None
        )
        self.zones = self._zones()
        self.private: list[Subnet] = []
        self.public: list[Subnet] = []
        self.private_tables: list[RouteTable] = []
        self._subnets()

    def _zones(self) -> list[str]:
        settings = self._kit.settings.network
        if settings.zone_names:
            return list(settings.zone_names)
        available = DataAwsAvailabilityZones(
            self,
            "zones",
            state="available",
            # An account may have local zones too, whose names come first.
            filter=[DataAwsAvailabilityZonesFilter(name="zone-type", values=["availability-zone"])],
        )
        # A region with fewer fails when it is planned: `element` would begin with the first again.
        return [f"${{{available.fqn}.names[{index}]}}" for index in range(settings.zones)]

    def _subnets(self) -> None:
        kit = self._kit
        network = ipaddress.IPv4Network(kit.settings.network.cidr)
        eighths = list(network.subnets(prefixlen_diff=_EIGHTH))
        small = list(eighths[-1].subnets(prefixlen_diff=4))
        self._last = str(small[-1])
        self._public_table = public_table = self._table("public")
        Route(
            self,
            "to-internet",
            route_table_id=public_table.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=self._internet.id,
        )
        if self._egress_ipv6 is not None:
            Route(
                self,
                "to-internet-ipv6",
                route_table_id=public_table.id,
                destination_ipv6_cidr_block="::/0",
                gateway_id=self._internet.id,
            )
        gateways: list[NatGateway] = []
        for index, zone in enumerate(self.zones):
            public = self._subnet("public", index, zone, str(small[index]))
            RouteTableAssociation(
                self, f"public-{index}-routes", subnet_id=public.id, route_table_id=public_table.id
            )
            self.public.append(public)
            wanted = {Nat.NONE: 0, Nat.SINGLE: 1, Nat.PER_ZONE: len(self.zones)}
            if index < wanted[kit.settings.network.nat]:
                gateways.append(self._nat(index, public))
        for index, zone in enumerate(self.zones):
            private = self._subnet("private", index, zone, str(eighths[index]))
            table = self._table(f"private-{index}")
            RouteTableAssociation(
                self, f"private-{index}-routes", subnet_id=private.id, route_table_id=table.id
            )
            if gateways:
                Route(
                    self,
                    f"private-{index}-to-internet",
                    route_table_id=table.id,
                    destination_cidr_block="0.0.0.0/0",
                    nat_gateway_id=gateways[min(index, len(gateways) - 1)].id,
                )
                if self._egress_ipv6 is not None:
                    Route(
                        self,
                        f"private-{index}-to-internet-ipv6",
                        route_table_id=table.id,
                        destination_ipv6_cidr_block="::/0",
                        egress_only_gateway_id=self._egress_ipv6.id,
                    )
            self.private.append(private)
            self.private_tables.append(table)

    def with_addresses(self, scope: Construct, name: str) -> Subnet:
        """One more public subnet, in the first zone: its machines get an address of their own.

        For machines that have to call the internet for a while, where there is no NAT.
        """
        subnet = Subnet(
            scope,
            "subnet",
            vpc_id=self.vpc.id,
            cidr_block=self._last,
            availability_zone=self.zones[0],
            map_public_ip_on_launch=True,
            tags={"Name": self._kit.name(name)},
        )
        RouteTableAssociation(
            scope, "routes", subnet_id=subnet.id, route_table_id=self._public_table.id
        )
        return subnet

    def _subnet(self, kind: str, index: int, zone: str, cidr: str) -> Subnet:
        # moto knows no IPv6 in subnets: what an emulator has is IPv4 only.
        ipv6 = self._kit.settings.network.ipv6 and self._kit.local is None
        number = index if kind == "private" else index + 8
        return Subnet(
            self,
            f"{kind}-{index}",
            vpc_id=self.vpc.id,
            cidr_block=cidr,
            availability_zone=zone,
            map_public_ip_on_launch=False,
            ipv6_cidr_block=Fn.cidrsubnet(self.vpc.ipv6_cidr_block, 8, number) if ipv6 else None,
            tags={"Name": self._kit.name(kind, str(index))},
        )

    def _table(self, name: str) -> RouteTable:
        return RouteTable(
            self, f"{name}-table", vpc_id=self.vpc.id, tags={"Name": self._kit.name(name)}
        )

    def _nat(self, index: int, public: Subnet) -> NatGateway:
        address = Eip(self, f"nat-{index}-address", domain="vpc")
        return NatGateway(
            self,
            f"nat-{index}",
            subnet_id=public.id,
            allocation_id=address.allocation_id,
            tags={"Name": self._kit.name("nat", str(index))},
            depends_on=[self._internet],
        )
