from __future__ import annotations

import json
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.scheduler.wrap.hints import parse_hints
from nativelink.scheduler.wrap.historical_resource import HistoricalResourceScheduler
from nativelink.testing.fakes import FakeClock
from tests.services.scheduling import FakeScheduler

KEY = ActionKey("", DigestFunction.SHA256, DigestFunction.SHA256.digest_of(b"x"))
Properties = tuple[tuple[str, str], ...]

HINTS = [
    {"target_id": "//a", "action_mnemonic": "Link", "cpu_count": 8, "memory_mib": 2},
    {"target_id": "//a", "cpu_count": 4, "memory_kb": 100},
    {"action_mnemonic": "Link", "cpu_count": 2},
]


class File:
    """The hints' file, as the test writes it."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.reads = 0

    def read(self) -> bytes:
        self.reads += 1
        if isinstance(self.content, Exception):
            raise self.content
        return (
            self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()
        )


class Setup:
    def __init__(self, content: Any, **settings: Any) -> None:
        self.file = File(content)
        self.clock = FakeClock()
        self.backend = FakeScheduler()
        self.scheduler = HistoricalResourceScheduler(
            self.backend, self.file.read, clock=self.clock, **settings
        )

    async def properties(
        self, target: str = "", mnemonic: str = "", given: Properties = ()
    ) -> Properties:
        """What the backend is asked for."""
        origin = Origin(target_id=target, action_mnemonic=mnemonic)
        await self.scheduler.execute(ActionInfo(KEY, given, origin=origin))
        return next(reversed(self.backend.views.values())).action.properties


@pytest.mark.parametrize(
    ("target", "mnemonic", "found"),
    [
        ("//a", "Link", (("cpu_count", "8"), ("memory_kb", "2048"))),
        ("//a", "Compile", (("cpu_count", "4"), ("memory_kb", "100"))),
        ("//a", "", (("cpu_count", "4"), ("memory_kb", "100"))),
        ("//b", "Link", (("cpu_count", "2"),)),
        ("//b", "Compile", ()),
        ("", "", ()),
    ],
)
@pytest.mark.parametrize("content", [HINTS, {"hints": HINTS}], ids=["list", "object"])
async def test_the_hint_that_fits_best_counts(
    content: Any, target: str, mnemonic: str, found: Properties
) -> None:
    setup = Setup(content)
    await setup.scheduler.refresh()
    assert await setup.properties(target, mnemonic) == found


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ((("cpu_count", "16"),), (("cpu_count", "16"), ("memory_kb", "100"))),
        (
            (("cpu_count", "3"), ("os", "x")),
            (("cpu_count", "4"), ("memory_kb", "100"), ("os", "x")),
        ),
        (
            (("cpu_count", "16"), ("cpu_count", "3")),
            (("cpu_count", "16"), ("cpu_count", "3"), ("memory_kb", "100")),
        ),
        (
            (("cpu_count", "many"), ("memory_kb", "200")),
            (("cpu_count", "many"), ("memory_kb", "200")),
        ),
    ],
)
async def test_a_hint_only_raises(given: Properties, asked: Properties) -> None:
    setup = Setup(HINTS)
    await setup.scheduler.refresh()
    assert await setup.properties("//a", "", given) == asked


async def test_the_properties_may_have_other_names() -> None:
    setup = Setup(HINTS, cpu_property_name="cores", memory_property_name="ram")
    await setup.scheduler.refresh()
    assert await setup.properties("//a") == (("cores", "4"), ("ram", "100"))


async def test_the_file_is_read_again_when_its_time_has_come() -> None:
    setup = Setup(HINTS, refresh_interval_s=30)
    await setup.scheduler.refresh()
    setup.file.content = [{"target_id": "//a", "cpu_count": 5}]
    setup.clock.advance(29)
    assert await setup.properties("//a") == (("cpu_count", "4"), ("memory_kb", "100"))
    setup.clock.advance(1)
    assert await setup.properties("//a") == (("cpu_count", "5"),)
    assert await setup.properties("//a") == (("cpu_count", "5"),)
    assert setup.file.reads == 2


async def test_without_an_interval_it_is_read_once() -> None:
    setup = Setup(HINTS, refresh_interval_s=0)
    await setup.scheduler.refresh()
    setup.clock.advance(1e6)
    assert await setup.properties("//a")
    assert setup.file.reads == 1


@pytest.mark.parametrize("broken", [FileNotFoundError("gone"), b"{", {"hint": []}, [{}]])
async def test_a_broken_file_changes_nothing_until_it_is_mended(
    broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup(broken)
    await setup.scheduler.refresh()
    assert await setup.properties("//a") == ()
    assert "there are none" in caplog.text
    setup.file.content = HINTS
    setup.clock.advance(30)
    assert await setup.properties("//a")
    setup.file.content = broken
    setup.clock.advance(30)
    assert await setup.properties("//a")
    assert "the 3 read before stay" in caplog.text


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (7, "hint 0 is 7; an object"),
        ({"cpu_count": 1}, "a target_id or an action_mnemonic"),
        ({"target_id": 7}, "target_id is 7; a string"),
        ({"target_id": "a", "cpu_count": -1}, "cpu_count is -1; a number"),
        ({"target_id": "a", "memory_kb": "1"}, "memory_kb is '1'; a number"),
        ({"target_id": "a", "memory_mib": True}, "memory_mib is True; a number"),
    ],
)
def test_a_wrong_hint_is_named(hint: Any, text: str) -> None:
    with pytest.raises(NativeLinkError) as raised:
        parse_hints(json.dumps([hint]).encode())
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert text in raised.value.message
