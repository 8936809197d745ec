"""What EC2 Image Builder makes images with."""

from __future__ import annotations

import base64
import subprocess

import pytest

from tests.infra.tools import Stack

pytestmark = pytest.mark.slow


def test_the_machine_that_makes_an_image_can_be_spoken_to(stacks: dict[str, Stack]) -> None:
    recipes = stacks["aws/minimal"].of("aws_imagebuilder_image_recipe")
    (encoded,) = {each.body["user_data_base64"] for each in recipes}
    script = base64.b64decode(encoded).decode()
    assert script.startswith("#!/bin/bash\nset -euo pipefail\n")
    assert "amazon-ssm-agent.deb" in script
    assert "{" not in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_an_image_that_machines_start_from_is_not_deleted(stacks: dict[str, Stack]) -> None:
    """A template whose image is gone starts nothing."""
    (policy,) = stacks["aws/minimal"].of("aws_imagebuilder_lifecycle_policy")
    (detail,) = policy.body["policy_detail"]
    (rules,) = detail["exclusion_rules"]
    (spared,) = rules["amis"]
    assert spared["last_launched"] == [{"unit": "MONTHS", "value": 6}]


def test_what_installs_gets_the_bundle_and_what_tests_does_not(stacks: dict[str, Stack]) -> None:
    for recipe in stacks["aws/minimal"].of("aws_imagebuilder_image_recipe"):
        names = [
            [each["name"] for each in component.get("parameter") or ()]
            for component in recipe.body["component"]
        ]
        assert names == [["Bundle"], ["Bundle"], []]
