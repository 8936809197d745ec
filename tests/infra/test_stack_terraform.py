"""Terraform accepts, tests and plans every stack."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.infra.tools import EXAMPLES, Stack

pytestmark = pytest.mark.slow

REGIONS = [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))]
_HERE = "eu-central-1:111122223333"
#: Made-up ARNs, where the provider looks whether one is well-formed.
ARNS = {
    "aws_acm_certificate": f"acm:{_HERE}:certificate/made-up",
    "aws_autoscaling_policy": f"autoscaling:{_HERE}:scalingPolicy:made-up",
    "aws_cloudwatch_event_rule": f"events:{_HERE}:rule/made-up",
    "aws_cloudwatch_log_group": f"logs:{_HERE}:log-group:made-up",
    "aws_iam_instance_profile": "iam::111122223333:instance-profile/made-up",
    "aws_iam_role": "iam::111122223333:role/made-up",
    "aws_imagebuilder_component": f"imagebuilder:{_HERE}:component/made-up/1.0.0/1",
    "aws_imagebuilder_distribution_configuration": (
        f"imagebuilder:{_HERE}:distribution-configuration/made-up"
    ),
    "aws_imagebuilder_image_recipe": f"imagebuilder:{_HERE}:image-recipe/made-up/1.0.0",
    "aws_imagebuilder_infrastructure_configuration": (
        f"imagebuilder:{_HERE}:infrastructure-configuration/made-up"
    ),
    "aws_kms_key": f"kms:{_HERE}:key/made-up",
    "aws_lb": f"elasticloadbalancing:{_HERE}:loadbalancer/net/made-up/1",
    "aws_lb_target_group": f"elasticloadbalancing:{_HERE}:targetgroup/made-up/1",
    "aws_s3_bucket": "s3:::made-up",
    "aws_secretsmanager_secret": f"secretsmanager:{_HERE}:secret:made-up",
    "aws_sns_topic": f"sns:{_HERE}:made-up",
    "aws_sqs_queue": f"sqs:{_HERE}:made-up",
}

#: What is read of an answer besides.
MORE = {
    "aws_acm_certificate": (
        'domain_validation_options = [{ domain_name = "a.example", '
        'resource_record_name = "_b.a.example", resource_record_type = "CNAME", '
        'resource_record_value = "_c.example" }]'
    )
}


def execute(stack: Stack, variables: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [variables["TERRAFORM_BINARY_NAME"], *arguments, "-no-color"],
        cwd=stack.directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr[:6000]}\n{done.stdout[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def prepared(stacks: dict[str, Stack], terraform: dict[str, str]) -> dict[str, Stack]:
    """The stacks, with a state in a file whatever their backend is, and the provider at hand."""
    return {
        name: _prepare(stack, terraform)
        for name, stack in stacks.items()
        if name.startswith("aws/")
    }


def _prepare(stack: Stack, variables: dict[str, str]) -> Stack:
    override = {"terraform": {"backend": {"local": {"path": "terraform.tfstate"}}}}
    (stack.directory / "backend_override.tf.json").write_text(json.dumps(override))
    if not (stack.directory / ".terraform").exists():
        execute(stack, variables, "init", "-input=false")
    return stack


def _mocks(stack: Stack) -> str:
    """Made-up answers for the types that the stack has."""
    text = ["# Every resource planned and made: what refers to what holds together."]
    text += ['mock_provider "aws" {', '  mock_data "aws_availability_zones" {']
    text += ['    defaults = { names = ["a", "b", "c"] }', "  }"]
    text += ['  mock_data "aws_secretsmanager_random_password" {']
    text += [f'    defaults = {{ random_password = "{"x" * 48}" }}', "  }"]
    for kind, arn in ARNS.items():
        if kind in stack.json["resource"]:
            text += [f'  mock_resource "{kind}" {{']
            text += [
                "    defaults = {",
                f'      arn = "arn:aws:{arn}"',
                f"      {MORE.get(kind, '')}",
            ]
            text += ["    }", "  }"]
    if "aws_vpc" in stack.json["resource"]:
        text += ['  mock_resource "aws_vpc" {']
        text += ['    defaults = { ipv6_cidr_block = "2001:db8:0:100::/56" }', "  }"]
    if "aws_launch_template" in stack.json["resource"]:
        text += ['  mock_resource "aws_launch_template" {']
        text += ['    defaults = { id = "lt-0123456789abcdef0" }', "  }"]
    if "aws_imagebuilder_image" in stack.json["resource"]:
        ami = 'output_resources = [{ amis = [{ image = "ami-0123456789abcdef0" }] }]'
        text += ['  mock_resource "aws_imagebuilder_image" {', f"    defaults = {{ {ami} }}", "  }"]
    text += ["}", 'run "plan" { command = plan }', 'run "apply" { command = apply }', ""]
    return "\n".join(text)


@pytest.mark.parametrize("name", [f"aws/{region}" for region in [*REGIONS, "bootstrap"]])
def test_terraform_accepts_it(
    name: str, prepared: dict[str, Stack], terraform: dict[str, str]
) -> None:
    stack = prepared[name]
    (stack.directory / "mocks.tftest.hcl").unlink(missing_ok=True)
    verdict = json.loads(execute(stack, terraform, "validate", "-json"))
    assert verdict["valid"] is True
    assert verdict["diagnostics"] == []


@pytest.mark.parametrize("name", [f"aws/{region}" for region in ("minimal", "multi-az-production")])
def test_what_refers_to_what_holds_together(
    name: str, prepared: dict[str, Stack], terraform: dict[str, str]
) -> None:
    """`terraform test`: planned and made without AWS, with made-up answers."""
    stack = prepared[name]
    file = stack.directory / "mocks.tftest.hcl"
    file.write_text(_mocks(stack), encoding="utf-8")
    try:
        assert "Success! 2 passed, 0 failed." in execute(stack, terraform, "test")
    finally:
        file.unlink()


def plan_of(stack: Stack, variables: dict[str, str], emulator: str) -> dict[str, Any]:
    """The plan as JSON, made once; the emulator answers what planning has to ask AWS."""
    file = stack.directory / "plan.json"
    if not file.exists():
        asks = {
            "AWS_ENDPOINT_URL": emulator,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        _prepare(stack, variables)
        arguments = ("-input=false", "-lock=false", "-refresh=false", "-out=plan")
        execute(stack, {**variables, **asks}, "plan", *arguments)
        file.write_text(execute(stack, variables, "show", "-json", "plan"), encoding="utf-8")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("region", REGIONS)
def test_the_whole_stack_can_be_planned(
    region: str, prepared: dict[str, Stack], terraform: dict[str, str], emulator: str
) -> None:
    """As on AWS, nothing left out: planning asks AWS only for zones, accounts and passwords."""
    stack = prepared[f"aws/{region}"]
    plan = plan_of(stack, terraform, emulator)
    actions = {tuple(each["change"]["actions"]) for each in plan["resource_changes"]}
    assert actions <= {("create",), ("read",)}
    planned = {each["address"] for each in plan["resource_changes"] if each["mode"] == "managed"}
    assert planned == {each.address for each in stack.resources}
