"""Sizes of instances, and the scaling rule of a pool."""

from __future__ import annotations

import re

from infra.settings import PoolSettings
from nativelink.aws.scaling import ScalingRule

__all__ = ["processors", "rule_of", "slots_of"]


def processors(instance_type: str) -> int:
    """Processors of a type, by its size: `xlarge` has four, and so on.

    Raises:
        ValueError: a size that says nothing about it, such as `metal`.
    """
    size = instance_type.partition(".")[2]
    match re.fullmatch(r"([0-9]*)xlarge", size):
        case re.Match() as found:
            return 4 * int(found[1] or 1)
        case _:
            known = {"small": 2, "medium": 1, "large": 2}
            if size not in known:
                raise ValueError(f"{instance_type}: processors are not known; set `slots`")
            return known[size]


def slots_of(pool: PoolSettings) -> int:
    """Actions at the same time on one worker of a pool."""
    return pool.slots or processors(pool.types[0])


def rule_of(pool: PoolSettings) -> ScalingRule:
    """What the pool's size follows from."""
    return ScalingRule(
        slots=slots_of(pool), smallest=pool.min, largest=pool.max, boot_s=pool.boot_s
    )
