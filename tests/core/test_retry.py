"""Pauses between tries, without any time passing."""

from __future__ import annotations

import pytest

from nativelink.core.errors import Code, NativeLinkError, not_found, unavailable
from nativelink.core.retry import Retry


class Pauses:
    """A sleep that only notes for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, *errors: NativeLinkError) -> None:
        self.errors = list(errors)
        self.tries = 0

    async def __call__(self) -> str:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_pauses_double_from_twice_the_delay_on() -> None:
    pauses = Pauses()
    retry = Retry(max_retries=4, delay_s=0.1, sleep=pauses.sleep)
    assert await retry.run(Flaky(*[unavailable("busy")] * 4)) == "done"
    assert pauses.seconds == pytest.approx([0.2, 0.4, 0.8, 1.6])


@pytest.mark.parametrize(("drawn", "factor"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_jitter_spreads_a_pause_to_both_sides(drawn: float, factor: float) -> None:
    retry = Retry(delay_s=2.0, jitter=0.5, random=lambda: drawn)
    assert retry.pause_s(1) == pytest.approx(4.0 * factor)


def test_a_pause_is_a_number_however_many_came_before() -> None:
    assert Retry(delay_s=1.0).pause_s(100_000) == 2.0**64


async def test_without_retries_the_first_failure_is_final() -> None:
    flaky = Flaky(unavailable("busy"))
    with pytest.raises(NativeLinkError, match="busy"):
        await Retry().run(flaky)
    assert flaky.tries == 1


async def test_the_last_failure_is_raised_when_all_tries_are_used_up() -> None:
    pauses = Pauses()
    flaky = Flaky(*[unavailable(f"busy {number}") for number in range(9)])
    with pytest.raises(NativeLinkError, match="busy 2"):
        await Retry(max_retries=2, delay_s=1, sleep=pauses.sleep).run(flaky)
    assert (flaky.tries, pauses.seconds) == (3, [2, 4])


async def test_an_error_of_another_code_is_final() -> None:
    flaky = Flaky(not_found("nothing"))
    with pytest.raises(NativeLinkError, match="nothing"):
        await Retry(max_retries=5, sleep=Pauses().sleep).run(flaky)
    assert flaky.tries == 1


async def test_the_codes_can_be_chosen() -> None:
    retry = Retry(max_retries=1, codes=frozenset({Code.NOT_FOUND}), sleep=Pauses().sleep)
    assert await retry.run(Flaky(not_found("not yet"))) == "done"
    with pytest.raises(NativeLinkError, match="busy"):
        await retry.run(Flaky(unavailable("busy")))


async def test_progress_makes_the_next_failure_the_first() -> None:
    pauses = Pauses()
    tries = Retry(max_retries=1, delay_s=1, sleep=pauses.sleep).tries()
    await tries.after(unavailable("once"))
    tries.renew()
    await tries.after(unavailable("twice"))
    with pytest.raises(NativeLinkError, match="thrice"):
        await tries.after(unavailable("thrice"))
    assert pauses.seconds == [2, 2]
