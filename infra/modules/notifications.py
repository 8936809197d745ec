"""Where alarms go: a topic that mails to the contact."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import SnsTopic, SnsTopicPolicy, SnsTopicSubscription
from infra.kit import Kit
from infra.modules.keys import Keys
from infra.policy import Statement, document, service

__all__ = ["Notifications"]


class Notifications(Construct):
    """Where alarms go: a topic that mails to the contact.

    Attributes:
        topic: the topic.
    """

    def __init__(self, scope: Construct, id_: str, *, kit: Kit, keys: Keys) -> None:
        super().__init__(scope, id_)
        self.topic = SnsTopic(
            self, "topic", name=kit.name("alarms"), kms_master_key_id=keys.telemetry.arn
        )
        from_here = {"StringEquals": {"aws:SourceAccount": kit.account}}
        SnsTopicPolicy(
            self,
            "policy",
            arn=self.topic.arn,
            policy=document(
                *(
                    Statement(
                        sender.capitalize(),
                        ["sns:Publish"],
                        [self.topic.arn],
                        principal=service(sender),
                        conditions=from_here,
                    )
                    for sender in ("cloudwatch", "autoscaling", "budgets")
                )
            ),
        )
        SnsTopicSubscription(
            self,
            "mail",
            topic_arn=self.topic.arn,
            protocol="email",
            endpoint=kit.settings.contact,
        )
