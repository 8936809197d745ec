"""What has to be there before any region: the bucket that keeps Terraform's state."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from constructs import Construct

from infra._cdk import KmsAlias, KmsKey, LocalBackend, TerraformOutput, TerraformStack
from infra.kit import Kit
from infra.modules.buckets import ACCESS_PREFIX, SecureBucket
from infra.modules.keys import kept
from infra.policy import Statement, account_root, document, service
from infra.provider import provide

__all__ = ["BootstrapStack", "state_bucket"]

_LOG_DAYS: Final = 365


def state_bucket(kit: Kit) -> str:
    """Its name: one for all regions of the farm in an account and AWS region."""
    return f"nativelink-state-{kit.account}-{kit.region}"


class BootstrapStack(TerraformStack):
    """The state's bucket, its key and its access log. Their own state is a file on this machine.

    The state of a region has passwords in it: who can read this bucket can read them. On AWS both
    are protected from being deleted, whatever the region's file says of its own data.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit) -> None:
        super().__init__(scope, id_)
        if not kit.local:
            # Other regions keep their state here too: that the one whose file is named may be
            # destroyed says nothing about them.
            kit = replace(kit, settings=kit.settings.model_copy(update={"destroyable": False}))
        provide(self, kit)
        LocalBackend(self, path=f"../../../terraform.{id_}.tfstate")
        key = KmsKey(
            self,
            "key",
            description="Terraform's state of the build farm",
            enable_key_rotation=True,
            deletion_window_in_days=30 if kit.protected else 7,
            policy=document(
                Statement("Account", ["kms:*"], ["*"], principal=account_root(kit.account))
            ),
            lifecycle=kept(kit),
        )
        KmsAlias(self, "alias", name="alias/nativelink-state", target_key_id=key.key_id)
        name = state_bucket(kit)
        logs = SecureBucket(
            self,
            "state-logs",
            kit=kit,
            name=f"{name}-logs",
            key=None,
            versioned=False,
            logs=None,
            aging=_LOG_DAYS,
            statements=[
                Statement(
                    "AccessLogs",
                    ["s3:PutObject"],
                    [f"arn:aws:s3:::{name}-logs/{ACCESS_PREFIX}*"],
                    principal=service("logging.s3"),
                    conditions={"StringEquals": {"aws:SourceAccount": kit.account}},
                )
            ],
        )
        SecureBucket(self, "state", kit=kit, name=name, key=key, versioned=True, logs=logs)
        output = TerraformOutput(
            self,
            "state_bucket",
            value=name,
            description="Put it into the region's file: `state_bucket`",
        )
        output.override_logical_id("state_bucket")
