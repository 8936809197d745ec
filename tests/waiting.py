"""Tests that mostly wait for other programs, beside those that compute.

`pytest -n 4 --waiting 2` has two processes for each. A group that waits runs in one of the former,
so that its waiting costs no processor's time; what waits for a minute costs a minute all the same
where it is the only one.
"""

from __future__ import annotations

import pytest

__all__ = ["is_waiting", "waits"]

_PREFIX = "waiting "


def waits(group: str) -> pytest.MarkDecorator:
    """Tests of one group run in one process, in their order."""
    return pytest.mark.xdist_group(_PREFIX + group)


def is_waiting(scope: str) -> bool:
    """Whether a unit of work of xdist is such a group."""
    return scope.startswith(_PREFIX)
