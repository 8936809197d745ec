"""`cdktf deploy` against an emulator: made, made again, handed out, taken away without a rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.environment import names
from tests.infra.tools import ACCOUNT, CDKTF, EXAMPLES, PYTHON, ROOT, moto, need, run

pytestmark = pytest.mark.slow

REGION = "eu-central-1"


class Deployment:
    """The example `minimal` on an emulator of its own, by the commands that people use."""

    def __init__(self, folder: Path, endpoint: str, terraform: dict[str, str]) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self._variables = {
            **terraform,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'app'}",
            "REGION": str(EXAMPLES / "minimal.yaml"),
            "NATIVELINK_LOCAL": endpoint,
            "CI": "1",
            "FORCE_COLOR": "0",
        }
        app = f"{PYTHON} -m infra.main"
        settings = json.loads((ROOT / "cdktf.json").read_text(encoding="utf-8")) | {"app": app}
        (folder / "cdktf.json").write_text(json.dumps(settings), encoding="utf-8")

    def cdktf(self, *arguments: str) -> str:
        """What `cdktf` prints; it fails with all of it."""
        return run([CDKTF, *arguments], cwd=self.folder, env=self._variables)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, terraform: dict[str, str]
) -> Iterator[Deployment]:
    need(PYTHON, CDKTF, "node")
    folder = tmp_path_factory.mktemp("deployment")
    with moto(folder / "moto.log") as endpoint:
        deployed = Deployment(folder, endpoint, terraform)
        deployed.cdktf("deploy", "--auto-approve", "--skip-provider-lock")
        yield deployed
    shutil.rmtree(folder / "cdktf.out", ignore_errors=True)


def test_a_team_is_handed_an_endpoint_and_lines_for_bazel(deployment: Deployment) -> None:
    file = deployment.folder / "outputs.json"
    deployment.cdktf("output", "--outputs-file", str(file), "--skip-synth", "--skip-provider-lock")
    outputs = json.loads(file.read_text(encoding="utf-8"))["minimal"]
    (balancer,) = [
        each["DNSName"]
        for each in deployment.client("elbv2").describe_load_balancers()["LoadBalancers"]
        if each["LoadBalancerName"] == "nl-minimal-edge"
    ]
    assert outputs["endpoint"] == f"grpc://{balancer}:50051"
    assert f"build --remote_executor=grpc://{balancer}:50051" in outputs["bazelrc"].splitlines()
    assert not [name for name in outputs if "password" in name]


def test_buckets_are_there_with_their_rules(deployment: Deployment) -> None:
    s3 = deployment.client("s3")
    purposes = ("ac", "artifacts", "cas", "index", "logs")
    expected = {f"nl-minimal-{each}-{ACCOUNT}-{REGION}" for each in purposes}
    assert {each["Name"] for each in s3.list_buckets()["Buckets"]} == expected
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=f"nl-minimal-cas-{ACCOUNT}-{REGION}")[
        "Rules"
    ]
    assert rule["Expiration"]["Days"] == 180
    assert [(each["Days"], each["StorageClass"]) for each in rule["Transitions"]] == [
        (30, "STANDARD_IA"),
        (90, "GLACIER_IR"),
    ]


def test_a_pool_begins_empty_and_may_grow(deployment: Deployment) -> None:
    autoscaling = deployment.client("autoscaling")
    groups = {
        each["AutoScalingGroupName"]: each
        for each in autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    }
    assert groups.keys() == {"nl-minimal-cas", "nl-minimal-scheduler", "nl-minimal-worker-x86"}
    workers = groups["nl-minimal-worker-x86"]
    assert (workers["MinSize"], workers["MaxSize"], workers["Instances"]) == (0, 20, [])
    assert len(groups["nl-minimal-cas"]["Instances"]) == 1
    policies = autoscaling.describe_policies(AutoScalingGroupName="nl-minimal-worker-x86")
    assert {each["PolicyName"] for each in policies["ScalingPolicies"]} == {
        "nl-minimal-x86-load",
        "nl-minimal-x86-from-zero",
    }
    hooks = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="nl-minimal-worker-x86")
    assert {each["LifecycleHookName"] for each in hooks["LifecycleHooks"]} == {"ready", "drain"}


def test_a_machine_is_told_everything_that_its_role_needs(deployment: Deployment) -> None:
    import base64

    ec2 = deployment.client("ec2")
    for template, role in (
        ("nl-minimal-cas", "cas"),
        ("nl-minimal-scheduler", "scheduler"),
        ("nl-minimal-worker-x86", "worker"),
    ):
        (version,) = ec2.describe_launch_template_versions(
            LaunchTemplateName=template, Versions=["$Latest"]
        )["LaunchTemplateVersions"]
        script = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
        told = {
            line.partition("=")[0]
            for line in script.partition("<<'END-OF-ENVIRONMENT'\n")[2].splitlines()
            if "=" in line
        }
        assert told == names(role)
        assert "${" not in script
        assert "aws_" not in script, "a reference that was never resolved"


def test_the_secret_has_the_password_and_user_data_has_not(deployment: Deployment) -> None:
    secrets = deployment.client("secretsmanager")
    (secret,) = secrets.list_secrets()["SecretList"]
    password = secrets.get_secret_value(SecretId=secret["ARN"])["SecretString"]
    assert len(password) == 48
    files = deployment.folder / "cdktf.out"
    for path in files.rglob("*.json"):
        assert password not in path.read_text(encoding="utf-8"), path


def test_what_aws_says_about_workers_reaches_the_queue(deployment: Deployment) -> None:
    events = deployment.client("events")
    for rule in ("nl-minimal-spot", "nl-minimal-leaving", "nl-minimal-ended"):
        (target,) = events.list_targets_by_rule(Rule=rule)["Targets"]
        assert target["Arn"] == f"arn:aws:sqs:{REGION}:{ACCOUNT}:nl-minimal-drain"
    attributes = deployment.client("sqs").get_queue_attributes(
        QueueUrl=deployment.client("sqs").get_queue_url(QueueName="nl-minimal-drain")["QueueUrl"],
        AttributeNames=["All"],
    )["Attributes"]
    assert json.loads(attributes["RedrivePolicy"])["maxReceiveCount"] == 5


def test_a_second_deployment_changes_no_machine_and_then_nothing_is_left(
    deployment: Deployment,
) -> None:
    """Last, because it takes everything away."""

    def machines() -> list[str]:
        groups = deployment.client("autoscaling").describe_auto_scaling_groups()
        return sorted(
            each["InstanceId"]
            for group in groups["AutoScalingGroups"]
            for each in group["Instances"]
        )

    def password() -> str:
        secrets = deployment.client("secretsmanager")
        (secret,) = secrets.list_secrets()["SecretList"]
        found: str = secrets.get_secret_value(SecretId=secret["ARN"])["SecretString"]
        return found

    before, kept = machines(), password()
    deployment.cdktf("deploy", "--auto-approve", "--skip-provider-lock", "--skip-synth")
    assert machines() == before
    assert password() == kept
    deployment.cdktf("destroy", "--auto-approve", "--skip-provider-lock", "--skip-synth")
    assert deployment.client("s3").list_buckets()["Buckets"] == []
    assert machines() == []
    assert deployment.client("elbv2").describe_load_balancers()["LoadBalancers"] == []
    assert deployment.client("ec2").describe_launch_templates()["LaunchTemplates"] == []
    vpcs = deployment.client("ec2").describe_vpcs(
        Filters=[{"Name": "is-default", "Values": ["false"]}]
    )
    assert vpcs["Vpcs"] == []
    assert not Path(deployment.folder / "terraform.minimal.tfstate.lock.info").exists()
