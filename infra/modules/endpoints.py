"""How machines without a way to the internet reach AWS' services."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import VpcEndpoint
from infra.kit import Kit
from infra.modules.buckets import Buckets
from infra.modules.firewall import Firewall
from infra.modules.network import Network
from infra.policy import ANYBODY, Statement, document

__all__ = ["Endpoints"]

_ALWAYS = ("logs", "monitoring", "secretsmanager", "autoscaling", "sqs")
_SHELL = ("ssm", "ssmmessages", "ec2messages")


class Endpoints(Construct):
    """A gateway to S3, which costs nothing and carries the cache, and interfaces to the rest.

    Attributes:
        firewall: protects the interfaces; `serve` lets machines in.
    """

    def __init__(
        self, scope: Construct, id_: str, *, kit: Kit, network: Network, buckets: Buckets
    ) -> None:
        super().__init__(scope, id_)
        self.firewall = Firewall(
            self,
            "firewall",
            kit=kit,
            network=network,
            name="endpoints",
            protects="Endpoints of AWS services",
        )
        self._s3 = VpcEndpoint(
            self,
            "s3",
            vpc_id=network.vpc.id,
            service_name=f"com.amazonaws.{kit.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id for table in network.private_tables],
            # Machines reach the region's own buckets: an action cannot carry anything elsewhere.
            policy=document(
                Statement(
                    "OwnBuckets",
                    ["s3:*"],
                    [arn for each in buckets.all for arn in (each.arn, each.objects())],
                    principal=ANYBODY,
                )
            ),
            tags={"Name": kit.name("s3")},
        )
        settings = kit.settings.network
        for name in (*_ALWAYS, *(_SHELL if settings.shell else ())):
            VpcEndpoint(
                self,
                name,
                vpc_id=network.vpc.id,
                service_name=f"com.amazonaws.{kit.region}.{name}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=[each.id for each in network.private[: settings.endpoint_zones]],
                security_group_ids=[self.firewall.id_of_group],
                policy=document(
                    Statement(
                        "OwnAccount",
                        ["*"],
                        ["*"],
                        principal=ANYBODY,
                        conditions={"StringEquals": {"aws:PrincipalAccount": kit.account}},
                    )
                ),
                tags={"Name": kit.name(name)},
            )

    def serve(self, machines: Firewall) -> None:
        """Machines behind `machines` may use AWS' services."""
        machines.connect_to(self.firewall, 443, "AWS services")
        machines.connect_to_prefix(self._s3.prefix_list_id, "s3", 443, "Buckets of the region")
