"""The policies of whoever runs `cdktf deploy`: as little as a stack's resources need.

An account lets a managed policy have 6,144 characters without spaces, and a role ten policies: so
there are several documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra import dashboard
from infra.kit import Kit
from infra.policy import Statement, document
from infra.reports.deployer_actions import ALWAYS, DATA, RESOURCES
from infra.reports.stack import Synthesized

__all__ = ["POLICY_BYTES", "actions_of", "deployer_policies"]

#: IAM's quota for a managed policy, without white space.
POLICY_BYTES: Final = 6144

#: Services that ask whoever names a role for them whether they may.
_PASSED_TO: Final = ("ec2.amazonaws.com", "imagebuilder.amazonaws.com")
_LINKED: Final = (
    "autoscaling.amazonaws.com",
    "elasticache.amazonaws.com",
    "elasticloadbalancing.amazonaws.com",
    "imagebuilder.amazonaws.com",
    "spot.amazonaws.com",
)


def actions_of(text: str) -> Iterator[str]:
    """`SERVICE:ACTION` of each action in a line of the table."""
    for part in filter(None, text.split(";")):
        service, _, names = part.partition(":")
        for name in names.split():
            yield f"{service.strip()}:{name}"


@dataclass(frozen=True)
class _Scope:
    """Resources of a service that are the region's.

    Attributes:
        resources: patterns of ARNs.
        wide: actions that AWS decides without a resource, or on one whose name is not known before.
    """

    resources: Sequence[str]
    wide: Sequence[str] = ()


def _scopes(kit: Kit) -> Mapping[str, _Scope]:
    name = kit.name()
    arn = kit.arn
    return {
        "autoscaling": _Scope([kit.group_arn(f"{name}-*")]),
        "budgets": _Scope([arn("budgets", f"budget/{kit.name(kit.region)}", region=False)]),
        "cloudwatch": _Scope(
            [
                arn("cloudwatch", f"alarm:{name}-*"),
                # Those that target tracking makes.
                arn("cloudwatch", f"alarm:TargetTracking-{name}-*"),
                arn("cloudwatch", f"dashboard/{dashboard.name_of(kit)}", region=False),
            ]
        ),
        "elasticache": _Scope(
            [
                arn("elasticache", f"{kind}:{name}-*")
                for kind in ("parametergroup", "replicationgroup", "subnetgroup", "cluster",
                             "user", "usergroup")
            ]
        ),
        "elasticloadbalancing": _Scope(
            [
                arn("elasticloadbalancing", f"{kind}/{name}-*")
                for kind in ("loadbalancer/net", "listener/net", "targetgroup")
            ]
        ),
        "events": _Scope([arn("events", f"rule/{name}-*")]),
        "iam": _Scope(
            [
                arn("iam", f"{kind}/{name}-*", region=False)
                for kind in ("role", "instance-profile")
            ],
        ),
        "imagebuilder": _Scope([arn("imagebuilder", f"*/{name}-*")]),
        "logs": _Scope(
            [arn("logs", f"log-group:{kit.path('*')}")],
            ("CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery",
             "PutQueryDefinition", "DeleteQueryDefinition", "PutResourcePolicy",
             "DescribeResourcePolicies"),
        ),
        "s3": _Scope([f"arn:aws:s3:::{name}-*"]),
        "secretsmanager": _Scope(
            [arn("secretsmanager", f"secret:{kit.path('*').lstrip('/')}")], ("GetRandomPassword",)
        ),
        "sns": _Scope([arn("sns", f"{name}-*")], ("Unsubscribe", "GetSubscriptionAttributes",
                                                  "SetSubscriptionAttributes")),
        "sqs": _Scope([arn("sqs", f"{name}-*")]),
        "ssm": _Scope(
            [arn("ssm", f"parameter{kit.path('*')}"), f"arn:aws:ssm:{kit.region}::parameter/aws/*"]
        ),
    }  # fmt: skip


#: Services whose resources have ids that AWS chooses, or none: the condition names the AWS region.
_BY_REGION: Final = frozenset({"acm", "ec2", "kms", "servicequotas"})
#: Without a region, and without names that are known before.
_EVERYWHERE: Final = frozenset({"route53", "sts"})


def deployer_policies(kit: Kit, stack: Synthesized) -> list[dict[str, Any]]:
    """Policy documents that together let somebody make, change and take away a stack.

    Raises:
        KeyError: the table of actions lacks a type of the stack.
    """
    wanted = set(actions_of(ALWAYS))
    for kind in stack.json["resource"]:
        wanted |= set(actions_of(RESOURCES[kind]))
    for kind in stack.json.get("data", {}):
        wanted |= set(actions_of(DATA[kind]))
    return _packed([*_statements(kit, wanted), *_state(kit)])


def _statements(kit: Kit, wanted: Iterable[str]) -> Iterator[Statement]:
    by_service: dict[str, list[str]] = {}
    for action in sorted(wanted):
        by_service.setdefault(action.partition(":")[0], []).append(action)
    scopes = _scopes(kit)
    here = {"StringEquals": {"aws:RequestedRegion": kit.region}}
    for service, actions in by_service.items():
        title = service.capitalize()
        if service in _EVERYWHERE:
            yield Statement(title, actions, ["*"])
        elif service in _BY_REGION:
            yield Statement(title, actions, ["*"], conditions=here)
        elif service == "iam":
            yield from _roles(kit, actions, scopes["iam"])
        else:
            scope = scopes[service]
            wide = [each for each in actions if _is_wide(each, scope)]
            narrow = [each for each in actions if each not in wide]
            if narrow:
                yield Statement(title, narrow, scope.resources)
            if wide:
                yield Statement(f"{title}Lists", wide, ["*"], conditions=here)


def _is_wide(action: str, scope: _Scope) -> bool:
    """Descriptions and lists of most services know no resource."""
    service, _, name = action.partition(":")
    if name in scope.wide:
        return True
    if service in {"autoscaling", "elasticloadbalancing"}:
        return name.startswith("Describe")
    return (service, name) in {
        ("cloudwatch", "DescribeAlarms"),
        ("logs", "DescribeLogGroups"),
        ("logs", "DescribeQueryDefinitions"),
        ("logs", "ListLogDeliveries"),
        ("ssm", "DescribeParameters"),
    }


def _roles(kit: Kit, actions: Sequence[str], scope: _Scope) -> Iterator[Statement]:
    apart = {"iam:PassRole", "iam:CreateServiceLinkedRole"}
    yield Statement("Iam", [each for each in actions if each not in apart], scope.resources)
    yield Statement(
        "IamPass",
        ["iam:PassRole"],
        [scope.resources[0]],
        conditions={"StringEquals": {"iam:PassedToService": _PASSED_TO}},
    )
    yield Statement(
        "IamServices",
        ["iam:CreateServiceLinkedRole"],
        [kit.arn("iam", "role/aws-service-role/*", region=False)],
        conditions={"StringEquals": {"iam:AWSServiceName": _LINKED}},
    )


def _state(kit: Kit) -> Iterator[Statement]:
    """Terraform's state and its lock, if they are in a bucket."""
    bucket = kit.settings.state_bucket
    if bucket is None:
        return
    arn = f"arn:aws:s3:::{bucket}"
    yield Statement("StateList", ["s3:ListBucket"], [arn])
    yield Statement(
        "State",
        ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        [f"{arn}/{kit.settings.name}/*"],
    )


def _packed(statements: Iterable[Statement]) -> list[dict[str, Any]]:
    """As few documents as hold them all, in order."""
    found: list[list[Statement]] = [[]]
    for statement in statements:
        if len(document(*found[-1], statement)) > POLICY_BYTES:
            found.append([])
        found[-1].append(statement)
    return [json.loads(document(*each)) for each in found]
