from __future__ import annotations

import pytest

from nativelink.config.load import examine

STORES = """
  { name: "CAS", memory: { eviction_policy: { max_bytes: "1gb" } } },
  { name: "AC", memory: { eviction_policy: { max_bytes: "1gb" } } },
  { name: "ALIAS", ref_store: { name: "CAS" } },
"""
BAZEL = """
  cas: [{ cas_store: "CAS" }], bytestream: [{ cas_store: "CAS" }], capabilities: [{}],
  ac: [{ ac_store: "AC" }],
"""


def problems(services: str, *, stores: str = "", severity: str = "error") -> list[str]:
    """Findings, with where they are."""
    text = (
        f"{{ stores: [{STORES}{stores}], servers: [{{ listener: {{ http: "
        f'{{ socket_address: "127.0.0.1:0" }} }}, services: {{ {services} }} }}] }}'
    )
    report = examine(text, "file", {"HOME": "/home/me"})
    return [
        f"{each.where}: {each.sentence}"
        for each in report.findings
        if str(each.severity) == severity
    ]


@pytest.mark.parametrize(
    "cache",
    [
        "http_cache: [{}]",
        'http_cache: [{ instance_name: "x", ac_store: "AC" }]',
        'http_cache: [{ ac_store: "AC", cas_store: "CAS", read_only: true }]',
        'http_cache: [{}], admin: {}, health: { path: "/cached" }',
        'http_cache: [{ instance_name: "x", ac_store: "AC" }], admin: { path: "/cache" }',
    ],
)
def test_what_fits_together_is_no_problem(cache: str) -> None:
    assert problems(BAZEL + cache) == []


@pytest.mark.parametrize(
    ("cache", "where", "what"),
    [
        ('http_cache: [{ instance_name: "x" }]', "http_cache[0]", "no ac for the instance"),
        ('http_cache: [{ ac_store: "CAS" }]', "http_cache[0].ac_store", "the same store"),
        ('http_cache: [{ ac_store: "ALIAS" }]', "http_cache[0].ac_store", "the same store"),
        (
            'http_cache: [{ ac_store: "AC", cas_store: "AC" }]',
            "http_cache[0].ac_store",
            "the same store",
        ),
        ('http_cache: [{ ac_store: "NONE" }]', "http_cache[0].ac_store", "NONE"),
        ("http_cache: [{}, {}]", "http_cache[1]", "already"),
        ('http_cache: [{}], admin: { path: "/cas" }', "admin.path", "is at /cas"),
        (
            'http_cache: [{ instance_name: "a b", ac_store: "AC" }], health: { path: "/a%20b/ac" }',
            "health.path",
            "is at /a%20b/ac",
        ),
    ],
)
def test_what_does_not_is_said_where_it_stands(cache: str, where: str, what: str) -> None:
    found = problems(BAZEL + cache)
    assert len(found) == 1, found
    assert where in found[0]
    assert what in found[0]


UPSTREAM = """{ name: "UP", fast_slow: { fast: { memory: {} }, slow: { grpc: {
  store_type: "ac", endpoints: [{ address: "grpc://127.0.0.1:1" }],
} } } },"""
PARTS = """{ name: "UP", size_partitioning: {
  size: 9, lower_store: { memory: {} }, upper_store: { memory: {} },
} },"""


@pytest.mark.parametrize(("stores", "kind"), [(UPSTREAM, "grpc"), (PARTS, "size_partitioning")])
@pytest.mark.parametrize(
    ("services", "where"),
    [
        ('http_cache: [{ instance_name: "x", ac_store: "UP" }]', "http_cache[0].ac_store: "),
        ('ac: [{ ac_store: "UP" }], http_cache: [{}]', "http_cache[0]: "),
    ],
)
def test_stores_that_take_no_names_are_no_place_for_entries(
    stores: str, kind: str, services: str, where: str
) -> None:
    found = [
        each
        for each in problems(services, stores=stores, severity="warning")
        if "digests only" in each
    ]
    assert len(found) == 1, found
    assert where in found[0]
    assert f'"UP" contains {kind}' in found[0]


def test_other_stores_are() -> None:
    assert not [
        each for each in problems(BAZEL + "http_cache: [{}]", severity="warning") if "AC" in each
    ]
