"""What machines of each role may do, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from constructs import Construct

from infra._cdk import CloudwatchLogGroup, IamInstanceProfile, IamRole, IamRolePolicy
from infra.environment import Role
from infra.kit import Kit
from infra.modules.buckets import AC_PREFIX, CAS_PREFIX, INDEX_PREFIX, Buckets
from infra.modules.drain_queue import DrainQueue
from infra.modules.keys import Keys
from infra.modules.redis import Redis
from infra.policy import Statement, document, service
from infra.settings import MutualTls

__all__ = ["MachineRole", "namespace_of"]

_READ: Final = ("s3:GetObject",)
_WRITE: Final = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
_LEAVE: Final = (
    "autoscaling:CompleteLifecycleAction",
    "autoscaling:RecordLifecycleActionHeartbeat",
    "autoscaling:SetInstanceProtection",
    "autoscaling:TerminateInstanceInAutoScalingGroup",
)


def namespace_of(kit: Kit) -> str:
    """CloudWatch's namespace of the region's metrics."""
    return f"NativeLink/{kit.settings.name}"


class MachineRole(Construct):
    """The role of a kind of machines.

    Attributes:
        profile: for the launch template.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        role: Role,
        name: str,
        group: str,
        buckets: Buckets,
        keys: Keys,
        redis: Redis,
        queue: DrainQueue,
        log_group: CloudwatchLogGroup,
        worker_groups: Sequence[str],
    ) -> None:
        """Makes the role.

        Args:
            group: name of the machines' auto scaling group.
            worker_groups: names of all groups of workers, which the scheduler may shrink.
        """
        super().__init__(scope, id_)
        self._kit, self._buckets, self._keys = kit, buckets, keys
        statements = [
            *self._storage(role),
            *self._secrets(role, redis),
            *self._telemetry(role, log_group),
            *self._scaling(role, group, worker_groups, queue),
            *self._shell(),
        ]
        self.role = IamRole(
            self,
            "role",
            name=kit.name(name, kit.region),
            description=f"Machines of {group}",
            assume_role_policy=document(
                Statement("Machines", ["sts:AssumeRole"], (), principal=service("ec2"))
            ),
            max_session_duration=3600,
            tags={"Name": kit.name(name)},
        )
        IamRolePolicy(
            self, "policy", name="machine", role=self.role.id, policy=document(*statements)
        )
        self.profile = IamInstanceProfile(
            self, "profile", name=kit.name(name, kit.region), role=self.role.name
        )

    def _storage(self, role: Role) -> list[Statement]:
        """Nobody deletes: S3 does, by age. Workers reach no bucket, only the cas role's servers.

        An action that breaks out of its sandbox can neither delete what others use, nor make up
        results for them.
        """
        cas, index, ac = self._buckets.cas, self._buckets.index, self._buckets.ac
        blobs = [cas.objects(CAS_PREFIX), index.objects(INDEX_PREFIX)]
        if role == "worker":
            return []
        # The scheduler reads actions, and renews the age of what it reads.
        used = [cas, index, ac]
        through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{self._kit.region}.amazonaws.com"}}
        return [
            Statement("Objects", [*_READ, *_WRITE], [*blobs, ac.objects(AC_PREFIX)]),
            # Without it S3 answers 403 instead of 404 for what is not there.
            Statement("AbsentIsNotForbidden", ["s3:ListBucket"], [each.arn for each in used]),
            Statement(
                "StorageKey",
                ["kms:Decrypt", "kms:GenerateDataKey"],
                [self._keys.storage.arn],
                conditions=through_s3,
            ),
        ]

    def _secrets(self, role: Role, redis: Redis) -> list[Statement]:
        kit = self._kit
        secrets = [] if role == "worker" else [redis.users["server"].secret.arn]
        keys = [] if role == "worker" else [self._keys.secrets.arn]
        tls = kit.settings.tls
        if isinstance(tls, MutualTls):
            secrets.append(tls.secret_arn)
            if tls.secret_key_arn is not None:
                keys.append(tls.secret_key_arn)
        if not secrets:
            return []
        through = {"StringEquals": {"kms:ViaService": f"secretsmanager.{kit.region}.amazonaws.com"}}
        return [
            Statement("Secrets", ["secretsmanager:GetSecretValue"], secrets),
            *([Statement("SecretsKey", ["kms:Decrypt"], keys, conditions=through)] if keys else []),
        ]

    def _telemetry(self, role: Role, log_group: CloudwatchLogGroup) -> list[Statement]:
        own = [
            Statement(
                "Logs",
                ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                [f"{log_group.arn}:*"],
            )
        ]
        if role != "worker":
            own.append(
                Statement(
                    "Metrics",
                    ["cloudwatch:PutMetricData"],
                    ["*"],
                    conditions={"StringEquals": {"cloudwatch:namespace": namespace_of(self._kit)}},
                )
            )
        return own

    def _scaling(
        self, role: Role, group: str, worker_groups: Sequence[str], queue: DrainQueue
    ) -> list[Statement]:
        kit = self._kit
        if role == "cas":
            return [
                Statement("Ready", ["autoscaling:CompleteLifecycleAction"], [kit.group_arn(group)])
            ]
        if role == "worker":
            return [Statement("LeaveOwnGroup", _LEAVE, [kit.group_arn(group)])]
        return [
            Statement("Ready", ["autoscaling:CompleteLifecycleAction"], [kit.group_arn(group)]),
            # Of machines whose worker is gone, or hangs.
            Statement(
                "LetGo",
                ["autoscaling:CompleteLifecycleAction"],
                [kit.group_arn(each) for each in worker_groups],
            ),
            Statement("DrainQueue", ["sqs:ReceiveMessage", "sqs:DeleteMessage"], [queue.queue.arn]),
            Statement(
                "DrainQueueKey",
                ["kms:Decrypt"],
                [self._keys.telemetry.arn],
                conditions={"StringEquals": {"kms:ViaService": f"sqs.{kit.region}.amazonaws.com"}},
            ),
        ]

    def _shell(self) -> list[Statement]:
        """Session Manager: what AWS' own policy for it allows, without its parameters."""
        if not self._kit.settings.network.shell:
            return []
        return [
            Statement(
                "Shell",
                [
                    "ssm:UpdateInstanceInformation",
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                ["*"],
            )
        ]
