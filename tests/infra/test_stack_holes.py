"""What no scanner sees: doors that would be open although every resource looks well."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from infra.environment import (
    CLIENT_PORT,
    SCHEDULER_PORT,
    STATUS_PORT,
    WORKER_API_PORT,
    WORKER_CAS_PORT,
)
from infra.retention import of_ac, of_cas
from infra.settings_load import load
from tests.infra.tools import EXAMPLES, Stack
from tests.infra.userdata import environment_of

pytestmark = pytest.mark.slow

REGIONS = [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))]


@pytest.fixture(params=REGIONS)
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[f"aws/{request.param}"]


def group_of(reference: str, stack: Stack) -> str:
    """What a security group protects, by its name's last part."""
    name = re.fullmatch(r"\$\{aws_security_group\.([\w-]+)\.id\}", reference)
    assert name, reference
    return str(stack.json["resource"]["aws_security_group"][name[1]]["name"]).split("-", 2)[2]


def connections(stack: Stack) -> set[tuple[str, str, int]]:
    """Who may connect to whom on which port: what egress and ingress both allow."""
    out, into = set(), set()
    for rule in stack.of("aws_vpc_security_group_egress_rule"):
        if (peer := rule.body.get("referenced_security_group_id")) is not None:
            here = group_of(rule.body["security_group_id"], stack)
            out.add((here, group_of(peer, stack), rule.body["from_port"]))
    for rule in stack.of("aws_vpc_security_group_ingress_rule"):
        here = group_of(rule.body["security_group_id"], stack)
        if (peer := rule.body.get("referenced_security_group_id")) is not None:
            into.add((group_of(peer, stack), here, rule.body["from_port"]))
        else:
            assert "prefix_list_id" in rule.body
            into.add(("clients", here, rule.body["from_port"]))
            out.add(("clients", here, rule.body["from_port"]))
    assert out == into, "a rule on one side only opens nothing"
    return out


def test_these_are_all_connections(stack: Stack) -> None:
    doors = {port for who, what, port in connections(stack) if (who, what) == ("clients", "edge")}
    assert doors in ({443, 8443}, {CLIENT_PORT, SCHEDULER_PORT})
    assert connections(stack) == {
        *(("clients", "edge", port) for port in doors),
        ("edge", "cas", CLIENT_PORT),
        ("edge", "scheduler", SCHEDULER_PORT),
        ("cas", "inner", SCHEDULER_PORT),
        ("worker", "inner", WORKER_API_PORT),
        ("worker", "inner", WORKER_CAS_PORT),
        ("inner", "scheduler", SCHEDULER_PORT),
        ("inner", "scheduler", WORKER_API_PORT),
        ("inner", "cas", WORKER_CAS_PORT),
        *((balancer, role, STATUS_PORT) for balancer in ("edge", "inner")
          for role in ("cas", "scheduler")),
        *((role, "redis", 6379) for role in ("cas", "scheduler")),
        *((role, "endpoints", 443) for role in ("cas", "scheduler", "worker")),
        # Names of AWS' services lead every machine of the network to the endpoints.
        *((each.body["name"].split("-", 2)[2], "endpoints", 443)
          for each in stack.of("aws_security_group") if each.path.startswith("images/")),
    }  # fmt: skip


def reachable(stack: Stack, start: str) -> set[tuple[str, int]]:
    """Ports that somebody reaches by way of load balancers, which pass a port to its targets."""
    edges = connections(stack)
    balancers = {"edge", "inner"}
    found = {(what, port) for who, what, port in edges if who == start}
    for balancer in balancers & {what for what, _ in found}:
        ports = {port for what, port in found if what == balancer}
        for listener in stack.of("aws_lb_listener"):
            if not listener.path.startswith(f"{balancer}/") or listener.body["port"] not in ports:
                continue
            target = listener.body["default_action"][0]["target_group_arn"]
            name = re.fullmatch(r"\$\{aws_lb_target_group\.([\w-]+)\.arn\}", target)
            assert name
            port = stack.json["resource"]["aws_lb_target_group"][name[1]]["port"]
            found |= {(what, port) for who, what, each in edges if who == balancer and each == port}
    return found


def test_clients_reach_neither_the_worker_api_nor_redis_nor_a_machine(stack: Stack) -> None:
    found = reachable(stack, "clients")
    assert {port for _, port in found}.isdisjoint({WORKER_API_PORT, WORKER_CAS_PORT, 6379})
    assert not {what for what, port in found if port == STATUS_PORT}
    assert ("cas", CLIENT_PORT) in found
    assert ("scheduler", SCHEDULER_PORT) in found


def test_workers_reach_the_worker_api_and_blobs_and_no_action_cache(stack: Stack) -> None:
    """The clients' port has the action cache: a worker that was taken over must not write there."""
    assert reachable(stack, "worker") == {
        ("inner", WORKER_API_PORT),
        ("inner", WORKER_CAS_PORT),
        ("scheduler", WORKER_API_PORT),
        ("cas", WORKER_CAS_PORT),
        ("endpoints", 443),
    }


def test_the_balancer_of_machines_is_never_public(stack: Stack) -> None:
    inner = stack.one("aws_lb", "inner/balancer")
    assert inner.body["internal"] is True
    settings = load(EXAMPLES / f"{stack.name.partition('/')[2]}.yaml")
    assert stack.one("aws_lb", "edge/balancer").body["internal"] is not settings.public


def test_a_balancer_is_not_reached_by_its_own_targets_with_their_own_address(stack: Stack) -> None:
    """With the client's address kept, a machine that reaches itself would answer to itself."""
    hairpins = {"inner"}  # cas machines call it, and are among its targets
    for group in stack.of("aws_lb_target_group"):
        kept = group.body["preserve_client_ip"] == "true"
        assert kept is (group.path.partition("/")[0] not in hairpins)


def test_mutual_tls_is_never_ended_at_the_balancer(stack: Stack) -> None:
    for listener in stack.of("aws_lb_listener"):
        inside = listener.path.startswith("inner/")
        ends = listener.body["protocol"] == "TLS"
        environment = environment_of(stack, "cas")
        assert ends is (environment["NATIVELINK_TLS"] == "server" and not inside)
        if ends:
            assert listener.body["alpn_policy"] == "HTTP2Only"
            assert "TLS13" in listener.body["ssl_policy"]
        else:
            assert listener.body["tcp_idle_timeout_seconds"] == 350


def test_every_check_of_health_asks_status_by_plain_http(stack: Stack) -> None:
    for group in stack.of("aws_lb_target_group"):
        check = group.body["health_check"]
        assert (check["protocol"], check["path"]) == ("HTTP", "/status")
        assert check["port"] == str(STATUS_PORT)


def test_auto_scaling_may_use_the_key_of_the_disks(stack: Stack) -> None:
    """Without, every launch fails, and nothing but an activity log says so."""
    policy = json.loads(stack.one("aws_kms_key", "keys/disks").body["policy"])
    statements = {each["Sid"]: each for each in policy["Statement"]}
    assert "kms:CreateGrant" in statements["GrantsForInstances"]["Action"]
    assert "kms:GenerateDataKey*" in statements["DisksOfInstances"]["Action"]
    for sid in ("GrantsForInstances", "DisksOfInstances"):
        condition = statements[sid]["Condition"]["StringEquals"]
        assert condition["kms:CallerAccount"] == "111122223333"
        assert condition["kms:ViaService"].startswith("ec2.")


def test_the_server_forgets_objects_before_s3_deletes_them(stack: Stack) -> None:
    settings = load(EXAMPLES / f"{stack.name.partition('/')[2]}.yaml")
    environment = environment_of(stack, "cas")
    day = 86_400
    ages: dict[str, int] = {}
    for bucket, retention in (("cas", of_cas(settings.storage)), ("ac", of_ac(settings.storage))):
        (rule,) = stack.one("aws_s3_bucket_lifecycle_configuration", f"{bucket}/lifecycle").body[
            "rule"
        ]
        ages[bucket] = rule["expiration"][0]["days"]
        assert ages[bucket] == retention.expire_days
        expired = int(environment[f"NATIVELINK_{bucket.upper()}_EXPIRED_AFTER_S"])
        refresh = int(environment[f"NATIVELINK_{bucket.upper()}_REFRESH_AFTER_S"])
        assert 0 < refresh < expired <= (ages[bucket] - 1) * day
        for transition in rule.get("transition", []):
            assert transition["days"] < ages[bucket]
            assert transition["storage_class"] in {
                "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING",
            }, "what has to be restored first is a read error for a cache"  # fmt: skip
    assert ages["ac"] < ages["cas"]


def test_the_way_to_s3_leads_to_the_buckets_of_the_region_only(stack: Stack) -> None:
    endpoint = stack.one("aws_vpc_endpoint", "endpoints/s3")
    (statement,) = json.loads(endpoint.body["policy"])["Statement"]
    allowed = set(statement["Resource"])
    own = {
        ending
        for bucket in stack.of("aws_s3_bucket")
        for ending in (f"${{{bucket.address}.arn}}", f"${{{bucket.address}.arn}}/*")
    }
    assert allowed == own


def test_interface_endpoints_serve_this_account_only(stack: Stack) -> None:
    for endpoint in stack.of("aws_vpc_endpoint"):
        if endpoint.body["vpc_endpoint_type"] == "Interface":
            (statement,) = json.loads(endpoint.body["policy"])["Statement"]
            assert statement["Condition"] == {
                "StringEquals": {"aws:PrincipalAccount": "111122223333"}
            }


def test_machines_have_a_way_to_every_service_that_their_role_may_use(stack: Stack) -> None:
    """Without NAT, an action that is allowed and has no endpoint hangs until it times out."""
    there = {each.body["service_name"].split(".")[-1] for each in stack.of("aws_vpc_endpoint")}
    names = {"cloudwatch": "monitoring", "kms": None}
    for policy in stack.of("aws_iam_role_policy"):
        if policy.path.startswith("images/"):
            continue  # that machine has the internet
        for statement in json.loads(policy.body["policy"])["Statement"]:
            for action in statement["Action"]:
                service = action.partition(":")[0]
                needed = names.get(service, service)
                assert needed is None or needed in there, action


def test_the_scheduler_is_one_and_goes_before_the_next_one_comes(stack: Stack) -> None:
    group = stack.one("aws_autoscaling_group", "scheduler-fleet/group").body
    assert (group["min_size"], group["max_size"], group["desired_capacity"]) == (1, 1, 1)
    assert group["instance_maintenance_policy"] == {
        "min_healthy_percentage": 0,
        "max_healthy_percentage": 100,
    }


def test_nothing_takes_workers_away_but_themselves(stack: Stack) -> None:
    for group in stack.of("aws_autoscaling_group"):
        if not group.path.startswith("worker-"):
            continue
        assert group.body["protect_from_scale_in"] is True
        assert group.body["suspended_processes"] == ["AZRebalance"]
        assert group.body["lifecycle"]["ignore_changes"] == ["desired_capacity"]
    for policy in stack.of("aws_autoscaling_policy"):
        if policy.body["policy_type"] == "TargetTrackingScaling":
            assert policy.body["target_tracking_configuration"]["disable_scale_in"] is True
        else:
            assert all(step["scaling_adjustment"] > 0 for step in policy.body["step_adjustment"])


def test_spot_pools_can_choose_among_ten_types_and_follow_capacity(stack: Stack) -> None:
    for group in stack.of("aws_autoscaling_group"):
        mixed = group.body.get("mixed_instances_policy")
        if mixed is None:
            continue
        spread = mixed["instances_distribution"]
        assert spread["spot_allocation_strategy"] == "price-capacity-optimized"
        if group.body["capacity_rebalance"]:
            assert len(mixed["launch_template"]["override"]) >= 10
        else:
            assert spread["on_demand_percentage_above_base_capacity"] == 100


def metrics_of(value: Any) -> Iterator[tuple[str, ...]]:
    """Every metric of a dashboard: namespace, name, dimensions. Expressions are left out."""
    for widget in value["widgets"]:
        yield from (
            tuple(metric)
            for metric in widget["properties"]["metrics"]
            if isinstance(metric[0], str)
        )


def test_the_dashboard_shows_metrics_of_what_is_there(stack: Stack) -> None:
    body = json.loads(stack.one("aws_cloudwatch_dashboard", "dashboard").body["dashboard_body"])
    groups = {each.body["name"] for each in stack.of("aws_autoscaling_group")}
    buckets = {each.body["bucket"] for each in stack.of("aws_s3_bucket")}
    told = json.loads(environment_of(stack, "scheduler")["NATIVELINK_POOLS"])
    pools = {each["name"] for each in told}
    seen = set()
    for namespace, _name, *dimensions in metrics_of(body):
        seen.add(namespace)
        for key, value in zip(dimensions[::2], dimensions[1::2], strict=True):
            match key:
                case "AutoScalingGroupName":
                    assert value in groups
                case "BucketName":
                    assert value in buckets
                case "Pool":
                    assert value in pools
    assert len(seen) >= 5


def test_a_search_of_the_dashboard_quotes_the_namespace(stack: Stack) -> None:
    """A namespace has a slash, and a dash where the region's name does; CloudWatch wants quotes."""
    body = json.loads(stack.one("aws_cloudwatch_dashboard", "dashboard").body["dashboard_body"])
    region = environment_of(stack, "cas")["NATIVELINK_REGION"]
    searches = [
        metric[0]["expression"]
        for widget in body["widgets"]
        for metric in widget["properties"]["metrics"]
        if isinstance(metric[0], dict)
    ]
    assert searches == [
        f'SEARCH(\'{{"NativeLink/{region}",Pool,{dimension}}} '
        "MetricName=\"Interruptions\"', 'Sum', 3600)"
        for dimension in ("InstanceType", "Zone")
    ]


def test_alarms_watch_what_is_there(stack: Stack) -> None:
    groups = {each.body["name"] for each in stack.of("aws_autoscaling_group")}
    for alarm in stack.of("aws_cloudwatch_metric_alarm"):
        dimensions = alarm.body.get("dimensions", {})
        if (group := dimensions.get("AutoScalingGroupName")) is not None:
            assert group in groups
        if "Pool" in dimensions:
            assert (
                alarm.body["namespace"]
                == f"NativeLink/{environment_of(stack, 'cas')['NATIVELINK_REGION']}"
            )


def test_data_outlives_a_mistake_unless_the_region_is_for_trying(stack: Stack) -> None:
    settings = load(EXAMPLES / f"{stack.name.partition('/')[2]}.yaml")
    for bucket in stack.of("aws_s3_bucket"):
        assert bucket.body["force_destroy"] is settings.destroyable
    for balancer in stack.of("aws_lb"):
        assert balancer.body["enable_deletion_protection"] is not settings.destroyable
