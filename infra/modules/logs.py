"""Log groups: encrypted, and of limited age."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import CloudwatchLogGroup, FlowLog, FlowLogDestinationOptions
from infra.kit import Kit
from infra.modules.buckets import SecureBucket
from infra.modules.keys import Keys
from infra.modules.network import Network

__all__ = ["Logs", "retention_days"]

#: What CloudWatch accepts.
_ALLOWED = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653)


def retention_days(wanted: int) -> int:
    """The next number of days that CloudWatch accepts."""
    return next((days for days in _ALLOWED if days >= wanted), _ALLOWED[-1])


class Logs(Construct):
    """A group for each role, and the network's log of connections in S3.

    Attributes:
        groups: by role; `redis` too.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        kit: Kit,
        keys: Keys,
        network: Network,
        bucket: SecureBucket,
    ) -> None:
        super().__init__(scope, id_)
        days = {
            "cas": kit.settings.logs.audit_days,
            "scheduler": kit.settings.logs.audit_days,
            "worker": kit.settings.logs.worker_days,
            "redis": kit.settings.logs.worker_days,
        }
        self.groups = {
            name: CloudwatchLogGroup(
                self,
                name,
                name=kit.path(name),
                retention_in_days=retention_days(each),
                kms_key_id=keys.telemetry.arn,
            )
            for name, each in days.items()
        }
        FlowLog(
            self,
            "connections",
            vpc_id=network.vpc.id,
            traffic_type="ALL",
            log_destination_type="s3",
            log_destination=bucket.arn,
            max_aggregation_interval=600,
            destination_options=FlowLogDestinationOptions(
                file_format="parquet", per_hour_partition=True
            ),
            tags={"Name": kit.name()},
            # A bucket that does not let it write is given a policy that does, in place of ours.
            depends_on=[bucket.policy],
        )
