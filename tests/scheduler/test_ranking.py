"""Whose turn it is: what is urgent, what has waited long, what is big."""

from __future__ import annotations

from nativelink.scheduler.policy import Policy, PropertyKind
from tests.scheduler.farm import QUEUED, Farm, action


def test_a_higher_priority_goes_first_and_the_older_one_among_equals(farm: Farm) -> None:
    for number, priority in ((1, 0), (2, 2), (3, 2), (4, 1)):
        farm.ask(action(number, priority=priority))
    farm.join("w", slots=1)
    order = [farm.started()[0][1]]
    while farm.machine.queued:
        farm.finish("w", order[-1])
        order.append(farm.started()[0][1])
    assert order == ["op-2", "op-3", "op-4", "op-1"]


def test_what_has_waited_long_goes_before_what_is_a_bit_more_urgent() -> None:
    farm = Farm(Policy(ageing_s=60, client_action_timeout_s=1000))
    farm.ask(1)
    farm.pass_time(61)
    farm.ask(action(2, priority=1))
    assert farm.join("w", slots=1) == [("w", "op-1")]


def test_the_position_in_the_queue_counts_those_before(farm: Farm) -> None:
    for number in range(5):
        farm.ask(number)
    assert [farm.view(number).queue_position for number in range(5)] == [0, 1, 2, 3, 4]
    farm.join("w", slots=2)
    assert [farm.view(number).queue_position for number in range(5)] == [None, None, 0, 1, 2]


def test_a_big_action_does_not_starve_among_small_ones() -> None:
    farm = Farm(
        Policy(supported_properties={"cpu_count": PropertyKind.MINIMUM}, reservation_after_s=30)
    )
    farm.join("w", cpu_count="2")
    running = [farm.ask(action(number, cpu_count="1")) for number in (1, 2)]
    farm.ask(action(99, cpu_count="2"))
    number = 100
    while farm.stage(99) is QUEUED:
        number += 1
        assert number < 200, "it starves"
        farm.pass_time(2, "w")
        running.append(farm.ask(action(number, cpu_count="1")))
        farm.finish("w", running.pop(0))
    assert farm.now - 1000 < 60
    farm.finish("w", "op-99")
    assert len(farm.started()) == 2, "small ones go on"
