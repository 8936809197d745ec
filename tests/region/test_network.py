"""Addresses and names."""

from __future__ import annotations

from scripts.region_local.network import Network, replace_names


def test_a_machine_keeps_the_end_of_its_address() -> None:
    network = Network(64)
    assert network.machine("10.64.3.17") == "127.64.3.17"
    assert network.balancer(0) != network.balancer(1)
    everything = {network.machine("10.64.1.1"), network.balancer(0), network.services}
    assert len({address.split(".")[1] for address in everything}) == 2


def test_names_are_replaced_where_they_stand_alone() -> None:
    names = {
        "cas.team.nativelink.internal": "127.65.1.2",
        "team.nativelink.internal": "127.65.1.3",
        "edge-1.elb.amazonaws.com": "127.65.1.1",
    }
    text = "grpc://cas.team.nativelink.internal:50053 other.edge-1.elb.amazonaws.com"
    assert replace_names(text, names) == "grpc://127.65.1.2:50053 other.edge-1.elb.amazonaws.com"
    assert replace_names("build --remote_cache=grpc://edge-1.elb.amazonaws.com:50051\n", names) == (
        "build --remote_cache=grpc://127.65.1.1:50051\n"
    )
    assert replace_names("nothing", {}) == "nothing"
