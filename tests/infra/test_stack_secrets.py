"""Nothing secret stands where many can read: in what is synthesized, in user data, in outputs."""

from __future__ import annotations

import re

import pytest

from tests.infra.tools import Stack

pytestmark = pytest.mark.slow

#: What secrets look like.
SHAPES = (
    r"AKIA[0-9A-Z]{16}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"(?i)aws_secret_access_key\W+[A-Za-z0-9/+]{40}",
    r"://[^/\s:@\"]+:[^/\s:@\"]+@",
)


def test_no_synthesized_file_has_the_shape_of_a_secret(stacks: dict[str, Stack]) -> None:
    written = {
        path
        for stack in stacks.values()
        for path in stack.directory.parents[1].rglob("*.json")
        if ".terraform" not in path.parts and path.is_file()
    }
    assert written >= {stack.directory / "cdk.tf.json" for stack in stacks.values()}
    for path in written:
        text = path.read_text(encoding="utf-8")
        for shape in SHAPES:
            assert not re.search(shape, text), f"{path}: {shape}"


def test_no_output_leads_to_a_password(stacks: dict[str, Stack]) -> None:
    for stack in stacks.values():
        for name, output in stack.json.get("output", {}).items():
            value = str(output["value"])
            assert "terraform_data" not in value, name
            assert "secret" not in value.lower(), name
            assert "password" not in value.lower(), name


def test_passwords_go_to_the_user_and_the_secret_and_nowhere_else(
    stacks: dict[str, Stack],
) -> None:
    for stack in stacks.values():
        for each in stack.resources:
            text = str({key: value for key, value in each.body.items() if key != "//"})
            if "terraform_data." in text:
                assert each.type in {"aws_elasticache_user", "aws_secretsmanager_secret_version"}
        for version in stack.of("aws_secretsmanager_secret_version"):
            assert "secret_string" not in version.body, "write-only keeps it out of this resource"
            assert version.body["secret_string_wo_version"] >= 1


def test_a_password_is_marked_so_that_plans_do_not_print_it(stacks: dict[str, Stack]) -> None:
    for stack in stacks.values():
        for each in stack.of("terraform_data"):
            assert each.body["input"].startswith("${sensitive(")
            assert each.body["lifecycle"]["ignore_changes"] == ["input"]
