"""Which stores bound the transfers of a CAS."""

from __future__ import annotations

import json5
import pytest

from nativelink.config import Config
from nativelink.config.in_flight import limited_stores
from nativelink.config.load import examine


def grpc(requests: int = 0, *limits: int | None) -> str:
    endpoints = ", ".join(
        f'{{ address: "grpc://127.0.0.1:{port}"'
        + ("" if limit is None else f", concurrency_limit: {limit}")
        + " }"
        for port, limit in enumerate(limits or (None,), 1)
    )
    return (
        f'grpc: {{ store_type: "cas", max_concurrent_requests: {requests}, '
        f"endpoints: [{endpoints}] }}"
    )


S3 = """experimental_cloud_object_store: {
  provider: "aws", region: "eu-central-1", bucket: "b", max_concurrent_requests: 7,
}"""
KINDS = {"grpc", "experimental_cloud_object_store"}


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (grpc(), {}),
        (grpc(3), {"CAS": 3}),
        (grpc(0, 4, 2), {"CAS": 2}),
        (grpc(3, 4, None), {"CAS": 3}),
        (S3, {"CAS": 7}),
        ("filesystem: { content_path: '/c', temp_path: '/t', max_concurrent_writes: 1 }", {}),
        (
            f"fast_slow: {{ fast: {{ {grpc(1)} }}, slow: {{ {S3} }} }}",
            {"CAS/fast": 1, "CAS/slow": 7},
        ),
        (f"dedup: {{ index_store: {{ memory: {{}} }}, content_store: {{ {grpc(1)} }} }}", {}),
        ("verify: { backend: { ref_store: { name: 'UP' } } }", {"UP": 9}),
        ("shard: { stores: [{ store: { ref_store: { name: 'UP' } } }] }", {"UP": 9}),
        ("ref_store: { name: 'CAS' }", {}),
        ("ref_store: { name: 'NONE' }", {}),
    ],
)
def test_the_bounds_below_a_store_are_found(store: str, found: dict[str, int]) -> None:
    text = f"""{{
      stores: [{{ name: "CAS", {store} }}, {{ name: "UP", {grpc(9)} }}], servers: [],
    }}"""
    config = Config.model_validate(json5.loads(text))
    stores = {named.name: named.spec for named in config.stores}
    bounds = {
        "/".join(str(part) for part in path if part not in KINDS): bound
        for path, bound in limited_stores(stores["CAS"], ("CAS",), stores)
    }
    assert bounds == found


@pytest.mark.parametrize(("requests", "refused"), [(1, True), (2, False), (0, False)])
def test_chunks_over_a_store_that_takes_one_request_are_an_error(
    requests: int, refused: bool
) -> None:
    text = f"""{{
      stores: [{{ name: "CAS", fast_slow: {{ fast: {{ memory: {{}} }}, slow: {{
        {grpc(requests)}
      }} }} }}],
      servers: [{{ listener: {{ http: {{ socket_address: "127.0.0.1:0" }} }}, services: {{
        cas: [{{ cas_store: "CAS", experimental_chunking: {{}} }}],
      }} }}],
    }}"""
    found = [
        f"{each.where}: {each.sentence}"
        for each in examine(text, "file", {}).findings
        if str(each.severity) == "error"
    ]
    assert len(found) == refused
    assert all("experimental_chunking: stores/CAS/slow/grpc takes one request" in f for f in found)
