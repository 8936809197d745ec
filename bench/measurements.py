"""What a run measured: plain data, written to `docs/benchmarks.json` as it is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["CaseResult", "LatencyResult", "Ratio", "Results", "ServerResult"]

PEER = "buildbox-casd"


@dataclass(frozen=True)
class Ratio:
    """Our rate as a multiple of the peer's: the median over rounds, and the extremes."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyResult:
    """Latencies at 70 % of a server's own peak rate."""

    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, sorted_us: Sequence[int]) -> LatencyResult:
        """Percentiles of sorted latencies."""
        last = len(sorted_us) - 1
        return cls(sorted_us[last // 2], sorted_us[int(last * 0.99)])


@dataclass
class CaseResult:
    """One case: server name -> one figure per round.

    Attributes:
        rates: calls per second.
        cpu_us: the server's processor time per call, which other programs on the machine disturb
            far less than they disturb rates.
    """

    name: str
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, LatencyResult] = field(default_factory=dict)

    def ratio(self, server: str, peer: str = PEER) -> Ratio | None:
        """Server against peer, round by round, so that the machine's moods cancel out."""
        if server not in self.rates or peer not in self.rates:
            return None
        pairs = zip(self.rates[server], self.rates[peer], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


@dataclass
class ServerResult:
    """What was measured once per server."""

    start_s: float = 0.0
    rss_before_bytes: int = 0
    rss_after_bytes: int = 0
    rss_peak_bytes: int = 0
    first_byte_us: dict[str, float] = field(default_factory=dict)
    tls_ratios: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Results:
    """A whole run."""

    rounds: int
    seconds: float
    cases: list[CaseResult] = field(default_factory=list)
    servers: dict[str, ServerResult] = field(default_factory=dict)
    loader_ceiling: dict[str, float] = field(default_factory=dict)
