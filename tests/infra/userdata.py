"""What the machines of a synthesized stack are told."""

from __future__ import annotations

import json
import re
import shlex

from tests.infra.tools import Stack


def script_of(stack: Stack, machine: str) -> str:
    """The user data of `cas`, `scheduler` or `worker-POOL`, with Terraform's references in it."""
    text = stack.one("aws_launch_template", f"{machine}-machine/template").body["user_data"]
    match = re.fullmatch(r'\$\{base64encode\(join\("", \[(.*)\]\)\)\}', text, re.DOTALL)
    assert match, text[:80]
    script = ""
    for literal, reference in re.findall(r'("(?:[^"\\]|\\.)*")|([\w.-]+)', match[1]):
        script += json.loads(literal) if literal else f"${{{reference}}}"
    return script


def environment_of(stack: Stack, machine: str) -> dict[str, str]:
    """The lines of the environment file."""
    script = script_of(stack, machine)
    body = script.partition("<<'END-OF-ENVIRONMENT'\n")[2].partition("END-OF-ENVIRONMENT\n")[0]
    found: dict[str, str] = {}
    for line in body.splitlines():
        name, _, value = line.partition("=")
        assert name not in found, name
        found[name] = "".join(shlex.split(value))
    return found
