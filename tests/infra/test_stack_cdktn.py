"""The successor of CDKTF makes the same Terraform of the same code: the way out is open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.infra.tools import Stack, synthesize

pytestmark = pytest.mark.slow


def normal(stack: Stack) -> Any:
    """A stack without what each of the two says of itself."""
    tree = json.loads(stack.text)
    del tree["//"]
    for provider in tree["terraform"]["required_providers"].values():
        provider["source"] = provider["source"].removeprefix("hashicorp/")
    return tree


def test_both_libraries_synthesize_the_same(
    stacks: dict[str, Stack], emulator: str, shared: Path
) -> None:
    """On AWS all examples; on a laptop one, which calls what none on AWS does."""
    others = synthesize(shared / "cdktn", emulator, flavour="cdktn", only="minimal")
    on_aws = {name for name in stacks if name.startswith("aws/")}
    assert others.keys() == {*on_aws, "local/minimal"}
    for name, path in others.items():
        assert normal(Stack(name, path)) == normal(stacks[name]), name
