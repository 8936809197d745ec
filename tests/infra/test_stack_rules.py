"""Rules that hold for every stack: what a reviewer would look for in each resource."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.tools import EXAMPLES, Resource, Stack
from tests.infra.userdata import environment_of, script_of

pytestmark = pytest.mark.slow

NAMES = [f"aws/{path.stem}" for path in sorted(EXAMPLES.glob("*.yaml"))] + ["aws/bootstrap"]
#: Actions that AWS offers for `*` only, or whose `*` a condition narrows; each with its reason.
EVERYTHING = {
    "cloudwatch:PutMetricData": "narrowed by the condition cloudwatch:namespace",
    "ssm:UpdateInstanceInformation": "Session Manager: the instance speaks of itself",
    "ssmmessages:CreateControlChannel": "has no resources",
    "ssmmessages:CreateDataChannel": "has no resources",
    "ssmmessages:OpenControlChannel": "has no resources",
    "ssmmessages:OpenDataChannel": "has no resources",
}


@pytest.fixture(params=NAMES)
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


def reference(value: object) -> str:
    """The address of what a reference such as `${aws_s3_bucket.x.id}` points at."""
    match = re.fullmatch(r"\$\{(\w+\.[\w-]+)\.\w+\}", str(value))
    assert match, f"{value!r} is no reference"
    return match[1]


def partners(stack: Stack, kind: str, key: str) -> dict[str, Resource]:
    """Resources of a type, by the address that their `key` refers to."""
    found = {reference(each.body[key]): each for each in stack.of(kind)}
    assert len(found) == len(stack.of(kind))
    return found


def documents(stack: Stack) -> Iterator[tuple[Resource, dict[str, Any]]]:
    """Every policy document, with the resource that has it."""
    for each in stack.resources:
        for key in ("policy", "assume_role_policy"):
            text = each.body.get(key)
            if isinstance(text, str) and text.startswith("{"):
                yield each, json.loads(text)


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_every_bucket_is_private_encrypted_logged_and_ages(stack: Stack) -> None:
    buckets = stack.of("aws_s3_bucket")
    assert buckets
    blocks = partners(stack, "aws_s3_bucket_public_access_block", "bucket")
    owners = partners(stack, "aws_s3_bucket_ownership_controls", "bucket")
    encryption = partners(stack, "aws_s3_bucket_server_side_encryption_configuration", "bucket")
    versioning = partners(stack, "aws_s3_bucket_versioning", "bucket")
    lifecycles = partners(stack, "aws_s3_bucket_lifecycle_configuration", "bucket")
    policies = partners(stack, "aws_s3_bucket_policy", "bucket")
    logging = partners(stack, "aws_s3_bucket_logging", "bucket")
    for bucket in buckets:
        here = bucket.address
        block = blocks[here].body
        assert all(
            block[key] is True
            for key in (
                "block_public_acls",
                "block_public_policy",
                "ignore_public_acls",
                "restrict_public_buckets",
            )
        )
        assert owners[here].body["rule"]["object_ownership"] == "BucketOwnerEnforced"
        (rule,) = encryption[here].body["rule"]
        is_log = "logs" in bucket.path
        default = rule["apply_server_side_encryption_by_default"]
        assert default["sse_algorithm"] == ("AES256" if is_log else "aws:kms")
        assert is_log or rule["bucket_key_enabled"] is True
        assert versioning[here].body["versioning_configuration"]["status"] == (
            "Suspended" if is_log or bucket.path.endswith("cas/bucket") else "Enabled"
        )
        (age,) = lifecycles[here].body["rule"]
        assert age["abort_incomplete_multipart_upload"][0]["days_after_initiation"] <= 7
        assert is_log or here in logging
        statements = json.loads(policies[here].body["policy"])["Statement"]
        assert any(
            each["Effect"] == "Deny"
            and each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
            and each["Action"] == ["s3:*"]
            and len(each["Resource"]) == 2
            for each in statements
        )


def test_every_key_rotates_and_says_who_may_use_it(stack: Stack) -> None:
    keys = stack.of("aws_kms_key")
    aliases = partners(stack, "aws_kms_alias", "target_key_id")
    for key in keys:
        assert key.body["enable_key_rotation"] is True
        assert 7 <= key.body["deletion_window_in_days"] <= 30
        assert json.loads(key.body["policy"])["Statement"]
        assert key.address in aliases


def test_every_launch_template_has_tokens_encrypted_disks_and_no_public_address(
    stack: Stack,
) -> None:
    for template in stack.of("aws_launch_template"):
        metadata = template.body["metadata_options"]
        assert metadata["http_tokens"] == "required"
        assert metadata["http_put_response_hop_limit"] == 1, "actions must not reach metadata"
        for disk in template.body["block_device_mappings"]:
            assert disk["ebs"]["encrypted"] == "true"
            assert reference(disk["ebs"]["kms_key_id"]).startswith("aws_kms_key.keys_disks")
        for interface in template.body["network_interfaces"]:
            assert interface["associate_public_ip_address"] == "false"
        tagged = {each["resource_type"] for each in template.body["tag_specifications"]}
        assert tagged == {"instance", "volume", "network-interface"}
        assert "key_name" not in template.body


def test_every_log_group_has_a_key_and_an_age(stack: Stack) -> None:
    for group in stack.of("aws_cloudwatch_log_group"):
        assert group.body["retention_in_days"] >= 1
        assert reference(group.body["kms_key_id"]).startswith("aws_kms_key.")


def test_nobody_is_let_in_from_everywhere_and_nobody_by_ssh(stack: Stack) -> None:
    rules = stack.of("aws_vpc_security_group_ingress_rule")
    for rule in rules:
        assert "cidr_ipv4" not in rule.body
        assert "cidr_ipv6" not in rule.body
        assert rule.body["ip_protocol"] == "tcp"
        assert rule.body["from_port"] == rule.body["to_port"] != 22


def test_every_rule_says_why_and_names_one_peer_and_port(stack: Stack) -> None:
    peers = ("cidr_ipv4", "prefix_list_id", "referenced_security_group_id")
    for kind in ("aws_vpc_security_group_ingress_rule", "aws_vpc_security_group_egress_rule"):
        for rule in stack.of(kind):
            assert rule.body["description"]
            assert sum(peer in rule.body for peer in peers) == 1
            assert rule.body["from_port"] == rule.body["to_port"]


def test_only_who_builds_images_and_workers_with_nat_may_call_anywhere(stack: Stack) -> None:
    may = ("images/firewall/", *(["worker-firewall/"] if stack.of("aws_nat_gateway") else []))
    for rule in stack.of("aws_vpc_security_group_egress_rule"):
        if "cidr_ipv4" in rule.body:
            assert rule.path.startswith(may)
            assert rule.body["from_port"] in {80, 443}


def test_security_groups_have_their_rules_outside_and_are_used(stack: Stack) -> None:
    for group in stack.of("aws_security_group"):
        assert "ingress" not in group.body
        assert "egress" not in group.body
        assert stack.text.count(f"${{{group.address}.id}}") >= 2


def test_a_statement_about_everything_is_on_the_list(stack: Stack) -> None:
    for owner, document in documents(stack):
        for statement in document["Statement"]:
            if owner.type in {"aws_kms_key", "aws_vpc_endpoint"} or statement["Effect"] == "Deny":
                continue  # there `*` is the key itself; what the endpoint carries is IAM's matter
            assert "*" not in many(statement["Action"]), f"{owner.path}: {statement}"
            if "*" in many(statement.get("Resource", [])):
                assert set(many(statement["Action"])) <= EVERYTHING.keys(), owner.path


def test_metrics_can_be_published_in_the_own_namespace_only(stack: Stack) -> None:
    for owner, document in documents(stack):
        for statement in document["Statement"]:
            if "cloudwatch:PutMetricData" in many(statement["Action"]):
                namespace = statement["Condition"]["StringEquals"]["cloudwatch:namespace"]
                assert namespace.startswith("NativeLink/"), owner.path


def test_who_speaks_for_a_service_is_asked_for_which_account(stack: Stack) -> None:
    """Else another account's logs, events or alarms could be made to use what is ours."""
    for owner, document in documents(stack):
        for statement in document["Statement"]:
            service = statement.get("Principal", {}).get("Service")
            if service is None or service == "ec2.amazonaws.com":
                continue
            if (owner.path, service) == ("keys/telemetry", "events.amazonaws.com"):
                continue  # SNS and SQS document no such condition for it; the queues have theirs
            condition = json.dumps(statement["Condition"])
            assert "aws:SourceAccount" in condition or "Arn" in condition, (
                f"{owner.path}: {service}"
            )


def test_everybody_is_named_only_with_a_condition_or_in_a_denial(stack: Stack) -> None:
    for owner, document in documents(stack):
        for statement in document["Statement"]:
            if statement.get("Principal") == {"AWS": "*"} and statement["Effect"] == "Allow":
                own_buckets = owner.path == "endpoints/s3"
                assert own_buckets or "Condition" in statement, owner.path


def test_every_group_of_machines_tags_what_it_launches(stack: Stack) -> None:
    for group in stack.of("aws_autoscaling_group"):
        tags = {each["key"] for each in group.body["tag"] if each["propagate_at_launch"]}
        assert {"Name", "NativeLinkRegion"} <= tags


def test_every_alarm_has_a_description_and_tells_somebody(stack: Stack) -> None:
    for alarm in stack.of("aws_cloudwatch_metric_alarm"):
        assert len(alarm.body["alarm_description"]) > 20
        assert alarm.body["alarm_actions"]


def test_queues_topics_and_secrets_are_encrypted_with_a_key_of_ours(stack: Stack) -> None:
    for queue in stack.of("aws_sqs_queue"):
        assert reference(queue.body["kms_master_key_id"]).startswith("aws_kms_key.keys_telemetry")
    for topic in stack.of("aws_sns_topic"):
        assert reference(topic.body["kms_master_key_id"]).startswith("aws_kms_key.keys_telemetry")
    for secret in stack.of("aws_secretsmanager_secret"):
        assert reference(secret.body["kms_key_id"]).startswith("aws_kms_key.keys_secrets")


def test_redis_is_encrypted_and_asks_who_comes(stack: Stack) -> None:
    for group in stack.of("aws_elasticache_replication_group"):
        assert group.body["transit_encryption_enabled"] is True
        assert group.body["transit_encryption_mode"] == "required"
        assert group.body["at_rest_encryption_enabled"] == "true"
        assert group.body["user_group_ids"]
        several = group.body["num_cache_clusters"] > 1
        assert group.body["multi_az_enabled"] is several
        assert group.body["automatic_failover_enabled"] is several


def names(stack: Stack) -> Iterator[tuple[Resource, str]]:
    """What each resource is called by that AWS knows by a name; references are left out."""
    keys = (
        "name", "bucket", "alarm_name", "dashboard_name", "replication_group_id", "user_group_id",
        "user_id",
    )  # fmt: skip
    for each in stack.resources:
        name = next((each.body[key] for key in keys if key in each.body), None)
        if isinstance(name, str) and "${" not in name:
            yield each, name


#: Names that count within something only, by the key that says within what.
WITHIN = {
    "aws_autoscaling_lifecycle_hook": "autoscaling_group_name",
    "aws_iam_role_policy": "role",
    "aws_route53_record": "zone_id",
    "aws_s3_bucket_metric": "bucket",
}
#: Of the whole account, whatever AWS region they are made from.
ACCOUNT_WIDE = (
    "aws_budgets_budget", "aws_cloudwatch_dashboard", "aws_iam_instance_profile", "aws_iam_role",
    "aws_s3_bucket",
)  # fmt: skip


def test_no_two_resources_of_a_kind_have_the_same_name(stack: Stack) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for each, name in names(stack):
        within = str(each.body.get(WITHIN.get(each.type, ""), ""))
        other = seen.setdefault((each.type, within, name, each.body.get("type", "")), each.path)
        assert other == each.path, f"{name}: {other} and {each.path}"


def test_regions_of_other_names_in_the_same_account_have_other_resources(stack: Stack) -> None:
    region = stack.directory.name
    if stack.name == "aws/bootstrap":
        return
    begins = (
        f"nl-{region}",
        f"alias/nl-{region}",
        f"/nativelink/{region}/",
        f"nativelink/{region}/",
    )
    for each, name in names(stack):
        if each.type not in WITHIN and each.type != "aws_route53_zone":
            assert name.startswith(begins), each.path


def test_what_counts_in_the_whole_account_says_in_which_region_of_aws_it_is(stack: Stack) -> None:
    region = stack.json["provider"]["aws"][0]["region"]
    found = [(each, name) for each, name in names(stack) if each.type in ACCOUNT_WIDE]
    assert found
    assert all(region in name for _, name in found), [name for _, name in found]


def test_the_state_of_all_regions_is_protected_whatever_one_of_them_says(
    stacks: dict[str, Stack],
) -> None:
    """It was synthesized from the file of a region that is `destroyable`."""
    stack = stacks["aws/bootstrap"]
    buckets, keys = stack.of("aws_s3_bucket"), stack.of("aws_kms_key")
    assert len(buckets) == 2
    assert [bucket.body["force_destroy"] for bucket in buckets] == [False, False]
    assert [key.body["deletion_window_in_days"] for key in keys] == [30]
    for each in (*buckets, *keys):
        assert each.body["lifecycle"]["prevent_destroy"] is True, each.path


def test_pools_have_policies_alarms_and_groups_of_their_own(stacks: dict[str, Stack]) -> None:
    stack = stacks["aws/arm-and-x86-pools"]
    pools = ("x86", "arm", "gates")
    policies = {each.body["name"]: each.body for each in stack.of("aws_autoscaling_policy")}
    assert policies.keys() == {
        f"nl-mixed-{pool}-{kind}" for pool in pools for kind in ("load", "from-zero")
    }
    groups = {each.address: each.body["name"] for each in stack.of("aws_autoscaling_group")}
    for pool in pools:
        for kind in ("load", "from-zero"):
            group = reference(policies[f"nl-mixed-{pool}-{kind}"]["autoscaling_group_name"])
            assert groups[group] == f"nl-mixed-worker-{pool}"
        alarm = stack.one("aws_cloudwatch_metric_alarm", f"worker-{pool}-scaling/waiting").body
        (action,) = alarm["alarm_actions"]
        policy = stack.one("aws_autoscaling_policy", f"worker-{pool}-scaling/from-zero")
        assert reference(action) == policy.address
        told = {each["metric"]["dimensions"]["Pool"] for each in alarm["metric_query"][:2]}
        assert told == {pool}


def test_the_scheduler_hears_of_everything_that_it_heeds(stacks: dict[str, Stack]) -> None:
    rules = stacks["aws/team"].of("aws_cloudwatch_event_rule")
    patterns = [json.loads(rule.body["event_pattern"]) for rule in rules]
    assert {kind for pattern in patterns for kind in pattern["detail-type"]} == {
        "EC2 Spot Instance Interruption Warning",
        "EC2 Instance Rebalance Recommendation",
        "EC2 Instance-terminate Lifecycle Action",
        "EC2 Instance State-change Notification",
    }
    (policy,) = [
        each
        for each in stacks["aws/team"].of("aws_sqs_queue_policy")
        if each.path.endswith("drain/queue-policy")
    ]
    (events,) = [
        each for each in json.loads(policy.body["policy"])["Statement"] if each["Effect"] == "Allow"
    ]
    senders = events["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert {reference(each) for each in senders} == {rule.address for rule in rules}


def test_a_name_that_several_regions_have_leads_to_the_nearest_one(
    stacks: dict[str, Stack],
) -> None:
    def records(example: str) -> list[dict[str, Any]]:
        found = stacks[f"aws/{example}"].of("aws_route53_record")
        return [each.body for each in found if each.path.startswith("public-name")]

    assert records("multi-az-production")
    for record in records("multi-az-production"):
        assert record["set_identifier"] == "us-east-1"
        assert record["latency_routing_policy"] == {"region": "us-east-1"}
        assert record["alias"]["evaluate_target_health"] is True
    assert ["latency_routing_policy" in record for record in records("team")] == [False]


def test_what_data_is_lost_without_is_in_no_plan_to_delete(stack: Stack) -> None:
    if stack.name == "aws/minimal":
        return
    for kind in ("aws_kms_key", "aws_s3_bucket"):
        for each in stack.of(kind):
            assert each.body["lifecycle"]["prevent_destroy"] is True, each.path


def test_names_are_short_enough_for_aws(stack: Stack) -> None:
    """Also those of a region whose name is as long as names may be."""
    limits = {
        "aws_lb": 32,
        "aws_lb_target_group": 32,
        "aws_s3_bucket": 63,
        "aws_iam_role": 64,
        "aws_elasticache_replication_group": 40,
        "aws_elasticache_user": 40,
        "aws_security_group": 255,
    }
    longer = 16 - len(stack.directory.name)
    for each, name in names(stack):
        if each.type in limits:
            assert len(name) + longer <= limits[each.type], name


def test_user_data_fits_and_names_secrets_by_their_address(stack: Stack) -> None:
    for template in stack.of("aws_launch_template"):
        machine = template.path.removesuffix("-machine/template")
        assert len(script_of(stack, machine)) < 12_000, "EC2 takes 16 KB, base64"
        for name, value in environment_of(stack, machine).items():
            if name.startswith("NATIVELINK_SECRET_"):
                arn = r"arn:aws:secretsmanager:\S+|\$\{aws_secretsmanager_secret\.[\w-]+\.arn\}"
                assert value == "" or re.fullmatch(arn, value), f"{name}={value}"
            else:
                assert "PASSWORD" not in name


def test_state_is_kept_locked_and_encrypted_as_its_bucket_wants_it(stack: Stack) -> None:
    backend = stack.json["terraform"]["backend"]
    if "s3" in backend:
        assert "encrypt" not in backend["s3"], "with S3's own key, which the bucket refuses"
        assert backend["s3"]["use_lockfile"] is True
    else:
        assert stack.name in {"aws/minimal", "aws/bootstrap", "aws/arm-and-x86-pools"}
