"""Six answers suffice; what is wrong is said at its line, with what is allowed."""

from pathlib import Path

import pytest
import yaml

from infra.settings import ISA, RegionSettings, StorageProfile
from infra.settings_check import FAMILIES, isa_of
from infra.settings_load import examine, find_region, load
from nativelink.core.errors import NativeLinkError

EXAMPLES = Path(__file__).parents[2] / "infra" / "examples"
SIX = {
    "name": "team",
    "account": "111122223333",
    "region": "eu-central-1",
    "clients": ["10.0.0.0/16"],
    "contact": "builds@example.com",
    "tls": {"mode": "none"},
}


def sentences(**changes: object) -> list[str]:
    """What is wrong with the six answers and these changes; None takes a key away."""
    tree = {key: value for key, value in {**SIX, **changes}.items() if value is not None}
    settings, findings = examine(yaml.safe_dump(tree, sort_keys=False), "team.yaml")
    assert (settings is None) == bool(findings)
    return [f"{finding.where}: {finding.sentence}" for finding in findings]


def valid(**changes: object) -> RegionSettings:
    settings, findings = examine(yaml.safe_dump({**SIX, **changes}), "team.yaml")
    assert settings is not None, findings
    return settings


def test_six_answers_are_enough() -> None:
    assert sentences() == []
    required = {name for name, field in RegionSettings.model_fields.items() if field.is_required()}
    assert required == set(SIX)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_valid(example: Path) -> None:
    load(example)


def test_an_unknown_key_is_refused_with_the_word_that_was_meant() -> None:
    assert sentences(accounts="111122223333", account=None) == [
        'accounts: unknown key "accounts"; did you mean "account"?'
    ]


@pytest.mark.parametrize(
    ("account", "region"),
    [
        ("444455556666", "eu-central-1"),
        ("111122223333", "eu-west-1"),
        ("444455556666", "us-east-1"),
    ],
)
def test_a_state_bucket_of_another_account_or_region_is_refused(account: str, region: str) -> None:
    bucket = "nativelink-state-111122223333-eu-central-1"
    assert sentences(state_bucket=bucket) == []
    place = f"{account}-{region}"
    assert sentences(state_bucket=bucket, account=account, region=region) == [
        (
            f'state_bucket: not a bucket of this account and region; got "{bucket}"; allowed: a '
            f'name that has {account} and {region} in it; did you mean "nativelink-state-{place}"?'
        )
    ]


def test_a_finding_shows_the_line_and_a_caret() -> None:
    text = "name: team\nregion: eu-centrl\n"
    _, findings = examine(text, "x.yaml")
    settings, findings = examine(
        yaml.safe_dump({**SIX, "region": "eu-central"}, sort_keys=False), "team.yaml"
    )
    assert settings is None
    assert str(findings[0]) == (
        'team.yaml:3:9: error: region: not an AWS region; got "eu-central"; allowed: a region of '
        "AWS' commercial partition, such as eu-central-1\n    region: eu-central\n            ^"
    )


def test_text_that_is_no_yaml_is_said_at_its_place() -> None:
    settings, (finding,) = examine("name: [team\nregion: x\n", "x.yaml")
    assert settings is None
    assert (finding.line, finding.column) == (2, 7)
    assert finding.sentence.startswith("not YAML: ")


def test_an_empty_file_names_every_missing_answer() -> None:
    _, findings = examine("", "x.yaml")
    assert [finding.where for finding in findings] == list(SIX)


def test_a_region_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(NativeLinkError, match="known regions"):
        find_region("nowhere")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "Team"}, "name: not a name"),
        ({"name": "a" * 17}, "name: not a name"),
        ({"name": "a--b"}, "name: not a name"),
        ({"name": "a-"}, "name: not a name"),
        ({"account": "1234"}, "account: not an account"),
        ({"contact": "me"}, "contact: not a mail address"),
        ({"clients": []}, "clients: is empty"),
        ({"clients": ["10.0.0.1/8"]}, "clients[0]: not a network"),
        ({"clients": ["0.0.0.0/0"]}, "clients[0]: would let the whole internet"),
        ({"clients": ["10.0.0.0/16"] * 2}, "clients[1]: is in the list already"),
        ({"clients": ["10.64.3.0/24"]}, "clients[0]: overlaps with network.cidr"),
        ({"clients": ["2001:db8::/32"]}, "clients[0]: needs `network.ipv6: true`"),
        ({"network": {"cidr": "10.64.0.0/24"}}, "network.cidr: not a private network of /16"),
        ({"network": {"cidr": "8.8.0.0/16"}}, "network.cidr: not a private network"),
        ({"network": {"cidr": "10.64.0.1/16"}}, "network.cidr: not an IPv4 network"),
        ({"network": {"zones": 1}}, "network.zones: too small"),
        ({"network": {"zones": 5}}, "network.zones: too large"),
        ({"network": {"zone_names": ["eu-central-1a"]}}, "network.zone_names: names too few"),
        (
            {"network": {"zone_names": ["eu-central-1a", "us-east-1a"]}},
            "network.zone_names[1]: not a zone of eu-central-1",
        ),
        ({"network": {"endpoint_zones": 4}}, "network.endpoint_zones: more than there are zones"),
        ({"network": {"share_with": ["x"]}}, "network.share_with: would leave the account in"),
        ({"public": True, "clients": ["198.51.100.0/24"]}, "tls.mode: a public address needs TLS"),
        (
            {"public": True, "tls": {"mode": "server", "domain": "a.example", "zone_id": "Z1234"}},
            "clients[0]: a private network cannot reach a public address",
        ),
        ({"tls": {"mode": "server", "domain": "a.example"}}, "tls: neither zone_id nor"),
        (
            {"tls": {"mode": "server", "domain": "A_b", "zone_id": "Z1234"}},
            "tls.domain: not a domain name",
        ),
        (
            {
                "tls": {
                    "mode": "server",
                    "domain": "a.example",
                    "certificate_arn": "arn:aws:acm:eu-central-1:1:certificate/x",
                    "nearest": True,
                }
            },
            "tls.nearest: needs zone_id",
        ),
        (
            {"tls": {"mode": "server", "domain": "a.example", "zone_id": "1"}},
            "tls.zone_id: not a hosted zone's id",
        ),
        (
            {
                "tls": {
                    "mode": "mutual",
                    "domain": "a.example",
                    "secret_arn": "arn:aws:secretsmanager:us-east-1:1:secret:x",
                }
            },
            "tls.secret_arn: not an ARN of this service and region",
        ),
        ({"storage": {"archive_after_days": 60, "infrequent_after_days": 40}}, "storage.archive"),
        ({"storage": {"expire_after_days": 90}}, "storage.expire_after_days: S3 bills"),
        ({"cas": {"instance_type": "m7g"}}, "cas.instance_type: not an instance type"),
        ({"cas": {"instance_type": "m77g.large"}}, "cas.instance_type: not a family"),
        ({"cas": {"count": 3, "max_count": 3}}, "cas.max_count: leaves no room"),
        ({"redis": {"node_type": "r7g.large"}}, "redis.node_type: not a node type"),
        ({"redis": {"engine_version": "6.2"}}, "redis.engine_version: not a version of Valkey"),
        ({"pools": []}, "pools: is empty"),
        ({"pools": [{"name": "a"}, {"name": "a"}]}, "pools[1].name: another pool is called"),
        ({"pools": [{"name": "a", "min": 3, "max": 2}]}, "pools.a.min: more than max"),
        (
            {"pools": [{"name": "a", "instance_types": ["c7i.2xlarge"]}]},
            "pools.a.instance_types: too few to find spot capacity",
        ),
        (
            {"pools": [{"name": "a", "on_demand_percent": 100, "instance_types": ["c7g.2xlarge"]}]},
            "pools.a.instance_types[0]: is arm64, the pool is x86-64",
        ),
        (
            {
                "pools": [
                    {
                        "name": "a",
                        "on_demand_percent": 100,
                        "instance_types": ["c7i.2xlarge", "c7i.4xlarge"],
                    }
                ]
            },
            "pools.a.instance_types: sizes differ",
        ),
        ({"image": {"ami_ids": {"x86-64": "ami-12345678"}}}, "image.ami_ids: names no image for"),
        (
            {"image": {"ami_ids": {"x86-64": "12345678", "arm64": "ami-12345678"}}},
            "image.ami_ids.x86-64: not an image's id",
        ),
        ({"tags": {"aws:x": "y"}}, 'tags["aws:x"]: AWS keeps tags'),
        ({"tags": {"NativelinkRegion": "y"}}, "tags.NativelinkRegion: the kit gives this tag"),
    ],
)
def test_what_cannot_work_is_found_before_anything_is_synthesized(
    changes: dict[str, object], expected: str
) -> None:
    found = sentences(**changes)
    assert any(sentence.startswith(expected) for sentence in found), found


def test_clients_may_be_a_network_around_ours() -> None:
    """The whole of 10/8 is usual for a company; the region's part of it is taken out by routing."""
    assert sentences(clients=["10.0.0.0/8"]) == []


def test_every_default_type_is_of_a_known_family_and_one_size() -> None:
    for isa in ISA:
        pool = valid(pools=[{"name": "a", "isa": isa.value}]).pools[0]
        assert len(pool.types) >= 10
        assert {isa_of(each) for each in pool.types} == {isa}
        assert {each.partition(".")[2] for each in pool.types} == {"2xlarge"}
    assert FAMILIES[ISA.X86].isdisjoint(FAMILIES[ISA.ARM])


@pytest.mark.parametrize("profile", StorageProfile)
@pytest.mark.parametrize("days", [None, 15, 40, 200, 3650])
def test_action_results_always_go_before_blobs(profile: StorageProfile, days: int | None) -> None:
    storage = (
        RegionSettings.model_validate(
            {**SIX, "storage": {"profile": profile.value, "expire_after_days": days}}
        )
    ).storage
    assert 0 < storage.ac_days < storage.cas_days
