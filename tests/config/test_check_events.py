"""Stores that cannot keep events, or not for long, are told before a server starts."""

from __future__ import annotations

import pytest

from tests.config.test_check import HTTP, sentences

BLOBS = "a grpc store takes blobs under their digests only, and events have names"
GRPC = 'grpc: { instance_name: "", store_type: "cas", endpoints: [{ address: "grpc://c:1" }] }'
DISK = 'filesystem: { content_path: "/a", temp_path: "/b", eviction_policy: { max_bytes: 1 } }'


def told(stores: str, *, origin: bool = False) -> list[str]:
    bep = f'servers: [{{ listener: {HTTP}, services: {{ experimental_bep: {{ store: "B" }} }} }}]'
    events = 'servers: [], experimental_origin_events: { publisher: { store: "B" } }'
    found = sentences(f"{{ stores: [{stores}], {events if origin else bep} }}")
    return [each for each in found if "event" in each or "builds are told" in each]


@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize(
    "stores",
    [
        f'{{ name: "B", {GRPC} }}',
        f'{{ name: "B", fast_slow: {{ fast: {{ {DISK} }}, slow: {{ {GRPC} }} }} }}',
        f'{{ name: "B", ref_store: {{ name: "C" }} }}, {{ name: "C", {GRPC} }}',
    ],
)
def test_a_remote_cas_cannot_keep_events(stores: str, *, origin: bool) -> None:
    assert any(BLOBS in each for each in told(stores, origin=origin))


def test_events_on_disk_are_fine() -> None:
    assert told(f'{{ name: "B", {DISK} }}') == []
    assert (
        told(f'{{ name: "B", fast_slow: {{ fast: {{ memory: {{}} }}, slow: {{ {DISK} }} }} }}')
        == []
    )


def test_build_events_in_memory_alone_are_lost_with_the_process() -> None:
    [found] = told('{ name: "B", memory: { eviction_policy: { max_bytes: 1 } } }')
    assert "build events in memory are gone when the process ends" in found


def test_build_events_that_nobody_keeps_are_noticed() -> None:
    [found] = told('{ name: "B", noop: {} }')
    assert "this store keeps nothing" in found


def test_stores_that_refer_to_each_other_are_no_trap() -> None:
    assert (
        told('{ name: "B", ref_store: { name: "C" } }, { name: "C", ref_store: { name: "B" } }')
        == []
    )
