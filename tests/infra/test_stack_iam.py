"""What each role may do, by evaluating the policies that it really gets, and as a whole table."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.infra.tools import ACCOUNT, Stack

pytestmark = pytest.mark.slow

REGION = "eu-central-1"
BUCKET = f"arn:aws:s3:::nl-team-{{}}-{ACCOUNT}-{REGION}"
ROLES = ("cas", "scheduler", "worker-x86")


@pytest.fixture(scope="module")
def team(stacks: dict[str, Stack]) -> Stack:
    return stacks["aws/team"]


def arn_of(stack: Stack, reference: str) -> str:
    """What an `.arn` reference will be, from the name that the resource has."""
    kind, name = reference.split(".")[:2]
    body = stack.json["resource"][kind][name]
    match kind:
        case "aws_s3_bucket":
            return f"arn:aws:s3:::{body['bucket']}"
        case "aws_kms_key":
            return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{body['tags']['Name']}"
        case "aws_sqs_queue":
            return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{body['name']}"
        case "aws_secretsmanager_secret":
            return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{body['name']}"
        case "aws_cloudwatch_log_group":
            return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{body['name']}"
        case _:
            raise AssertionError(reference)


def many(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def statements(stack: Stack, role: str) -> list[dict[str, Any]]:
    """Of every policy of the role, with ARNs in place of references."""
    text = stack.one("aws_iam_role_policy", f"{role}-access/policy").body["policy"]
    resolved = re.sub(r"\$\{([\w.-]+)\.arn\}", lambda found: arn_of(stack, found[1]), text)
    assert "${" not in resolved
    found: list[dict[str, Any]] = json.loads(resolved)["Statement"]
    attached = [
        each.path
        for each in stack.of("aws_iam_role_policy_attachment")
        if not each.path.startswith("images/")
    ]
    assert attached == [], "a policy that somebody else changes"
    return found


def allowed(stack: Stack, role: str, action: str, resource: str, **context: str) -> bool:
    """As IAM decides without denials: some statement fits, and so do its conditions."""
    for each in statements(stack, role):
        assert each["Effect"] == "Allow"
        fits = any(fnmatchcase(action, pattern) for pattern in many(each["Action"]))
        fits = fits and any(fnmatchcase(resource, part) for part in many(each["Resource"]))
        for operator, pairs in each.get("Condition", {}).items():
            assert operator == "StringEquals"
            for key, value in pairs.items():
                fits = fits and context.get(key.replace(":", "_")) == value
        if fits:
            return True
    return False


@pytest.mark.parametrize("role", ["cas", "scheduler"])
@pytest.mark.parametrize("bucket", ["cas", "index", "ac"])
def test_servers_read_and_write_their_part_of_a_bucket_and_delete_nothing(
    team: Stack, role: str, bucket: str
) -> None:
    arn = BUCKET.format(bucket)
    for action in ("s3:GetObject", "s3:PutObject"):
        assert allowed(team, role, action, f"{arn}/{bucket}/x")
        assert not allowed(team, role, action, f"{arn}/elsewhere")
    assert allowed(team, role, "s3:ListBucket", arn)
    for action in ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketPolicy"):
        assert not allowed(team, role, action, f"{arn}/{bucket}/x")
        assert not allowed(team, role, action, arn)


@pytest.mark.parametrize("bucket", ["cas", "index", "ac", "artifacts", "logs"])
@pytest.mark.parametrize("action", ["Get", "Put", "Delete"])
def test_workers_touch_no_bucket(team: Stack, bucket: str, action: str) -> None:
    for key in ("cas/x", "index/x", "ac/x", "x"):
        assert not allowed(
            team, "worker-x86", f"s3:{action}Object", f"{BUCKET.format(bucket)}/{key}"
        )


def test_workers_read_no_secret_and_no_queue(team: Stack) -> None:
    for each in statements(team, "worker-x86"):
        services = {action.partition(":")[0] for action in each["Action"]}
        assert services <= {"autoscaling", "logs", "ssm", "ssmmessages"}


def group(name: str) -> str:
    return (
        f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:1-2-3:autoScalingGroupName/{name}"
    )


def test_a_worker_ends_machines_of_its_own_pool_only(stacks: dict[str, Stack]) -> None:
    action = "autoscaling:TerminateInstanceInAutoScalingGroup"
    team = stacks["aws/team"]
    assert allowed(team, "worker-x86", action, group("nl-team-worker-x86"))
    for other in ("nl-team-cas", "nl-team-scheduler", "nl-team-worker-arm", "nl-other-worker-x86"):
        assert not allowed(team, "worker-x86", action, group(other))


def test_the_scheduler_lets_machines_of_pools_go_and_ends_none(team: Stack) -> None:
    action = "autoscaling:CompleteLifecycleAction"
    assert allowed(team, "scheduler", action, group("nl-team-worker-x86"))
    assert not allowed(team, "scheduler", action, group("nl-team-cas"))
    for other in ("TerminateInstanceInAutoScalingGroup", "UpdateAutoScalingGroup"):
        for name in ("nl-team-worker-x86", "nl-team-cas", "nl-team-scheduler"):
            assert not allowed(team, "scheduler", f"autoscaling:{other}", group(name))


@pytest.mark.parametrize("role", ["cas", "scheduler"])
def test_metrics_go_into_the_own_namespace(team: Stack, role: str) -> None:
    action = "cloudwatch:PutMetricData"
    assert allowed(team, role, action, "*", cloudwatch_namespace="NativeLink/team")
    assert not allowed(team, role, action, "*", cloudwatch_namespace="AWS/EC2")


def test_keys_can_be_used_by_way_of_their_service_only(team: Stack) -> None:
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/nl-team-storage"
    through = f"s3.{REGION}.amazonaws.com"
    for role in ("cas", "scheduler"):
        assert allowed(team, role, "kms:Decrypt", key, kms_ViaService=through)
        assert not allowed(team, role, "kms:Decrypt", key)
        assert not allowed(team, role, "kms:ScheduleKeyDeletion", key, kms_ViaService=through)


def test_this_is_all_that_machines_may_do(team: Stack) -> None:
    """The table: who adds a permission adds it here, too."""
    leave = [
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:RecordLifecycleActionHeartbeat",
        "autoscaling:SetInstanceProtection",
        "autoscaling:TerminateInstanceInAutoScalingGroup",
    ]
    logs = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    shell = [
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    ]
    stores = [
        "kms:Decrypt",
        "kms:GenerateDataKey",
        "s3:AbortMultipartUpload",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:ListMultipartUploadParts",
        "s3:PutObject",
        "secretsmanager:GetSecretValue",
    ]
    table = {
        role: sorted({action for each in statements(team, role) for action in each["Action"]})
        for role in ROLES
    }
    assert table == {
        "cas": sorted(
            [
                *stores,
                *logs,
                *shell,
                "autoscaling:CompleteLifecycleAction",
                "cloudwatch:PutMetricData",
            ]
        ),
        "scheduler": sorted(
            [
                *stores,
                *logs,
                *shell,
                "autoscaling:CompleteLifecycleAction",
                "cloudwatch:PutMetricData",
                "sqs:DeleteMessage",
                "sqs:ReceiveMessage",
            ]
        ),
        "worker-x86": sorted([*leave, *logs, *shell]),
    }
