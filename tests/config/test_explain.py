import pytest

from nativelink.config.explain import explain
from nativelink.config.load import examine
from nativelink.config.problems import mask_passwords

TEXT = """{
  stores: [
    { name: "CAS", fast_slow: {
      fast: { memory: { eviction_policy: { max_bytes: "512mb", max_seconds: "2d" } } },
      slow: { ref_store: { name: "UPSTREAM" } } } },
    { name: "UPSTREAM", grpc: { store_type: "cas", headers: { authorization: "Bearer secret" },
      endpoints: [{ address: "grpc://cache:1" }] } },
    { name: "REDIS", redis_store: { addresses: ["redis://user:secret@host:6379/0"] } },
  ],
  schedulers: [{ name: "MAIN", cache_lookup: { ac_store: "REDIS", scheduler: { simple: {} } } }],
  servers: [{
    name: "public",
    listener: { http: { socket_address: "127.0.0.1:1",
      tls: { cert_file: "/c", key_file: "/k", client_ca_file: "/a" } } },
    services: {
      cas: [{ instance_name: "main", cas_store: "CAS" }],
      execution: [{ instance_name: "main", cas_store: "CAS", scheduler: "MAIN" }],
      health: {},
    },
  }],
}"""


def lines(nodes, depth=0):
    for node in nodes:
        details = f"  {', '.join(node.details)}" if node.details else ""
        yield "  " * depth + node.label + details
        yield from lines(node.children, depth + 1)


def test_the_tree_says_who_uses_what_and_hides_secrets():
    report = examine(TEXT, "file", {})
    assert report.config is not None
    assert (
        "\n".join(lines(explain(report.config)))
        == """\
servers
  public  127.0.0.1:1, mutual TLS
    instance "main"
      cas -> CAS
      execution
        cas_store -> CAS
        scheduler -> MAIN
    health  /status
stores
  CAS  used by cas "main" of server public, execution "main" of server public
    fast_slow
      fast: memory  eviction_policy.max_bytes 512 MB, eviction_policy.max_seconds 2 d
      slow -> UPSTREAM
  UPSTREAM  used by store CAS
    grpc  endpoints[0].address grpc://cache:1, store_type cas, headers (set), \
experimental_remote_cache_compression no
  REDIS  used by scheduler MAIN
    redis_store  addresses redis://***********@host:6379/0
schedulers
  MAIN  used by execution "main" of server public
    cache_lookup  ac_store REDIS
      scheduler: simple"""
    )


@pytest.mark.parametrize(
    "address",
    [
        "redis://:sec@ret@host:6379/0",
        "redis+sentinel://host:26379/0?sentinelServiceName=m&sentinelPassword=sec=ret",
        "mongodb://h/?tlsCertificateKeyFilePassword=secret&w=majority",
        "mongodb://h/?authMechanismProperties=A:b,AWS_SESSION_TOKEN:secret",
    ],
)
def test_no_part_of_a_password_in_an_address_is_shown(address: str):
    shown = mask_passwords(f'addresses: ["redis://plain:6379", "{address}"] // of a@b')
    assert "sec" not in shown
    assert "ret" not in shown
    assert len(shown) == len(f'addresses: ["redis://plain:6379", "{address}"] // of a@b')
    assert shown.startswith('addresses: ["redis://plain:6379", "')
    assert shown.endswith(" // of a@b")


def test_stores_that_the_http_cache_takes_from_the_instance_are_said():
    text = """{
      stores: [{ name: "AC", memory: {} }, { name: "CAS", memory: {} }],
      servers: [{ listener: { http: { socket_address: "127.0.0.1:1" } }, services: {
        ac: [{ ac_store: "AC" }], cas: [{ cas_store: "CAS" }],
        http_cache: [{}, { instance_name: "own", ac_store: "AC", cas_store: "CAS" }] } }] }"""
    report = examine(text, "file", {})
    assert report.config is not None, report.findings
    drawn = "\n".join(lines(explain(report.config)))
    assert "http_cache  the stores of ac and cas\n" in drawn
    assert 'instance "own"\n      http_cache\n        cas_store -> CAS' in drawn


def test_values_of_a_property_are_alternatives_and_empty_texts_are_left_out():
    text = """{
      stores: [{ name: "CAS", fast_slow: {
        fast: { filesystem: { content_path: "/c", temp_path: "/t" } }, slow: { noop: {} } } }],
      servers: [],
      workers: [{ local: { name: "", worker_api_endpoint: { uri: "grpc://w:1" },
        cas_fast_slow_store: "CAS", work_directory: "/w", action_group: "",
        platform_properties: { os: { values: ["linux", "Linux"] } } } }] }"""
    report = examine(text, "file", {})
    assert report.config is not None, report.findings
    drawn = "\n".join(lines(explain(report.config)))
    assert "platform_properties  os linux or Linux" in drawn
    assert "action_group" not in drawn
