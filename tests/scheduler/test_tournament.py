"""The least entry that fits, compared with looking at all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nativelink.scheduler.tournament import Tournament

vectors = st.tuples(st.integers(0, 4), st.integers(0, 4))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(), vectors),
        st.tuples(st.just("set"), st.integers(0, 40), vectors),
        st.tuples(st.just("clear"), st.integers(0, 40), vectors),
        st.tuples(st.just("remove"), st.integers(0, 40), vectors),
        st.tuples(st.just("arrange"), st.integers(), vectors),
        st.tuples(st.just("best"), st.integers(0, 5), vectors),
    ),
    max_size=60,
)


@given(steps)
def test_the_best_entry_is_the_one_that_a_look_at_all_finds(
    history: list[tuple[str, int, tuple[int, int]]],
) -> None:
    tree: Tournament[int] = Tournament(2)
    known: dict[int, tuple[int, tuple[float, int], tuple[int, int]] | None] = {}
    places: dict[int, int] = {}
    for number, (what, which, vector) in enumerate(history):
        chosen = which % len(places) if places else 0
        match what:
            case "add":
                places[number] = tree.add(number)
                known[number] = None
            case "arrange":
                tree.arrange(lambda item: [item % 7])
            case "best":
                wanted = [
                    (key, item)
                    for item, entry in known.items()
                    if entry is not None
                    and all(a <= b for a, b in zip(entry[2], vector, strict=True))
                    for key in [entry[1]]
                    if item % 5 != which
                ]
                found = tree.best(vector, lambda item, unwanted=which: item % 5 == unwanted)
                assert found == (min(wanted) if wanted else None)
            case _ if places:
                item = list(places)[chosen]
                if what == "set":
                    key = (float(which % 7), number)
                    tree.set(places[item], key, vector)
                    known[item] = (item, key, vector)
                elif what == "clear":
                    tree.clear(places[item])
                    known[item] = None
                else:
                    tree.remove(places.pop(item))
                    del known[item]
            case _:
                pass
        everything = [entry[1] for entry in known.values() if entry is not None]
        assert tree.keys[1] == min(everything, default=(float("inf"), 0))
