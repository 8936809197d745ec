"""Who may open a connection to whom: a security group per role, and rules that say why."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import (
    Ec2ManagedPrefixList,
    Ec2ManagedPrefixListEntry,
    SecurityGroup,
    VpcSecurityGroupEgressRule,
    VpcSecurityGroupIngressRule,
)
from infra.kit import Kit
from infra.modules.network import Network

__all__ = ["ClientNetworks", "Firewall"]


class ClientNetworks(Construct):
    """The networks of clients, by IP version, in lists that rules refer to."""

    def __init__(self, scope: Construct, id_: str, *, kit: Kit) -> None:
        super().__init__(scope, id_)
        self.lists: list[Ec2ManagedPrefixList] = []
        for family in ("IPv4", "IPv6"):
            networks = [
                each for each in kit.settings.clients if (":" in each) == (family == "IPv6")
            ]
            if networks:
                self.lists.append(
                    Ec2ManagedPrefixList(
                        self,
                        family.lower(),
                        name=kit.name("clients", family.lower()),
                        address_family=family,
                        max_entries=len(networks),
                        entry=[
                            Ec2ManagedPrefixListEntry(cidr=each, description="clients")
                            for each in networks
                        ],
                    )
                )


class Firewall(Construct):
    """A security group. It lets nothing in or out but what is said by the methods.

    Attributes:
        id_of_group: for the resource that it protects.
    """

    def __init__(
        self, scope: Construct, id_: str, *, kit: Kit, network: Network, name: str, protects: str
    ) -> None:
        super().__init__(scope, id_)
        self.name = name
        self._group = SecurityGroup(
            self,
            "group",
            name=kit.name(name),
            description=protects,
            vpc_id=network.vpc.id,
            revoke_rules_on_delete=True,
            tags={"Name": kit.name(name)},
        )
        self.id_of_group = self._group.id

    def connect_to(self, server: Firewall, port: int, why: str) -> None:
        """Machines behind this one may connect to a TCP port of those behind `server`."""
        VpcSecurityGroupEgressRule(
            self,
            f"to-{server.name}-{port}",
            security_group_id=self.id_of_group,
            description=why,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            referenced_security_group_id=server.id_of_group,
        )
        VpcSecurityGroupIngressRule(
            server,
            f"from-{self.name}-{port}",
            security_group_id=server.id_of_group,
            description=why,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            referenced_security_group_id=self.id_of_group,
        )

    def allow_clients(self, clients: ClientNetworks, port: int, why: str) -> None:
        """Clients' networks may connect to a TCP port."""
        for index, each in enumerate(clients.lists):
            VpcSecurityGroupIngressRule(
                self,
                f"from-clients-{index}-{port}",
                security_group_id=self.id_of_group,
                description=why,
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                prefix_list_id=each.id,
            )

    def connect_to_prefix(self, prefix_list_id: str, what: str, port: int, why: str) -> None:
        """Machines behind this one may connect to a service of AWS, by its list of addresses."""
        VpcSecurityGroupEgressRule(
            self,
            f"to-{what}-{port}",
            security_group_id=self.id_of_group,
            description=why,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            prefix_list_id=prefix_list_id,
        )

    def connect_to_internet(self, port: int, why: str) -> None:
        """Machines behind this one may connect to a TCP port anywhere."""
        VpcSecurityGroupEgressRule(
            self,
            f"to-internet-{port}",
            security_group_id=self.id_of_group,
            description=why,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv4="0.0.0.0/0",
        )
