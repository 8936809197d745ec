"""The region on a laptop: an emulator (moto) stands for AWS, and does not know everything.

`MOTO_CANNOT` and `MOTO_FORGETS` are the whole difference between what is deployed and what is tried
here, besides addresses. Tests compare both stacks and fail if a list grows, or holds what is not
needed. `MOTO_MISTAKES` is deployed, and taken away before anything runs (`scripts/region_local`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

__all__ = ["MOTO_CANNOT", "MOTO_FORGETS", "MOTO_MISTAKES", "LocalProfile"]

#: Resource type -> what happens with moto 5.2 and the AWS provider 5.100 if it is asked for.
MOTO_CANNOT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aws_autoscaling_notification": "PutNotificationConfiguration is not implemented",
        "aws_budgets_budget": "created, but its tags cannot be read",
        "aws_cloudwatch_composite_alarm": "PutCompositeAlarm is not implemented",
        "aws_cloudwatch_query_definition": "PutQueryDefinition is not implemented",
        "aws_elasticache_parameter_group": "CreateCacheParameterGroup is not implemented",
        "aws_elasticache_replication_group": "its member clusters are not found after it was made",
        "aws_elasticache_subnet_group": "DeleteCacheSubnetGroup is not implemented",
        "aws_elasticache_user_group": "CreateUserGroup is not implemented",
        "aws_imagebuilder_component": "EC2 Image Builder is not implemented",
        "aws_imagebuilder_distribution_configuration": "EC2 Image Builder is not implemented",
        "aws_imagebuilder_image": "EC2 Image Builder is not implemented",
        "aws_imagebuilder_image_pipeline": "EC2 Image Builder is not implemented",
        "aws_imagebuilder_image_recipe": "EC2 Image Builder is not implemented",
        "aws_imagebuilder_infrastructure_configuration": "EC2 Image Builder is not implemented",
        "aws_imagebuilder_lifecycle_policy": "EC2 Image Builder is not implemented",
        "aws_s3_bucket_metric": "taken for CreateBucket, which fails outside of us-east-1",
    }
)

#: `TYPE.ATTRIBUTE` -> why it is left out, or not compared again, where the resource itself is made.
MOTO_FORGETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aws_autoscaling_group.instance_refresh": "StartInstanceRefresh is not implemented",
        "aws_autoscaling_group.wait_for_capacity_timeout": "its instances never answer /status",
        "aws_lb.ip_address_type": "subnets have no IPv6 addresses",
        "aws_route53_zone.lifecycle": "the network of a private zone is not given back",
        "aws_subnet.ipv6_cidr_block": "IPv6 addresses of subnets are not known",
    }
)

#: Resource type -> why what runs would not work with it.
MOTO_MISTAKES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aws_s3_bucket_policy": "its conditions are not looked at: who refuses plain HTTP, and "
        "other keys, refuses everybody",
    }
)


@dataclass(frozen=True)
class LocalProfile:
    """How the stack is made against an emulator.

    Attributes:
        endpoint: URL of the emulator, which serves every service.
        redis: `HOST:PORT` of a Redis that machines use instead of ElastiCache.
        metadata: URL that stands for the instance metadata service.
        omitted: resource types that are left out.
    """

    endpoint: str
    redis: str = "127.0.0.1:6379"
    metadata: str = "http://127.0.0.1:1338"
    omitted: frozenset[str] = field(default_factory=lambda: frozenset(MOTO_CANNOT))

    #: An image that moto knows from the start.
    IMAGE: Final = "ami-03cf127a"
