"""moto's server with percentiles: `python -m scripts.region_local.emulator -H HOST -p PORT`.

moto keeps every value of a metric, and calculates no `p99` or its like of them: it fails where it
is asked for one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from math import ceil
from typing import SupportsFloat

from moto.cloudwatch.models import Statistics
from moto.server import main

__all__ = ["install", "percentile"]

_known = Statistics.get_statistics_for_type


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all values do not exceed.

    Args:
        values: at least one, in any order.
        percent: above 0, at most 100.
    """
    rank = ceil(round(len(values) * percent / 100, 6))
    return sorted(values)[rank - 1]


def _value_of(statistics: Statistics, stat: str) -> SupportsFloat | None:
    """What moto knows, and percentiles of single values."""
    asked = re.fullmatch(r"p(\d+(?:\.\d+)?)", stat)
    if asked is None:
        return _known(statistics, stat)
    values = statistics.metric_single_values_list
    return percentile(values, float(asked[1])) if values else None


def install() -> None:
    """Have moto of this process know percentiles."""
    Statistics.get_statistics_for_type = _value_of  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    install()
    main(sys.argv[1:])
