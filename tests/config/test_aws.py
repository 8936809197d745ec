"""`global.aws` and the modes of TLS, as files and variables say them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import nativelink
from nativelink.config import Config
from nativelink.config.load import examine
from nativelink.config.specs_common import ClientTlsSpec
from nativelink.config.specs_servers import TlsSpec

CONFIGS = Path(nativelink.__file__).parent / "configs"
PLAIN = {"HOME": "/home/me"}


def config_of(role: str, **environment: str) -> Config:
    text = (CONFIGS / f"{role}.json5").read_text()
    report = examine(text, role, PLAIN | environment)
    assert report.config is not None, [str(each) for each in report.findings]
    return report.config


def findings(aws: str, environment: Mapping[str, str] = PLAIN) -> set[str]:
    text = f"""{{
      stores: [{{ name: "CAS", memory: {{ eviction_policy: {{ max_count: 10 }} }} }}],
      schedulers: [
        {{ name: "MAIN", simple: {{}} }},
        {{ name: "AWAY", grpc: {{ endpoint: {{ address: "grpc://a:1" }} }} }},
      ],
      servers: [{{ listener: {{ http: {{ socket_address: "127.0.0.1:50051" }} }}, services: {{
        cas: [{{ cas_store: "CAS" }}], bytestream: [{{ cas_store: "CAS" }}],
        capabilities: [{{ remote_execution: {{ scheduler: "MAIN" }} }},
          {{ instance_name: "b", remote_execution: {{ scheduler: "AWAY" }} }}],
      }} }}],
      global: {{ aws: {{ {aws} }} }},
    }}"""
    return {
        f"{each.severity}: {each.where}: {each.sentence}"
        for each in examine(text, "f", environment).findings
    }


@pytest.mark.parametrize("role", ["cas", "scheduler", "worker"])
def test_a_role_needs_no_variable(role: str) -> None:
    report = examine((CONFIGS / f"{role}.json5").read_text(), role, PLAIN)
    assert [str(each) for each in report.findings] == []


def test_pools_come_from_one_variable() -> None:
    pools = (
        '[{"name": "x86", "properties": {"ISA": "x86-64", "OSFamily": ["Linux", "linux"]},'
        ' "slots": 8, "group": "g", "min": 0}, {"name": "arm"}]'
    )
    aws = config_of("scheduler", NATIVELINK_POOLS=pools).global_.aws
    assert aws is not None
    one, other = aws.pools
    assert (one.name, one.slots) == ("x86", 8)
    assert one.properties == {"ISA": ("x86-64",), "OSFamily": ("Linux", "linux")}
    assert (other.name, other.slots, dict(other.properties)) == ("arm", 1, {})


@pytest.mark.parametrize(
    ("pools", "what"),
    [
        ("{", "no JSON"),
        ("{}", "not a list"),
        ('[{"name": "a"}, {"name": "a"}]', "two pools 'a'"),
        ('[{"name": ""}]', "pools"),
        ('[{"name": "a", "slots": 0}]', "pools"),
        ('[{"name": "a", "properties": {"b": 5}}]', "pools"),
        ("[5]", "pools"),
    ],
)
def test_pools_that_are_none_are_an_error(pools: str, what: str) -> None:
    found = findings('pools: "$POOLS"', PLAIN | {"POOLS": pools})
    assert [each for each in found if each.startswith("error") and what in each], found


def test_what_publishes_or_reads_needs_a_scheduler_that_workers_join() -> None:
    assert [each for each in findings("cloudwatch: {}") if 'needs "scheduler"' in each]
    assert [each for each in findings('drain_queue: { url: "u" }') if 'needs "scheduler"' in each]
    assert [each for each in findings('scheduler: "AWAY"') if "passes actions on" in each]
    assert [
        each for each in findings('scheduler: "NONE"') if 'no scheduler is called "NONE"' in each
    ]
    assert (
        findings('scheduler: "MAIN", drain_queue: { url: "" }, cloudwatch: { enabled: false }')
        == set()
    )


def test_publishing_no_pool_is_a_warning() -> None:
    (found,) = findings('scheduler: "MAIN", cloudwatch: {}')
    assert found.startswith("warning")


def test_a_machine_without_a_name_cannot_be_looked_after() -> None:
    found = findings('ec2: { instance_id: "", auto_scaling_group: "" }')
    assert len([each for each in found if "nothing can be done for a machine" in each]) == 2
    assert findings('ec2: { enabled: false, instance_id: "", auto_scaling_group: "" }') == set()


def test_the_mode_of_tls_comes_from_a_variable(tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key", "client-ca.crt"):
        (tmp_path / name).touch()
    plain = config_of("cas").servers[0].listener.http.tls
    assert plain is None
    text = (CONFIGS / "cas.json5").read_text()
    for mode, asks in (("server", False), ("mutual", True)):
        environment = {"NATIVELINK_TLS": mode, "NATIVELINK_TLS_DIRECTORY": str(tmp_path)}
        found = examine(text, "cas", PLAIN | environment)
        sections = [str(each) for each in found.findings if "client_ca_file" in str(each)]
        # An empty file is no certificate; only a mode that asks for it looks at it.
        assert bool(sections) <= asks


def test_a_mode_that_is_none_is_an_error() -> None:
    text = (CONFIGS / "cas.json5").read_text()
    report = examine(text, "cas", PLAIN | {"NATIVELINK_TLS": "of"})
    assert report.config is None
    assert "no such mode" in str(report.findings[0])


def test_a_mode_decides_what_the_other_keys_mean() -> None:
    files = {"cert_file": "c", "key_file": "k"}
    server = TlsSpec.model_validate(
        files | {"mode": "server", "client_ca_file": "a", "client_crl_file": "r"}
    )
    assert (server.client_ca_file, server.client_crl_file) == (None, None)
    mutual = TlsSpec.model_validate(
        files | {"mode": "mutual", "client_ca_file": "a", "client_crl_file": ""}
    )
    assert (mutual.client_ca_file, mutual.client_crl_file) == ("a", None)
    client = ClientTlsSpec.model_validate(files | {"mode": "server", "ca_file": "a"})
    assert (client.cert_file, client.key_file) == (None, None)
    with pytest.raises(ValueError, match='"mutual" needs "client_ca_file"'):
        TlsSpec.model_validate(files | {"mode": "mutual"})
    with pytest.raises(ValueError, match='"mutual" needs "cert_file"'):
        ClientTlsSpec.model_validate({"mode": "mutual", "ca_file": "a"})
