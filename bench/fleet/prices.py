"""What a worker's hour costs: one dated table.

US dollars in us-east-1. Both prices are those of AWS' own example (EC2 Auto Scaling User Guide,
"Spot price per unit hour example", as it stood on 2026-11-21; spot is the mean of its three zones).
Prices move: what the simulator compares are policies, at the same prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["C5_2XLARGE", "Price"]


@dataclass(frozen=True, slots=True)
class Price:
    """Of one instance type.

    Attributes:
        instance_type: EC2's name.
        slots: its processors, so many actions at a time.
        on_demand: dollars an hour.
        spot: dollars an hour.
    """

    instance_type: str
    slots: int
    on_demand: float
    spot: float


C5_2XLARGE: Final = Price("c5.2xlarge", 8, on_demand=0.34, spot=0.18)
