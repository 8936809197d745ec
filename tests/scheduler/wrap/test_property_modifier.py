from __future__ import annotations

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.scheduler.action import ActionInfo, ActionKey
from nativelink.scheduler.wrap.property_modifier import (
    Addition,
    Modification,
    PropertyModifierScheduler,
    Removal,
    Replacement,
)
from tests.services.scheduling import FakeScheduler

KEY = ActionKey("", DigestFunction.SHA256, DigestFunction.SHA256.digest_of(b"x"))
Properties = tuple[tuple[str, str], ...]


@pytest.mark.parametrize(
    ("modifications", "before", "after"),
    [
        ([], (("a", "1"),), (("a", "1"),)),
        ([Addition("b", "2")], (("a", "1"), ("c", "3")), (("a", "1"), ("b", "2"), ("c", "3"))),
        ([Addition("a", "2")], (("a", "1"), ("a", "3")), (("a", "2"),)),
        ([Removal("a")], (("a", "1"), ("a", "2"), ("b", "1")), (("b", "1"),)),
        ([Removal("a")], (), ()),
        ([Replacement("a", None, "b", None)], (("a", "1"),), (("b", "1"),)),
        ([Replacement("a", "1", "b", "9")], (("a", "1"), ("a", "2")), (("a", "2"), ("b", "9"))),
        ([Replacement("a", "1", "b", None)], (("a", "2"),), (("a", "2"),)),
        ([Replacement("b", None, "a", "0")], (("b", "1"), ("c", "1")), (("a", "0"), ("c", "1"))),
        (
            [Addition("a", "1"), Replacement("a", "1", "b", None), Removal("c")],
            (("c", "1"),),
            (("b", "1"),),
        ),
    ],
)
async def test_modifications_are_made_in_order(
    modifications: list[Modification], before: Properties, after: Properties
) -> None:
    backend = FakeScheduler()
    scheduler = PropertyModifierScheduler(backend, modifications)
    await scheduler.execute(ActionInfo(KEY, before), name="n")
    assert backend.views["n"].action == ActionInfo(KEY, after)


async def test_what_is_turned_into_something_else_is_known_too() -> None:
    scheduler = PropertyModifierScheduler(
        FakeScheduler(), [Addition("z", "1"), Removal("b"), Replacement("a", None, "y", None)]
    )
    assert scheduler.known_properties() == ["a", "b", "cpu_count"]


async def test_everything_else_is_the_backends() -> None:
    backend = FakeScheduler()
    scheduler = PropertyModifierScheduler(backend, [])
    watch = await scheduler.execute(ActionInfo(KEY))
    (name,) = backend.views
    assert await scheduler.get(name) == await watch.next()
    assert await (await scheduler.watch(name)).next() == backend.views[name]
    assert [*await scheduler.operations()] == [backend.views[name]]
    await scheduler.cancel(name)
    assert backend.cancelled == [name]
    backend.finish(b"")
    await scheduler.delete(name)
    assert not backend.views
