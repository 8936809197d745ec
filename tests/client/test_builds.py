"""What builds tell, for those who look at them later."""

from __future__ import annotations

import pytest

from nativelink.client.builds import BuildState, cache_figures, document_of, state_of
from nativelink.proto.nativelink.v1 import builds_pb2 as pb

NOW = 1_700_000_000.0


def build(state: int, *, silent_s: int = 0) -> pb.Build:
    # From a server that is newer, a number without a name.
    made = pb.Build.FromString(bytes((8 << 3, state)))
    made.seen_time.seconds = int(NOW) - silent_s
    return made


@pytest.mark.parametrize(
    ("state", "silent_s", "shown"),
    [
        (pb.Build.RUNNING, 0, BuildState.RUNNING),
        (pb.Build.RUNNING, 179, BuildState.RUNNING),
        (pb.Build.RUNNING, 181, BuildState.LOST),
        (pb.Build.FAILED, 9999, BuildState.FAILED),
        (99, 0, BuildState.UNKNOWN),
    ],
)
def test_a_build_is_lost_when_nothing_is_heard_of_it(
    state: int, silent_s: int, shown: BuildState
) -> None:
    assert state_of(build(state, silent_s=silent_s), NOW) is shown


@pytest.mark.parametrize(
    ("runners", "rate"),
    [
        ({}, None),
        ({"internal": 7}, None),
        ({"internal": 7, "linux-sandbox": 3, "remote cache hit": 1}, 0.25),
        ({"disk cache hit": 2, "remote cache hit": 2, "remote": 4}, 0.5),
    ],
)
def test_the_rate_of_cache_hits_leaves_out_what_bazel_does_by_itself(
    runners: dict[str, int], rate: float | None
) -> None:
    made = pb.Build(runners=[pb.Build.Runner(name=name, count=runners[name]) for name in runners])
    figures = cache_figures(made)
    assert (None if figures is None else figures.rate) == rate


def test_a_document_has_every_field_and_null_for_what_is_not_known() -> None:
    document = document_of(build(99), NOW)
    assert set(document) == {field.name for field in pb.Build.DESCRIPTOR.fields} | {"cache"}
    assert document["state"] == "UNKNOWN"
    assert document["finish_time"] is None
    assert document["targets"] == []
