"""What every construct is given: the settings, names, and whether this is AWS or a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.local import LocalProfile
from infra.settings import RegionSettings

__all__ = ["Kit"]

#: Before every resource's name.
PREFIX: Final = "nl"


@dataclass(frozen=True)
class Kit:
    """One region's settings, and where it is made.

    Attributes:
        settings: as the file says.
        local: set if an emulator on this machine stands for AWS.
    """

    settings: RegionSettings
    local: LocalProfile | None = None

    @property
    def account(self) -> str:
        """The AWS account's number."""
        return self.settings.account

    @property
    def region(self) -> str:
        """The AWS region."""
        return self.settings.region

    @property
    def protected(self) -> bool:
        """Whether data outlives a mistake: no forced deletion, deletion protection."""
        return not self.settings.destroyable

    def name(self, *parts: str) -> str:
        """`nl-REGION-PARTS`."""
        return "-".join((PREFIX, self.settings.name, *parts))

    def path(self, *parts: str) -> str:
        """`/nativelink/REGION/PARTS`, for log groups, parameters and secrets."""
        return "/".join(("/nativelink", self.settings.name, *parts))

    def bucket(self, purpose: str) -> str:
        """A bucket's name, which has to be unique in the world."""
        return self.name(purpose, self.account, self.region)

    def arn(self, service: str, resource: str, *, region: bool = True) -> str:
        """An ARN in this account, and region if the service has them."""
        return f"arn:aws:{service}:{self.region if region else ''}:{self.account}:{resource}"

    def group_arn(self, group: str) -> str:
        """ARN of an auto scaling group by its name; the id between is AWS' choice."""
        return self.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{group}")

    def group(self, role: str, pool: str | None = None) -> str:
        """Name of the auto scaling group of a role, or of a pool of workers."""
        return self.name(role, pool) if pool else self.name(role)

    def makes(self, resource_type: str) -> bool:
        """Whether resources of this type are made here; on a laptop some cannot be."""
        return self.local is None or resource_type not in self.local.omitted
