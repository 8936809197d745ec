"""What AWS refuses, or does in silence, where an emulator does as it is told."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from infra.settings import Nat
from infra.settings_load import load
from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.stores.remote.redis_address import Login
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import wait_until
from tests.infra.tools import EXAMPLES, Stack, need
from tests.stores.remote.redis_server import RedisServer, dialing, open_redis, standard

pytestmark = pytest.mark.slow

REGIONS = [f"aws/{path.stem}" for path in sorted(EXAMPLES.glob("*.yaml"))]
HOW = "s3:x-amz-server-side-encryption"
KEY = "s3:x-amz-server-side-encryption-aws-kms-key-id"


@pytest.fixture(params=[*REGIONS, "aws/bootstrap"])
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


@pytest.fixture(params=REGIONS)
def region(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


def holds(operator: str, key: str, wanted: str, request: dict[str, str]) -> bool:
    """A condition as IAM decides it; a negated one is true of what the request does not have."""
    match operator:
        case "Null":
            return (key not in request) is (wanted == "true")
        case "Bool":
            return request.get(key) == wanted
        case "StringNotEquals" | "StringNotEqualsIfExists":
            return request.get(key) != wanted
        case _:
            raise AssertionError(operator)


def refused(policy: str, request: dict[str, str]) -> bool:
    """Whether a bucket's policy denies that an object is written."""
    return any(
        statement["Effect"] == "Deny"
        and {"s3:*", "s3:PutObject"} & set(statement["Action"])
        and all(
            holds(operator, key, wanted, {"aws:SecureTransport": "true", **request})
            for operator, pairs in statement["Condition"].items()
            for key, wanted in pairs.items()
        )
        for statement in json.loads(policy)["Statement"]
    )


def test_who_names_no_encryption_may_write_and_gets_the_key_of_the_bucket(stack: Stack) -> None:
    """As servers, copies of an object onto itself and Terraform's state do."""
    for policy in stack.of("aws_s3_bucket_policy"):
        assert not refused(policy.body["policy"], {}), policy.path


def test_nobody_writes_with_another_key_than_that_of_the_bucket(stack: Stack) -> None:
    rules = {
        each.body["bucket"]: each.body["rule"][0]["apply_server_side_encryption_by_default"]
        for each in stack.of("aws_s3_bucket_server_side_encryption_configuration")
    }
    keys = 0
    for policy in stack.of("aws_s3_bucket_policy"):
        key = rules[policy.body["bucket"]].get("kms_master_key_id")
        if key is None:
            continue
        keys += 1
        text = policy.body["policy"]
        assert not refused(text, {HOW: "aws:kms", KEY: key})
        assert refused(text, {HOW: "aws:kms", KEY: "arn:aws:kms:eu-west-1:444455556666:key/x"})
        assert refused(text, {HOW: "aws:kms"}), "the account's key for S3"
        assert refused(text, {HOW: "AES256"})
    assert keys


def test_the_bundle_is_written_with_the_key_of_its_bucket(region: Stack) -> None:
    for item in region.of("aws_s3_object"):
        (policy,) = [
            each
            for each in region.of("aws_s3_bucket_policy")
            if each.path.startswith("buckets/artifacts/")
        ]
        assert not refused(policy.body["policy"], {HOW: "aws:kms", KEY: item.body["kms_key_id"]})


#: What ElastiCache's servers do not have (Restricted commands): CreateUser refuses rights to it.
WITHHELD = (
    "bgrewriteaof", "bgsave", "config", "debug", "migrate", "replicaof", "save", "slaveof",
    "shutdown", "sync", "reset",
)  # fmt: skip


def test_no_user_of_valkey_may_do_what_elasticache_does_not_have(region: Stack) -> None:
    users = region.of("aws_elasticache_user")
    assert users
    for user in users:
        rights = re.findall(r"[+-]([a-z|]+)", user.body["access_string"])
        assert {each.partition("|")[0] for each in rights}.isdisjoint(WITHHELD)


async def test_the_rights_of_the_user_of_valkey_are_enough_for_servers(
    stacks: dict[str, Stack],
) -> None:
    """With no CONFIG at all, as in ElastiCache."""
    need("redis-server")
    (user,) = stacks["aws/team"].of("aws_elasticache_user")
    rights = user.body["access_string"].split()
    options = ["--rename-command", "CONFIG", "", "--notify-keyspace-events", "Exeg"]
    server = RedisServer(*options, "--user", "server", ">secret", *rights)
    how = dialing(Login(username="server", password="secret"))
    try:
        async with open_redis(standard(server.endpoint, how), prefix="cas:") as store:
            told: list[StoreKey | None] = []
            store.removals.on_removed(told.append)
            async with asyncio.timeout(60):
                await wait_until(lambda: told == [None])
            key = DigestFunction.SHA256.digest_of(b"a blob")
            await write_bytes(store, key, b"a blob")
            assert await store.has([key]) == [6]
            assert await read_bytes(store, key) == b"a blob"
            with server.raw(username="server", password="secret") as raw:
                raw.unlink(*raw.keys("cas:*"))
            async with asyncio.timeout(60):
                await wait_until(lambda: told == [None, key])
    finally:
        server.close()


def reference(value: str, attribute: str = "id") -> str:
    match = re.fullmatch(r"\$\{(\w+\.[\w-]+)\.(\w+)\}", value)
    assert match, value
    assert match[2] == attribute, value
    return match[1]


def test_the_machine_that_builds_images_has_an_address_and_a_way_to_the_internet(
    region: Stack,
) -> None:
    """Image Builder gives it what its subnet gives; without an address it waits until it ends."""
    subnets = {each.address: each.body for each in region.of("aws_subnet")}
    used = {
        reference(each.body["subnet_id"])
        for each in region.of("aws_imagebuilder_infrastructure_configuration")
    }
    assert {each for each in subnets if subnets[each]["map_public_ip_on_launch"]} == used
    tables = {
        reference(each.body["subnet_id"]): reference(each.body["route_table_id"])
        for each in region.of("aws_route_table_association")
    }
    ways = {
        reference(each.body["route_table_id"])
        for each in region.of("aws_route")
        if "gateway_id" in each.body and each.body.get("destination_cidr_block") == "0.0.0.0/0"
    }
    assert {tables[each] for each in used} <= ways
    networks = [each["cidr_block"] for each in subnets.values()]
    assert len(set(networks)) == len(networks)


def test_a_local_zone_is_none_of_the_zones(region: Stack) -> None:
    """Its name comes before those of the region's own, and it has neither balancers nor Valkey."""
    for zones in region.json.get("data", {}).get("aws_availability_zones", {}).values():
        assert zones["filter"] == [{"name": "zone-type", "values": ["availability-zone"]}]
    chosen = {each.body["availability_zone"] for each in region.of("aws_subnet")}
    # Of a list that is too short `element` begins again: two subnets of a balancer in one zone.
    assert not any("element(" in each for each in chosen)


def test_who_writes_logs_into_a_bucket_waits_until_its_policy_lets_it(region: Stack) -> None:
    (policy,) = [
        each.address
        for each in region.of("aws_s3_bucket_policy")
        if each.path.startswith("buckets/logs/")
    ]
    writers = [*region.of("aws_lb"), *region.of("aws_flow_log")]
    assert len(writers) == 3
    for each in writers:
        assert policy in each.body["depends_on"], each.path


def test_auto_scaling_may_use_the_key_of_the_topic_that_it_writes_to(region: Stack) -> None:
    """In its own role: of the service as such, KMS would hear neither account nor group."""
    policy = json.loads(region.one("aws_kms_key", "keys/telemetry").body["policy"])
    (statement,) = [each for each in policy["Statement"] if each["Sid"] == "AutoScaling"]
    assert set(statement["Action"]) == {"kms:Decrypt", "kms:GenerateDataKey*"}
    (role,) = statement["Condition"]["ArnLike"].values()
    assert role.startswith("arn:aws:iam::111122223333:role/aws-service-role/autoscaling.")
    assert statement["Condition"]["StringEquals"] == {"kms:CallerAccount": "111122223333"}
    for owner in region.of("aws_kms_key"):
        assert '"autoscaling.amazonaws.com"' not in owner.body["policy"]


def test_events_may_use_the_key_of_the_queues_that_only_our_rules_write_to(region: Stack) -> None:
    policy = json.loads(region.one("aws_kms_key", "keys/telemetry").body["policy"])
    (statement,) = [each for each in policy["Statement"] if each["Sid"] == "Events"]
    assert "Condition" not in statement, "a message that is refused is lost, and nobody hears"
    rules = {f"${{{each.address}.arn}}" for each in region.of("aws_cloudwatch_event_rule")}
    queues = region.of("aws_sqs_queue_policy")
    assert len(queues) == 2
    for queue in queues:
        statements = json.loads(queue.body["policy"])["Statement"]
        (events,) = [each for each in statements if each["Effect"] == "Allow"]
        assert events["Principal"] == {"Service": "events.amazonaws.com"}
        assert set(events["Condition"]["ArnEquals"]["aws:SourceArn"]) == rules


def test_a_tag_with_a_space_keeps_no_machine_from_starting(region: Stack) -> None:
    """EC2 shows a machine only tags whose names are good for a URL, and starts none with others."""
    for template in region.of("aws_launch_template"):
        assert template.body["metadata_options"]["instance_metadata_tags"] == "disabled"


def test_all_that_is_launched_and_built_counts_in_the_budget(region: Stack) -> None:
    (budget,) = region.of("aws_budgets_budget")
    counted = budget.body["cost_filter"][0]["values"]

    def counts(tags: dict[str, Any]) -> bool:
        mine: bool = counted == [f"user:NativeLinkRegion${tags.get('NativeLinkRegion')}"]
        return mine

    for template in region.of("aws_launch_template"):
        kinds = {
            each["resource_type"]: each["tags"] for each in template.body["tag_specifications"]
        }
        assert kinds.keys() == {"instance", "volume", "network-interface"}
        assert all(map(counts, kinds.values()))
        assert {tags["Name"] for tags in kinds.values()} == {template.body["name"]}
    for distribution in region.of("aws_imagebuilder_distribution_configuration"):
        (place,) = distribution.body["distribution"]
        assert counts(place["ami_distribution_configuration"]["ami_tags"])
    for machine in region.of("aws_imagebuilder_infrastructure_configuration"):
        assert counts(machine.body["resource_tags"])


def test_actions_may_download_where_there_is_nat_and_only_there(region: Stack) -> None:
    settings = load(EXAMPLES / f"{region.name.partition('/')[2]}.yaml")
    ports = {
        each.body["from_port"]
        for each in region.of("aws_vpc_security_group_egress_rule")
        if "cidr_ipv4" in each.body and each.path.startswith("worker-firewall/")
    }
    assert ports == (set() if settings.network.nat is Nat.NONE else {80, 443})
    assert bool(region.of("aws_nat_gateway")) is bool(ports)
