"""How a stack reaches AWS, and where its state is kept."""

from __future__ import annotations

from typing import Final

from infra._cdk import (
    AwsProvider,
    AwsProviderDefaultTags,
    AwsProviderEndpoints,
    LocalBackend,
    S3Backend,
    TerraformStack,
)
from infra.kit import Kit

__all__ = ["default_tags", "keep_state", "provide"]

#: Services that the kit uses, by the name that the provider's `endpoints` block has for them.
_SERVICES: Final = (
    "acm", "autoscaling", "cloudwatch", "cloudwatchevents", "cloudwatchlogs", "ec2", "elasticache",
    "elbv2", "iam", "kms", "route53", "s3", "secretsmanager", "sns", "sqs", "ssm", "sts",
)  # fmt: skip


def default_tags(kit: Kit) -> dict[str, str]:
    """Tags of everything that can have any."""
    return {
        "Project": "nativelink",
        "NativeLinkRegion": kit.settings.name,
        "ManagedBy": "terraform",
        **kit.settings.tags,
    }


def provide(stack: TerraformStack, kit: Kit) -> None:
    """The provider of a stack."""
    local = kit.local
    AwsProvider(
        stack,
        "aws",
        region=kit.region,
        allowed_account_ids=None if local else [kit.account],
        default_tags=[AwsProviderDefaultTags(tags=default_tags(kit))],
        # An emulator checks no credentials, speaks plain HTTP on one address, and answers 500 to
        # what it does not know: trying that again 25 times takes minutes. But among thousands of
        # requests it ends some connection that is about to be used: that has to be tried again.
        access_key="local" if local else None,
        secret_key="local" if local else None,
        endpoints=[AwsProviderEndpoints(**dict.fromkeys(_SERVICES, local.endpoint))]
        if local
        else None,
        s3_use_path_style=True if local else None,
        skip_credentials_validation=True if local else None,
        skip_metadata_api_check="true" if local else None,
        max_retries=5 if local else None,
    )


def keep_state(stack: TerraformStack, kit: Kit) -> None:
    """Where the state of a region is kept: in the bucket of the bootstrap stack, else in a file."""
    local = kit.local
    bucket = kit.settings.state_bucket
    if local or bucket is None:
        LocalBackend(stack, path=f"../../../terraform.{stack.node.id}.tfstate")
        return
    # Not `encrypt`: that would ask for S3's own key instead of the bucket's, which refuses it.
    backend = S3Backend(
        stack, bucket=bucket, key=f"{kit.settings.name}/terraform.tfstate", region=kit.region
    )
    # Newer than CDKTF 0.21: the lock is an object beside the state, no table is needed.
    backend.add_override("use_lockfile", value=True)
