"""What each role may do, as a page: one table per role, from the policies that it really gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from infra.reports.stack import Resource, Synthesized

__all__ = ["permissions_page", "statements_of"]

_HEAD: Final = """\
# What each role may do

<!-- Written by scripts/generate_infra_docs.py from infra/examples/team.yaml; do not edit. -->

Every IAM role that the kit makes, with every statement of its policies; what is not here is denied.
Nobody deletes objects: S3 does, by age. Workers reach no bucket, no secret and no queue: what they
read and write goes through the cas role, and what they produced is cached by the scheduler. So an
action that breaks out of its worker can end that worker's machine and write to its log.

Names are those of the example `team` in account {account}; an id that AWS chooses is written as the
resource's name, or `*`. With `tls.mode: mutual` all three roles of machines may read the secret
with certificates too.
"""


def _many(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def statements_of(stack: Synthesized, role: Resource) -> list[dict[str, Any]]:
    """The statements of a role's own policies, resolved."""
    found: list[dict[str, Any]] = []
    for policy in stack.of("aws_iam_role_policy"):
        owner = stack.referred(policy.body["role"])
        if owner is not None and owner.name == role.name:
            found += json.loads(stack.resolved(policy.body["policy"]))["Statement"]
    return found


def permissions_page(stack: Synthesized) -> str:
    """The whole page."""
    parts = [_HEAD.format(account=stack.account)]
    for role in stack.of("aws_iam_role"):
        parts += ["", *_role(stack, role)]
    return "\n".join(parts) + "\n"


def _role(stack: Synthesized, role: Resource) -> Iterator[str]:
    yield f"## {role.body['name']}"
    yield ""
    trust = json.loads(role.body["assume_role_policy"])["Statement"]
    who = ", ".join(_words(each) for each in trust)
    yield f"{role.body['description']}. May be taken by {who}."
    yield ""
    attached = [
        each.body["policy_arn"]
        for each in stack.of("aws_iam_role_policy_attachment")
        if (owner := stack.referred(each.body["role"])) is not None and owner.name == role.name
    ]
    if attached:
        names = ", ".join(f"`{arn.rpartition('/')[2]}`" for arn in attached)
        yield f"With AWS' own policies {names}."
        yield ""
    statements = statements_of(stack, role)
    if not statements:
        return
    yield "| statement | actions | on | if |"
    yield "|---|---|---|---|"
    for each in statements:
        assert each["Effect"] == "Allow", "a denial needs a column of its own"
        actions = "<br>".join(f"`{action}`" for action in _many(each["Action"]))
        resources = "<br>".join(f"`{resource}`" for resource in _many(each["Resource"]))
        yield f"| {each['Sid']} | {actions} | {resources} | {_if(each.get('Condition', {}))} |"


def _words(statement: Mapping[str, Any]) -> str:
    who = "`" + "`, `".join(_many(statement["Principal"]["Service"])) + "`"
    condition = _if(statement.get("Condition", {}))
    return f"{who} if {condition}" if condition else who


def _if(condition: Mapping[str, Mapping[str, Any]]) -> str:
    return "<br>".join(
        f"`{key}` {operator} `{', '.join(_many(value))}`"
        for operator, pairs in condition.items()
        for key, value in pairs.items()
    )
