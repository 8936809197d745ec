"""Network load balancers: connections go through as they are, which HTTP/2 and gRPC need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from constructs import Construct

from infra._cdk import (
    Lb,
    LbAccessLogs,
    LbListener,
    LbListenerDefaultAction,
    LbTargetGroup,
    LbTargetGroupHealthCheck,
    Subnet,
)
from infra.environment import STATUS_PORT
from infra.kit import Kit
from infra.modules.buckets import SecureBucket
from infra.modules.firewall import Firewall
from infra.modules.network import Network

__all__ = ["IDLE_S", "LoadBalancer", "Tls"]

#: Seconds of silence after which a balancer forgets a connection. It is fixed for TLS listeners;
#: servers and clients ping more often than that (every 30 s).
IDLE_S: Final = 350
_POLICY: Final = "ELBSecurityPolicy-TLS13-1-2-2021-06"


@dataclass(frozen=True)
class Tls:
    """The balancer ends clients' TLS, and speaks TLS to machines."""

    certificate_arn: str


class LoadBalancer(Construct):
    """A balancer with a security group of its own, which AWS can give it at its creation only.

    Attributes:
        lb: the resource.
        firewall: who may connect, and to which machines.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        network: Network,
        subnets: Sequence[Subnet],
        purpose: str,
        public: bool,
        logs: SecureBucket,
        keep_client_address: bool,
    ) -> None:
        """Makes a balancer without listeners.

        Args:
            keep_client_address: machines see who connects. Not where a machine may reach itself
                by way of the balancer: it would see its own address.
        """
        super().__init__(scope, id_)
        self._kit, self._network = kit, network
        self._keep_client_address = keep_client_address
        self.firewall = Firewall(
            self, "firewall", kit=kit, network=network, name=id_, protects=purpose
        )
        shared = kit.settings.network.share_with
        self.lb = Lb(
            self,
            "balancer",
            name=kit.name(id_),
            load_balancer_type="network",
            internal=not public,
            subnets=[each.id for each in subnets],
            security_groups=[self.firewall.id_of_group],
            # PrivateLink's clients have addresses of other networks; they are chosen by account.
            enforce_security_group_inbound_rules_on_private_link_traffic="off" if shared else None,
            enable_cross_zone_load_balancing=True,
            enable_deletion_protection=kit.protected,
            dns_record_client_routing_policy=None if public else "any_availability_zone",
            ip_address_type="dualstack"
            if kit.settings.network.ipv6 and kit.local is None and public
            else "ipv4",
            access_logs=LbAccessLogs(bucket=logs.bucket.id, prefix="balancer", enabled=True),
            tags={"Name": kit.name(id_)},
            # AWS tries whether it may write there.
            depends_on=[logs.policy],
        )

    def listen(
        self,
        port: int,
        *,
        target: str,
        target_port: int,
        tls: Tls | None,
        draining_s: int,
    ) -> LbTargetGroup:
        """Connections to `port` go to `target_port` of the machines in the group that it gives.

        Args:
            target: the group's name.
            tls: ends clients' TLS here; None passes everything on.
            draining_s: seconds that connections get when their machine leaves.
        """
        kit = self._kit
        protocol = "TLS" if tls else "TCP"
        group = LbTargetGroup(
            self,
            f"{target}-targets",
            name=kit.name(target),
            vpc_id=self._network.vpc.id,
            port=target_port,
            protocol=protocol,
            target_type="instance",
            preserve_client_ip="true" if self._keep_client_address else "false",
            deregistration_delay=str(draining_s),
            connection_termination=True,
            health_check=LbTargetGroupHealthCheck(
                protocol="HTTP",
                port=str(STATUS_PORT),
                path="/status",
                matcher="200",
                interval=10,
                timeout=6,
                healthy_threshold=2,
                unhealthy_threshold=3,
            ),
            tags={"Name": kit.name(target)},
        )
        LbListener(
            self,
            f"port-{port}",
            load_balancer_arn=self.lb.arn,
            port=port,
            protocol=protocol,
            certificate_arn=tls.certificate_arn if tls else None,
            ssl_policy=_POLICY if tls else None,
            # gRPC is HTTP/2 and nothing else.
            alpn_policy="HTTP2Only" if tls else None,
            tcp_idle_timeout_seconds=None if tls else IDLE_S,
            default_action=[LbListenerDefaultAction(type="forward", target_group_arn=group.arn)],
            tags={"Name": kit.name(target)},
        )
        return group
