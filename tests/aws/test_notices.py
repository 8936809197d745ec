"""The instance's metadata over real HTTP, and the notices in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from nativelink.aws import metadata as metadata_module
from nativelink.aws.metadata import InstanceMetadata, open_metadata
from nativelink.aws.notices import ImdsNotices
from nativelink.core.errors import Code, NativeLinkError
from nativelink.testing.fakes import FakeClock
from nativelink.testing.imds import FakeImds

SPOT = "spot/instance-action"
REBALANCE = "events/recommendations/rebalance"
STATE = "autoscaling/target-lifecycle-state"


class Setup:
    def __init__(self, imds: FakeImds, metadata: InstanceMetadata, clock: FakeClock) -> None:
        self.imds = imds
        self.clock = clock
        self.metadata = metadata
        self.notices = ImdsNotices(metadata, planned_s=3600, clock=clock, sleep=self._sleep)
        self.looks = 0

    async def _sleep(self, seconds: float) -> None:
        assert seconds == 5
        self.looks += 1
        self.clock.advance(seconds)
        if self.looks == 3:
            raise TimeoutError
        await asyncio.sleep(0)

    async def nothing(self) -> None:
        """There is no notice at the next looks."""
        self.looks = 0
        with pytest.raises(TimeoutError):
            await self.notices.next()
        self.looks = 0

    def time(self, seconds: float) -> str:
        at = datetime.fromtimestamp(self.clock.time() + seconds, UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    # EC2 answers at once; a thread of a busy machine when it comes to it.
    monkeypatch.setattr(metadata_module, "_TIMEOUT_S", 60)
    clock = FakeClock()
    with FakeImds() as imds:
        async with open_metadata(imds.url, clock) as metadata:
            yield Setup(imds, metadata, clock)


async def test_a_token_serves_many_requests_and_is_renewed_in_time(setup: Setup) -> None:
    assert await setup.metadata.get(STATE) == "InService"
    assert await setup.metadata.get("nothing") is None
    assert setup.imds.tokens == 1
    setup.clock.advance(10_800)
    assert await setup.metadata.get(STATE) == "InService"
    assert setup.imds.tokens == 2


async def test_a_token_that_is_refused_is_replaced_at_once(setup: Setup) -> None:
    await setup.metadata.get(STATE)
    setup.imds.forget_tokens()
    assert await setup.metadata.get(STATE) == "InService"
    assert setup.imds.tokens == 2


async def test_what_cannot_be_had_is_unavailable(setup: Setup) -> None:
    setup.imds.broken.add("token")
    with pytest.raises(NativeLinkError, match="gave no token: 500") as raised:
        await setup.metadata.get(STATE)
    assert raised.value.code is Code.UNAVAILABLE
    setup.imds.broken = {STATE}
    with pytest.raises(NativeLinkError, match="answered 500"):
        await setup.metadata.get(STATE)


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with open_metadata("http://127.0.0.1:1", FakeClock()) as metadata:
        with pytest.raises(NativeLinkError, match="no instance metadata") as raised:
            await metadata.get(STATE)
    assert raised.value.code is Code.UNAVAILABLE


async def test_an_interruption_gives_the_time_until_it(setup: Setup) -> None:
    await setup.nothing()
    setup.imds.said[SPOT] = f'{{"action": "terminate", "time": "{setup.time(100)}"}}'
    notice = await setup.notices.next()
    assert notice.reason == "spot interruption"
    assert notice.seconds == pytest.approx(100, abs=1)
    await setup.nothing()


async def test_an_interruption_with_another_time_is_another_notice(setup: Setup) -> None:
    setup.imds.said[SPOT] = f'{{"action": "terminate", "time": "{setup.time(120)}"}}'
    await setup.notices.next()
    setup.imds.said[SPOT] = f'{{"action": "terminate", "time": "{setup.time(60)}"}}'
    assert (await setup.notices.next()).seconds == pytest.approx(60, abs=1)


async def test_one_whose_time_is_over_leaves_none(setup: Setup) -> None:
    setup.imds.said[SPOT] = f'{{"action": "terminate", "time": "{setup.time(-30)}"}}'
    assert (await setup.notices.next()).seconds == 0


@pytest.mark.parametrize(
    "said", ["", "{", "[]", '{"time": 5}', '{"time": "soon"}', '{"action": "stop"}', "null"]
)
async def test_one_of_an_unknown_form_is_taken_for_the_two_minutes_that_there_are(
    setup: Setup, said: str
) -> None:
    setup.imds.said[SPOT] = said
    if not said:
        await setup.nothing()
    else:
        assert (await setup.notices.next()).seconds == 120


async def test_a_recommendation_gives_no_time_and_is_given_once(setup: Setup) -> None:
    setup.imds.said[REBALANCE] = f'{{"noticeTime": "{setup.time(0)}"}}'
    notice = await setup.notices.next()
    assert (notice.reason, notice.seconds) == ("recommendation to rebalance", None)
    await setup.nothing()


async def test_the_end_that_the_group_wants_gives_a_worker_all_the_time_that_it_needs(
    setup: Setup,
) -> None:
    setup.imds.said[STATE] = "Terminated"
    assert not setup.notices.terminating
    assert (await setup.notices.next()).seconds == 3600
    assert setup.notices.terminating
    await setup.nothing()


async def test_a_part_that_fails_hides_none_of_the_others_and_is_said_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    setup.imds.broken = {SPOT, STATE}
    setup.imds.said[REBALANCE] = "{}"
    assert (await setup.notices.next()).seconds is None
    await setup.nothing()
    assert caplog.text.count("cannot be read") == 1
    setup.imds.broken = set()
    await setup.nothing()
    assert "over" in caplog.text
