"""Roles against an emulator that enforces their policies: what they need works, else is refused.

moto judges actions, and the resources of S3 alone: elsewhere a statement fits only if it is about
everything. It looks at no conditions. `test_stack_iam.py` evaluates the whole of the same policies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from infra.reports.permissions import statements_of
from infra.reports.stack import Synthesized
from tests.infra.tools import ACCOUNT, Stack

pytestmark = pytest.mark.slow

REGION = "eu-central-1"
BUCKET = f"nl-team-{{}}-{ACCOUNT}-{REGION}"
ROLES = ("cas", "scheduler", "worker-x86")
#: moto answers so where a policy does not allow something.
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}

Client = Callable[[str], Any]


def client(service: str, **credentials: str) -> Any:
    return boto3.client(service, region_name=REGION, **credentials)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account with what the roles might touch."""
    for name in ("AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOTO_ACCOUNT_ID", ACCOUNT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "administrator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "administrator")
    with mock_aws():
        s3 = client("s3")
        for purpose in ("cas", "index", "ac", "artifacts"):
            s3.create_bucket(
                Bucket=BUCKET.format(purpose),
                CreateBucketConfiguration={"LocationConstraint": REGION},
            )
            s3.put_object(Bucket=BUCKET.format(purpose), Key=f"{purpose}/there", Body=b"x")
        yield


@pytest.fixture
def roles(stacks: dict[str, Stack], account: None) -> dict[str, Client]:
    """Clients of each role's machines."""
    path = stacks["aws/team"].directory / "cdk.tf.json"
    stack = Synthesized(path, ACCOUNT, REGION)
    found: dict[str, Client] = {}
    for role in stack.of("aws_iam_role"):
        name = role.body["name"].removeprefix("nl-team-").removesuffix(f"-{REGION}")
        if name not in ROLES:
            continue
        iam = client("iam")
        arn = iam.create_role(
            RoleName=name, AssumeRolePolicyDocument=role.body["assume_role_policy"]
        )["Role"]["Arn"]
        document = {"Version": "2012-10-17", "Statement": statements_of(stack, role)}
        iam.put_role_policy(
            RoleName=name, PolicyName="machine", PolicyDocument=json.dumps(document)
        )
        made = client("sts").assume_role(RoleArn=arn, RoleSessionName="i-0a1b2c3d4e5f60001")
        keys = made["Credentials"]
        found[name] = lambda service, keys=keys: client(
            service,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )
    return found


#: What somebody might try, and who gets it.
TRIED: dict[str, tuple[Callable[[Client], object], set[str]]] = {
    "read a blob": (
        lambda own: own("s3").get_object(Bucket=BUCKET.format("cas"), Key="cas/there"),
        {"cas", "scheduler"},
    ),
    "write a blob": (
        lambda own: own("s3").put_object(Bucket=BUCKET.format("cas"), Key="cas/new", Body=b"x"),
        {"cas", "scheduler"},
    ),
    "write an action result": (
        lambda own: own("s3").put_object(Bucket=BUCKET.format("ac"), Key="ac/new", Body=b"x"),
        {"cas", "scheduler"},
    ),
    "write beside blobs": (
        lambda own: own("s3").put_object(Bucket=BUCKET.format("cas"), Key="new", Body=b"x"),
        set(),
    ),
    "read what images are made of": (
        lambda own: own("s3").get_object(Bucket=BUCKET.format("artifacts"), Key="artifacts/there"),
        set(),
    ),
    "delete a blob": (
        lambda own: own("s3").delete_object(Bucket=BUCKET.format("cas"), Key="cas/there"),
        set(),
    ),
    "delete an action result": (
        lambda own: own("s3").delete_object(Bucket=BUCKET.format("ac"), Key="ac/there"),
        set(),
    ),
    "change a bucket's policy": (
        lambda own: own("s3").put_bucket_policy(Bucket=BUCKET.format("cas"), Policy="{}"),
        set(),
    ),
    "list groups": (
        lambda own: own("autoscaling").describe_auto_scaling_groups(),
        set(),
    ),
    "resize a group": (
        lambda own: own("autoscaling").set_desired_capacity(
            AutoScalingGroupName="nl-team-worker-x86", DesiredCapacity=50
        ),
        set(),
    ),
    "start a machine": (
        lambda own: own("ec2").run_instances(ImageId="ami-1", MinCount=1, MaxCount=1),
        set(),
    ),
    "make an administrator": (
        lambda own: own("iam").create_user(UserName="administrator"),
        set(),
    ),
    "take another role": (
        lambda own: own("sts").assume_role(
            RoleArn=f"arn:aws:iam::{ACCOUNT}:role/scheduler", RoleSessionName="again"
        ),
        set(),
    ),
}


@pytest.mark.parametrize("tried", TRIED)
def test_only_who_needs_it_may(roles: dict[str, Client], tried: str) -> None:
    attempt, allowed = TRIED[tried]

    def may(own: Client) -> bool:
        try:
            set_initial_no_auth_action_count(0)(lambda: attempt(own))()
        except ClientError as error:
            if error.response["Error"]["Code"] not in DENIED:
                raise
            return False
        return True

    assert {name for name, own in roles.items() if may(own)} == allowed
