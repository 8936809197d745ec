"""Which instances come and which go."""

from __future__ import annotations

from scripts.region_local.agent import differences
from scripts.region_local.machine import Stage


def test_what_is_wanted_and_not_there_comes() -> None:
    assert differences({"i-1": Stage.IN_SERVICE}, ["i-1", "i-2", "i-3"]) == (["i-2", "i-3"], [])


def test_what_is_there_and_not_wanted_goes_once() -> None:
    known = {
        "i-1": Stage.BOOTING,
        "i-2": Stage.STARTING,
        "i-3": Stage.IN_SERVICE,
        "i-4": Stage.LEAVING,
        "i-5": Stage.STOPPING,
        "i-6": Stage.IN_SERVICE,
    }
    assert differences(known, ["i-6"]) == ([], ["i-1", "i-2", "i-3"])
