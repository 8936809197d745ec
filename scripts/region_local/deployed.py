"""All that was deployed and does not change while the region runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.region_local.cloud import Cloud
from scripts.region_local.network import Network
from scripts.region_local.resources import Balancer, Hook, Rule
from scripts.region_local.scaling import Policy, TrackingPolicy

__all__ = ["Deployed"]


@dataclass(frozen=True)
class Deployed:
    """Read once, when Terraform is done.

    Attributes:
        names: addresses of load balancers, by every name that leads to one.
    """

    account: str
    region: str
    balancers: Sequence[Balancer]
    names: dict[str, str]
    hooks: Sequence[Hook]
    policies: Sequence[Policy]
    rules: Sequence[Rule]

    @classmethod
    def read(cls, cloud: Cloud, network: Network, account: str, region: str) -> Deployed:
        """Ask the emulator for all of it."""
        balancers = cloud.balancers()
        addresses = {each.host: network.balancer(at) for at, each in enumerate(balancers)}
        names = {
            name: addresses[host] for name, host in cloud.aliases().items() if host in addresses
        }
        policies = cloud.policies()
        for policy in policies:
            if isinstance(policy, TrackingPolicy):
                cloud.track(policy)
        hooks = [hook for group in cloud.groups() for hook in cloud.hooks(group.name)]
        return cls(account, region, balancers, names | addresses, hooks, policies, cloud.rules())

    def hook(self, group: str, transition: str) -> Hook | None:
        """Where the group's machines wait when they come or go; None without a hook."""
        for hook in self.hooks:
            if hook.group == group and hook.transition == transition:
                return hook
        return None
