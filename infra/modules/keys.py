"""KMS keys, one per class of data, each with a policy that says who may use it."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import KmsAlias, KmsKey, TerraformResourceLifecycle
from infra.kit import Kit
from infra.policy import ANYBODY, Statement, account_root, document, service

__all__ = ["Keys", "kept"]


def kept(kit: Kit) -> TerraformResourceLifecycle | None:
    """For keys and buckets: Terraform refuses a plan that would delete what is protected.

    A bucket that has something in it stays anyway, but a key that is gone takes all of it along,
    and keys are deleted as soon as nothing that Terraform knows uses them.
    """
    return TerraformResourceLifecycle(prevent_destroy=True) if kit.protected else None


class Keys(Construct):
    """The region's keys.

    Attributes:
        storage: what clients stored: S3, Valkey.
        disks: volumes of machines and images.
        secrets: passwords and certificates.
        telemetry: logs, notifications, queues.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit) -> None:
        super().__init__(scope, id_)
        self._kit = kit
        self.storage = self._key("storage", "Blobs and action results", [])
        self.disks = self._key(
            "disks", "Volumes of machines", [self._through_ec2(), self._grants()]
        )
        self.secrets = self._key("secrets", "Passwords and certificates", [])
        self.telemetry = self._key("telemetry", "Logs and notifications", self._senders())

    def _key(self, name: str, description: str, statements: list[Statement]) -> KmsKey:
        kit = self._kit
        owner = Statement(
            "Account",
            ["kms:*"],
            ["*"],
            principal=account_root(kit.account),
        )
        key = KmsKey(
            self,
            name,
            description=f"{description} of {kit.name()}",
            enable_key_rotation=True,
            deletion_window_in_days=30 if kit.protected else 7,
            policy=document(owner, *statements),
            tags={"Name": kit.name(name)},
            lifecycle=kept(kit),
        )
        KmsAlias(self, f"{name}-alias", name=f"alias/{kit.name(name)}", target_key_id=key.key_id)
        return key

    def _only_ec2(self) -> dict[str, str]:
        return {
            "kms:CallerAccount": self._kit.account,
            "kms:ViaService": f"ec2.{self._kit.region}.amazonaws.com",
        }

    def _through_ec2(self) -> Statement:
        """Auto scaling's own role starts machines with encrypted disks; without, none starts.

        That role may not exist yet in a new account, and a policy cannot name what does not exist.
        So this is the wording of AWS' own key for disks: this account, by way of EC2.
        """
        return Statement(
            "DisksOfInstances",
            [
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:ReEncrypt*",
                "kms:GenerateDataKey*",
                "kms:DescribeKey",
            ],
            ["*"],
            principal=ANYBODY,
            conditions={"StringEquals": self._only_ec2()},
        )

    def _grants(self) -> Statement:
        return Statement(
            "GrantsForInstances",
            ["kms:CreateGrant"],
            ["*"],
            principal=ANYBODY,
            conditions={
                "StringEquals": self._only_ec2(),
                "Bool": {"kms:GrantIsForAWSResource": "true"},
            },
        )

    def _senders(self) -> list[Statement]:
        kit = self._kit
        use = [
            "kms:Encrypt",
            "kms:Decrypt",
            "kms:ReEncrypt*",
            "kms:GenerateDataKey*",
            "kms:DescribeKey",
        ]
        from_here = {"StringEquals": {"aws:SourceAccount": kit.account}}
        return [
            Statement(
                "Logs",
                use,
                ["*"],
                principal=service(f"logs.{kit.region}"),
                conditions={
                    "ArnLike": {"kms:EncryptionContext:aws:logs:arn": kit.arn("logs", "*")}
                },
            ),
            *(
                Statement(
                    sender.capitalize(),
                    ["kms:Decrypt", "kms:GenerateDataKey*"],
                    ["*"],
                    principal=service(sender),
                    # EventBridge may not tell a key for whom it asks, and what is refused is lost
                    # in silence. Whose rules may send, the queues' policies say.
                    conditions={} if sender == "events" else from_here,
                )
                for sender in ("cloudwatch", "events", "sns", "budgets")
            ),
            # Auto scaling writes to topics in its own role. As with disks: nobody can name a role
            # that may not exist yet.
            Statement(
                "AutoScaling",
                ["kms:Decrypt", "kms:GenerateDataKey*"],
                ["*"],
                principal=ANYBODY,
                conditions={
                    "StringEquals": {"kms:CallerAccount": kit.account},
                    "ArnLike": {
                        "aws:PrincipalArn": kit.arn(
                            "iam",
                            "role/aws-service-role/autoscaling.amazonaws.com/*",
                            region=False,
                        )
                    },
                },
            ),
        ]
