"""What happens to machines reaches the queues that the deployed rules name."""

from __future__ import annotations

import json

from nativelink.aws.events import Gone, Interruption, Terminating, parse_event
from scripts.region_local import events
from scripts.region_local.resources import TERMINATING, Hook, Rule

SPOT = Rule(
    "spot",
    {
        "source": ["aws.ec2"],
        "detail-type": [
            "EC2 Spot Instance Interruption Warning",
            "EC2 Instance Rebalance Recommendation",
        ],
    },
    ("arn:queue",),
)
LEAVING = Rule(
    "leaving",
    {
        "source": ["aws.autoscaling"],
        "detail-type": ["EC2 Instance-terminate Lifecycle Action"],
        "detail": {"AutoScalingGroupName": ["workers"]},
    },
    ("arn:queue", "arn:other"),
)
ENDED = Rule(
    "ended",
    {
        "source": ["aws.ec2"],
        "detail-type": ["EC2 Instance State-change Notification"],
        "detail": {"state": ["shutting-down", "stopping"]},
    },
    ("arn:queue",),
)
RULES = [SPOT, LEAVING, ENDED]
DRAIN = Hook("workers", "drain", TERMINATING, 900.0, goes_on=True)


def test_a_spot_notice_is_what_the_scheduler_reads() -> None:
    event = events.interruption("i-1", account="1", region="eu-central-1", at=1_700_000_000.0)
    ((queue, text),) = events.queues_for(RULES, event)
    assert queue == "arn:queue"
    assert parse_event(text) == Interruption("i-1", 1_700_000_000.0)


def test_a_machine_that_ends_is_what_the_scheduler_reads() -> None:
    event = events.ended("i-1", account="1", region="r", at=1_700_000_000.0)
    ((_, text),) = events.queues_for(RULES, event)
    assert parse_event(text) == Gone("i-1", 1_700_000_000.0)


def test_a_leaving_machine_is_what_the_scheduler_reads() -> None:
    event = events.terminating(DRAIN, "i-1", "token", account="1", region="r", at=1_700_000_000.0)
    found = events.queues_for(RULES, event)
    assert [queue for queue, _ in found] == ["arn:queue", "arn:other"]
    assert parse_event(found[0][1]) == Terminating(
        "i-1", 1_700_000_000.0, "workers", "drain", "token"
    )


def test_other_groups_and_events_are_nobodys_business() -> None:
    hook = Hook("cas", "drain", TERMINATING, 900.0, goes_on=True)
    assert not events.queues_for(
        RULES, events.terminating(hook, "i-1", "token", account="1", region="r", at=1.0)
    )
    assert not events.fits({"detail": {"state": ["stopped"]}}, json.loads('{"detail": {}}'))
