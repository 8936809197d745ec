"""A region's place on this machine."""

from __future__ import annotations

from scripts.region_local.region import claim


def test_two_regions_on_one_machine_have_different_addresses() -> None:
    (first, one), (second, other) = claim(), claim()
    with one, other:
        assert first.services != second.services
        assert first.machine("10.64.0.4") != second.machine("10.64.0.4")
