"""Terraform tests and plans every stack."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.infra.planner import Planner
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
    text += ["}", 'run "apply" { command = apply }', ""]
    return "\n".join(text)


def _unprotected(stack: Stack) -> dict[str, Any]:
    """An override by which every resource may be destroyed."""
    found: dict[str, dict[str, Any]] = {}
    for each in stack.resources:
        if each.body.get("lifecycle", {}).get("prevent_destroy"):
            found.setdefault(each.type, {})[each.name] = {"lifecycle": {"prevent_destroy": False}}
    return {"resource": found} if found else {}


@pytest.mark.parametrize("name", [f"aws/{region}" for region in ("minimal", "multi-az-production")])
def test_what_refers_to_what_holds_together(
    name: str, stacks: dict[str, Stack], planner: Planner
) -> None:
    """`terraform test`: planned and made without AWS, with made-up answers."""
    stack = planner.prepare(stacks[name])
    mocks = stack.directory / "mocks.tftest.hcl"
    mocks.write_text(_mocks(stack), encoding="utf-8")
    # What was made up is destroyed at the end, whatever protects the real one.
    unprotected = stack.directory / "unprotected_override.tf.json"
    unprotected.write_text(json.dumps(_unprotected(stack)), encoding="utf-8")
    try:
        assert "Success! 1 passed, 0 failed." in planner.run(stack, "test")
    finally:
        mocks.unlink()
        unprotected.unlink()


@pytest.mark.parametrize("name", [f"aws/{region}" for region in [*REGIONS, "bootstrap"]])
def test_the_whole_stack_can_be_planned(
    name: str, stacks: dict[str, Stack], planner: Planner
) -> None:
    """As on AWS, nothing left out: planning asks AWS only for zones, accounts and passwords.

    Terraform validates what it plans, and has nothing to say against it.
    """
    stack = stacks[name]
    plan = planner.plan(stack)
    assert plan.of("diagnostic") == []
    changes = [each["change"] for each in plan.of("planned_change")]
    assert {each["action"] for each in changes} <= {"create", "read"}
    planned = {each["resource"]["addr"] for each in changes if each["action"] == "create"}
    assert planned == {each.address for each in stack.resources}
