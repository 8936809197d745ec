"""What AWS says about workers that are about to go, in a queue that the scheduler reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from constructs import Construct

from infra._cdk import (
    CloudwatchEventRule,
    CloudwatchEventTarget,
    CloudwatchEventTargetDeadLetterConfig,
    SqsQueue,
    SqsQueuePolicy,
)
from infra.kit import Kit
from infra.modules.keys import Keys
from infra.policy import Statement, document, require_tls, service

__all__ = ["DrainQueue"]

#: A notice says what happens within two minutes; after ten nobody needs it.
_KEEP_S: Final = 600


class DrainQueue(Construct):
    """Spot notices, rebalance recommendations, workers that auto scaling ends, and ended machines.

    Workers see their own notices too, in their metadata: either way may be lost.

    Attributes:
        queue: the queue.
        dead: messages that nobody could handle.
    """

    def __init__(
        self, scope: Construct, id_: str, *, kit: Kit, keys: Keys, worker_groups: Sequence[str]
    ) -> None:
        super().__init__(scope, id_)
        self.dead = SqsQueue(
            self,
            "dead",
            name=kit.name("drain-dead"),
            kms_master_key_id=keys.telemetry.arn,
            message_retention_seconds=14 * 86_400,
        )
        self.queue = SqsQueue(
            self,
            "queue",
            name=kit.name("drain"),
            kms_master_key_id=keys.telemetry.arn,
            message_retention_seconds=_KEEP_S,
            visibility_timeout_seconds=60,
            receive_wait_time_seconds=20,
            redrive_policy=json.dumps({"deadLetterTargetArn": self.dead.arn, "maxReceiveCount": 5}),
        )
        spot = self._rule(
            kit,
            "spot",
            "Spot interruptions and rebalance recommendations",
            ["aws.ec2"],
            ["EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"],
            {},
        )
        leaving = self._rule(
            kit,
            "leaving",
            "Workers that auto scaling ends",
            ["aws.autoscaling"],
            ["EC2 Instance-terminate Lifecycle Action"],
            {"detail": {"AutoScalingGroupName": list(worker_groups)}},
        )
        # Whoever ended it, and whatever it said before: its worker gets nothing new.
        ended = self._rule(
            kit,
            "ended",
            "Machines that stop",
            ["aws.ec2"],
            ["EC2 Instance State-change Notification"],
            {"detail": {"state": ["shutting-down", "stopping"]}},
        )
        senders = [spot.arn, leaving.arn, ended.arn]
        for name, queue in (("queue", self.queue), ("dead", self.dead)):
            SqsQueuePolicy(
                self,
                f"{name}-policy",
                queue_url=queue.id,
                policy=document(
                    require_tls(queue.arn),
                    Statement(
                        "Events",
                        ["sqs:SendMessage"],
                        [queue.arn],
                        principal=service("events"),
                        conditions={"ArnEquals": {"aws:SourceArn": senders}},
                    ),
                ),
            )

    def _rule(
        self,
        kit: Kit,
        id_: str,
        description: str,
        sources: Sequence[str],
        types: Sequence[str],
        more: Mapping[str, Any],
    ) -> CloudwatchEventRule:
        rule = CloudwatchEventRule(
            self,
            id_,
            name=kit.name(id_),
            description=description,
            event_pattern=json.dumps({"source": sources, "detail-type": types, **more}),
        )
        CloudwatchEventTarget(
            self,
            f"{id_}-to-queue",
            rule=rule.name,
            target_id="drain",
            arn=self.queue.arn,
            dead_letter_config=CloudwatchEventTargetDeadLetterConfig(arn=self.dead.arn),
        )
        return rule
