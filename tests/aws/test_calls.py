from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from nativelink.aws.calls import CallPublisher, Calls
from nativelink.aws.cloudwatch import Datum
from nativelink.core.errors import Code, unavailable
from nativelink.testing.patience import Patience, beside

AC = "build.bazel.remote.execution.v2.ActionCache"
CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"
BOUNDS = (0.1, 1.0)


class Setup:
    def __init__(self) -> None:
        self.time = Patience()
        self.calls: list[Calls] = []
        self.got: list[Sequence[Datum]] = []
        self.error: Exception | None = None
        self.expiries: list[float] = []
        self.publisher = CallPublisher(
            lambda: self.calls,
            BOUNDS,
            self.put,
            clock=self.time.clock,
            interval_s=60,
            expiries=lambda: self.expiries,
            sleep=self.time.sleep,
        )

    async def put(self, values: Sequence[Datum]) -> None:
        if self.error is not None:
            raise self.error
        self.got.append(values)

    def named(self) -> list[dict[str, float]]:
        return [{each.name: each.value for each in batch} for batch in self.got]


@pytest.fixture
def setup() -> Setup:
    return Setup()


@asynccontextmanager
async def publishing(setup: Setup) -> AsyncIterator[None]:
    async with beside(setup.publisher.run()):
        await setup.time.settle()
        yield


async def test_hits_and_misses_are_those_of_the_last_minute(setup: Setup) -> None:
    setup.calls = [Calls(AC, "GetActionResult", Code.OK, (100, 0, 0))]
    async with publishing(setup):
        setup.calls = [
            Calls(AC, "GetActionResult", Code.OK, (103, 4, 0)),
            Calls(AC, "GetActionResult", Code.NOT_FOUND, (2, 0, 0)),
            Calls(AC, "GetActionResult", Code.UNAVAILABLE, (0, 0, 1)),
            Calls(AC, "UpdateActionResult", Code.OK, (5, 0, 0)),
        ]
        await setup.time.let_pass(60)
    assert setup.named() == [
        {"ActionCacheHits": 7, "ActionCacheMisses": 2, "Calls": 15, "FailedCalls": 1}
    ]


async def test_a_minute_without_calls_publishes_nothing(setup: Setup) -> None:
    setup.calls = [Calls(AC, "GetActionResult", Code.OK, (1, 0, 0))]
    async with publishing(setup):
        await setup.time.let_pass(300)
    assert setup.got == []


@pytest.mark.parametrize(
    ("code", "failed"),
    [(Code.NOT_FOUND, 0), (Code.CANCELLED, 0), (Code.RESOURCE_EXHAUSTED, 0), (Code.INTERNAL, 1)],
)
async def test_only_what_is_the_servers_fault_is_a_failure(
    setup: Setup, code: Code, failed: int
) -> None:
    async with publishing(setup):
        setup.calls = [Calls("s.S", "M", code, (1, 0, 0))]
        await setup.time.let_pass(60)
    assert setup.named() == [{"Calls": 1, "FailedCalls": failed}]


async def test_durations_are_those_of_bounded_calls_with_the_bound_they_took_up_to(
    setup: Setup,
) -> None:
    async with publishing(setup):
        setup.calls = [
            Calls(CAS, "FindMissingBlobs", Code.OK, (5, 2, 0)),
            Calls(CAS, "BatchReadBlobs", Code.OK, (0, 1, 3)),
            Calls(CAS, "GetTree", Code.OK, (0, 0, 9)),
            Calls("google.bytestream.ByteStream", "Read", Code.OK, (0, 0, 9)),
        ]
        await setup.time.let_pass(60)
    (taken,) = (each for each in setup.got[0] if each.name == "CasCallDuration")
    # What took longer than every bound counts as the last one.
    assert taken.counts == ((0.1, 5), (1.0, 6))
    assert (taken.unit, taken.pool, taken.resolution_s) == ("Seconds", None, 60)


async def test_a_minute_that_cannot_be_sent_is_gone_and_said_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with publishing(setup):
        setup.error = unavailable("no CloudWatch")
        for count in (1, 2):
            setup.calls = [Calls("s.S", "M", Code.OK, (count, 0, 0))]
            await setup.time.let_pass(60)
        setup.error = None
        setup.calls = [Calls("s.S", "M", Code.OK, (9, 0, 0))]
        await setup.time.let_pass(60)
    assert setup.named() == [{"Calls": 7, "FailedCalls": 0}]
    assert caplog.text.count("cannot be published") == 2  # that it fails, and that it is over


async def test_the_tls_file_that_expires_first_is_told_also_when_nobody_calls(setup: Setup) -> None:
    setup.expiries = [setup.time.clock.time() + days * 86_400 for days in (30, 2, 400)]
    async with publishing(setup):
        await setup.time.let_pass(60)
        (datum,) = setup.got[0]
        assert (datum.name, datum.pool) == ("DaysToExpiry", None)
        assert datum.value == pytest.approx(2, abs=0.001)
        setup.expiries = []
        await setup.time.let_pass(120)
        assert len(setup.got) == 1
