"""Machines that boot: units with all their restrictions, the firewall, and user data as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from infra.environment import ROLES, VARIABLES, Role, lines
from infra.user_data import script
from tests.ami.booted import AWS, Booted, boot

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("machine")]

#: What a machine is told here that is not as in the examples.
_TOLD = {
    "AWS_ENDPOINT_URL": AWS,
    "NATIVELINK_INSECURE_S3": "true",
    "NATIVELINK_EC2": "false",
    "NATIVELINK_CLOUDWATCH": "false",
    "NATIVELINK_REDIS_SCHEME": "redis",
    "NATIVELINK_REDIS_HOST": "127.0.0.1",
    "NATIVELINK_REDIS_USER": "default",
    "NATIVELINK_TLS": "server",
    "NATIVELINK_INTERNAL_TLS": "off",
    "NATIVELINK_SECRET_TLS": "",
    "NATIVELINK_CLIENT_CRL": "",
    "NATIVELINK_SCHEDULER_ENDPOINT": "grpc://127.0.0.1:50052",
    "NATIVELINK_WORKER_API_ENDPOINT": "grpc://127.0.0.1:50061",
    "NATIVELINK_CAS_ENDPOINT": "grpc://127.0.0.1:50053",
    "NATIVELINK_CAS_BUCKET": "nl-cas",
    "NATIVELINK_AC_BUCKET": "nl-ac",
    "NATIVELINK_POOLS": json.dumps([{"name": "x86", "properties": {}, "slots": 2}]),
}
_SECRETS = """
import boto3
client = boto3.client("secretsmanager", endpoint_url={aws!r}, region_name="eu-central-1")
print(client.create_secret(Name="redis", SecretString="pass")["ARN"])
s3 = boto3.client("s3", endpoint_url={aws!r}, region_name="eu-central-1")
where = {{"LocationConstraint": "eu-central-1"}}
for name in ("nl-cas", "nl-ac"):
    s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)
sqs = boto3.client("sqs", endpoint_url={aws!r}, region_name="eu-central-1")
print(sqs.create_queue(QueueName="drain")["QueueUrl"])
"""


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    with boot(tmp_path_factory.mktemp("booted")) as machine:
        yield machine


@pytest.fixture(scope="module")
def account(booted: Booted) -> dict[str, str]:
    """What is in AWS, made with the rights that the machine's metadata give its root."""
    script = _SECRETS.format(aws=AWS)
    secret, queue = booted.good("/opt/nativelink/bin/python", "-c", script).splitlines()
    return {"NATIVELINK_SECRET_REDIS_PASSWORD": secret, "NATIVELINK_DRAIN_QUEUE_URL": queue}


def test_the_test_of_the_image_is_good(booted: Booted) -> None:
    """What Image Builder asks before it hands an image out."""
    assert booted.good("/usr/lib/nativelink/test.sh").endswith("test: good")


def test_nothing_failed_while_it_started(booted: Booted) -> None:
    assert booted.run("systemctl", "--failed", "--no-legend").stdout == ""


@pytest.mark.parametrize("role", ROLES)
def test_user_data_starts_a_role_that_serves_and_drains(
    booted: Booted, account: dict[str, str], role: Role
) -> None:
    values = {each.name: each.example for each in VARIABLES if role in each.roles}
    told = _TOLD | account | {"NATIVELINK_ROLE": role}
    values |= {name: value for name, value in told.items() if name in values}
    unit = f"nativelink@{role}.service"
    # On a machine that is new, it is not there yet.
    booted.good("systemctl", "stop", "nativelink-prepare.service")
    try:
        booted.good("bash", stdin=script(role, lines(role, values)))
        answer = booted.run("/opt/nativelink/bin/python", "-I", "/usr/lib/nativelink/healthy.py")
        # A worker without a cas role is not well, or takes its time to find that out.
        assert answer.returncode == (1 if role == "worker" else 0), answer.stderr
        assert "nothing listens" not in answer.stderr
        assert booted.good("systemctl", "is-active", unit) == "active"
        log = booted.good("journalctl", "--unit", unit, "--output", "cat", "--no-pager")
        assert "Traceback" not in log
        booted.good("systemctl", "stop", unit)
        assert booted.good("systemctl", "show", "--property=Result", "--value", unit) == "success"
    finally:
        booted.good("systemctl", "disable", "--now", unit)
    assert not booted.listens(50090)
    sent = booted.good("cat", "/var/log/nativelink/nativelink.log").splitlines()
    stopped = [line for line in sent if re.search(r'"message": "stopped"', line)]
    assert json.loads(stopped[-1])["target"] == "nativelink.cli.serve"
