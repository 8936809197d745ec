"""IAM policies as data: statements that name what they allow, and on what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["Principal", "Statement", "account_root", "document", "service"]


@dataclass(frozen=True)
class Principal:
    """Who a resource's policy speaks of: an account or role of AWS, or a service."""

    kind: Literal["AWS", "Service"]
    who: str

    def plain(self) -> dict[str, str]:
        """As JSON."""
        return {self.kind: self.who}


#: Everybody: only ever with a condition, or in a denial.
ANYBODY: Final = Principal("AWS", "*")


def service(name: str) -> Principal:
    """An AWS service, such as `sns`."""
    return Principal("Service", f"{name}.amazonaws.com")


def account_root(account: str) -> Principal:
    """An account: whoever its own policies allow."""
    return Principal("AWS", f"arn:aws:iam::{account}:root")


@dataclass(frozen=True)
class Statement:
    """One statement.

    Attributes:
        sid: what it is for, in letters.
        actions: never empty.
        resources: empty only where the policy is a role's own, which says who may take it.
        principal: in policies of resources only.
        conditions: operator -> key -> value or values.
    """

    sid: str
    actions: Sequence[str]
    resources: Sequence[str]
    principal: Principal | None = None
    effect: Literal["Allow", "Deny"] = "Allow"
    conditions: Mapping[str, Mapping[str, str | Sequence[str]]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        result: dict[str, Any] = {"Sid": self.sid, "Effect": self.effect}
        if self.principal is not None:
            result["Principal"] = self.principal.plain()
        result["Action"] = list(self.actions)
        if self.resources:
            one = len(self.resources) == 1
            result["Resource"] = self.resources[0] if one else list(self.resources)
        if self.conditions:
            result["Condition"] = {
                operator: {
                    key: value if isinstance(value, str) else list(value)
                    for key, value in pairs.items()
                }
                for operator, pairs in self.conditions.items()
            }
        return result


def document(*statements: Statement) -> str:
    """A policy document.

    Raises:
        ValueError: two statements have one sid, or one names no action, or no resource and nobody.
    """
    sids = [statement.sid for statement in statements]
    if len(set(sids)) < len(sids):
        raise ValueError(f"sids are not unique: {', '.join(sids)}")
    for statement in statements:
        if not statement.actions or not (statement.resources or statement.principal):
            raise ValueError(f"{statement.sid}: names no action or no resource")
    body = {"Version": "2012-10-17", "Statement": [each.plain() for each in statements]}
    return json.dumps(body, separators=(",", ":"))


def require_tls(*resources: str) -> Statement:
    """Nobody comes in plain text."""
    prefix = resources[0].split(":")[2] if resources[0].startswith("arn:") else "s3"
    return Statement(
        "RequireTls",
        [f"{prefix}:*"],
        resources,
        principal=ANYBODY,
        effect="Deny",
        conditions={"Bool": {"aws:SecureTransport": "false"}},
    )
