"""Two passwords are valid at any time; a new generation replaces the older one."""

import pytest

from infra.passwords import generations


@pytest.mark.parametrize("generation", range(1, 12))
def test_the_password_in_use_outlives_the_next_change(generation: int) -> None:
    assert generation in generations(generation)
    assert generation in generations(generation + 1)
    assert generation not in generations(generation + 2)
