"""How a password is changed while machines use it."""

from __future__ import annotations

__all__ = ["generations"]


def generations(generation: int) -> tuple[int, int]:
    """Of which generation each of the two passwords is that are valid together.

    Raising the generation by one replaces the older password: what machines use meanwhile stays
    valid until the next time.
    """
    even = generation if generation % 2 == 0 else generation - 1
    odd = generation if generation % 2 == 1 else generation - 1
    return even, odd
