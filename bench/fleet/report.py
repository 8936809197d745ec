"""What a simulated day was like: a line, verdicts, a page with plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.fleet.simulation import Outcome, Policy
from bench.fleet.traces import HOUR, Build, Trace

__all__ = ["FAST", "LARGE", "LARGEST", "UNBOUNDED", "page", "row", "verdicts"]

_HEAD: Final = """\
# A fleet in virtual time

<!-- Written by scripts/simulate_fleet.py --write; do not edit. -->

`scripts/simulate_fleet.py` plays days of builds against the scaling policies
([`aws/scaling.py`](../app/nativelink/aws/scaling.py)) as an auto scaling group evaluates them:
metrics every 10 s, one period late; target tracking after three periods above the target; what
boots is no capacity yet. Builds send as many actions as `--jobs` allows, so a small pool makes them
slower. Everything is seeded: the figures come out the same again.

Shipped defaults: {type}-sized workers of {slots} slots, {smallest} to {largest} of them, all spot,
target {target:.0%}, boot time {boot_s:.0f} s, idle workers end after {idle_s:.0f} s. Prices are of
one dated table ([`prices.py`](../bench/fleet/prices.py): ${spot:.2f} an hour). Machines are
interrupted once in 50 hours, one notice in twenty gets lost. A machine is paid for from its launch
(EC2 bills it from `running` on, some seconds later) until {ending_s:.0f} s after its worker decided
to end it (EC2 bills it until `shutting-down`).
"""
_COLUMNS: Final = (
    "| {} | wait p50 | wait p99 | build p50 | dollars | idle | booting | slots used "
    "| interruptions | handed back | lost |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
_GOALS: Final = """
*Idle* is the part of the money for workers in service that run nothing at that moment, *booting*
for those not yet in service. *Handed back* are attempts that ended as their machine went, with the
hours of work that were done twice.

## The goals
"""
_WHY: Final = """
Of the working day's money, {busy:.1%} is for workers that run something, {booting:.1%} for those
that boot, and {idle:.1%} for idle ones: {between:.1%} between two actions, {leaving:.1%} for the
{idle_s:.0f} s after which idle workers end, {ending:.1%} while they end.

## How

Half of the builds are over in less time than a machine takes to boot. A rule that starts machines
for every queue has them idle, or ends and starts them all day. Three things make the difference:

- **Work counts up to a bound**: what ran on average of the last ten minutes, one worker, and
  another one (of more than ten workers, a tenth of them) for each minute that something waits
  without a break, after the first 90 s; or an eighth of all actions, if that is more. So a farm is
  as large as its hour needs, builds that last make it larger, and short ones do not.
- **Idle workers end after {idle_s:.0f} s.** Keeping them longer costs more than all else.
- **They end at once**: a worker that asked for its end looks every second whether it may go.

What it costs: the median build takes {shipped_s:.0f} s. With `idle_after_s: 120` it takes
{fast_s:.0f} s, and ${fast_more:.2f} more a day, {fast_each:.0f} cents for each of sixty developers:
**who pays developers rather than machines sets that**, small teams first, whose workers boot most
often (below). The goal of idle cost is missed then, by the nature of it: what is there before it is
needed is idle. Without the bound those 120 s cost ${unbounded:.2f} for builds of {unbounded_s:.0f}
s, as in earlier versions. [0030](adr/0030-what-ran-lately.md) has what else was tried.

What is not simulated: a machine that ends takes along what it downloaded, and the next one begins
without. The defaults start {launches} machines on that day, {fast_launches} are started with 120 s.

## Large pools

A pool of up to {largest} workers, one of which is busy, gets a build of 60,000 actions with 3,000
jobs. It has {part} of them in service after {part_min:.0f} minutes, {third} after {third_min:.0f},
and all after {all_min:.0f}. Without the bound it is all after {free_min:.0f}: the
bound costs large pools time, and only a larger `min` has workers there before. A pool without any
begins with at least a quarter of what its queue would take up, one with a few with an eighth.

## Other choices on the working day, and other days
"""
#: Choices that the text speaks of.
FAST: Final = "idle workers end after 120 s"
UNBOUNDED: Final = "120 s, and a queue counts without a bound"
#: A build that is large for a pool of up to so many workers, when one of them is busy.
LARGEST: Final = 300
LARGE: Final = Trace(
    "large", "", (Build(0.0, (30.0,) * 480, 8), Build(600.0, (60.0,) * 60_000, 3000))
)

#: The goals: waiting on the working day in boot times, and the part of the money that machines
#: cost which are in service and run nothing.
_WAIT_GOAL: Final = 2.5
_IDLE_GOAL: Final = 0.10


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of all are."""
    ordered = sorted(values)
    return ordered[round(part * (len(ordered) - 1))] if ordered else 0.0


def row(outcome: Outcome) -> str:
    """The figures of a day in one line."""
    return (
        f"wait p50 {quantile(outcome.waits, 0.5):5.1f} s, "
        f"p99 {quantile(outcome.waits, 0.99):6.1f} s"
        f" | build p50 {quantile(outcome.build_s, 0.5):5.0f} s"
        f" | ${outcome.dollars:6.2f}, idle {_part(outcome.idle_dollars, outcome):5.1%}"
        f", booting {_part(outcome.boot_dollars, outcome):5.1%}"
        f" | slots used {outcome.busy_s / max(outcome.paid_s, 1):5.1%}"
        f" | interruptions {outcome.interruptions:3}, handed back {outcome.handed_back:4}"
        f" ({outcome.wasted_s / 3600:.2f} h)"
        f" | {outcome.done} of {outcome.asked} actions"
    )


def verdicts(found: Sequence[tuple[Trace, Outcome]], policy: Policy) -> Sequence[str]:
    """Each goal, and whether it is reached."""
    lines: list[str] = []
    for trace, outcome in found:
        if trace.name != "working-day":
            continue
        wait_s, most_s = quantile(outcome.waits, 0.99), _WAIT_GOAL * policy.rule.boot_s
        idle = _part(outcome.idle_dollars, outcome)
        lines += [
            _verdict(
                f"99 % of the working day's actions wait at most {wait_s:.0f} s; the goal is "
                f"{most_s:.0f} s, {_WAIT_GOAL} x boot time",
                reached=wait_s < most_s,
            ),
            _verdict(
                f"{idle:.1%} of the working day's money is for idle workers; the goal is below "
                f"{_IDLE_GOAL:.0%}",
                reached=idle < _IDLE_GOAL,
            ),
        ]
    lost = sum(outcome.asked - outcome.done for _, outcome in found)
    asked = sum(outcome.asked for _, outcome in found)
    lines.append(
        _verdict(f"{lost} of {asked:,} actions were lost; the goal is none", reached=not lost)
    )
    return lines


def _verdict(text: str, *, reached: bool) -> str:
    return f"{'reached' if reached else 'missed'}: {text}"


def _part(dollars: float, outcome: Outcome) -> float:
    return dollars / outcome.dollars if outcome.dollars else 0.0


def page(
    path: Path,
    found: Sequence[tuple[Trace, Outcome]],
    policy: Policy,
    trade_offs: Sequence[tuple[str, Outcome]],
    large: tuple[Outcome, Outcome],
) -> None:
    """Write the page and, beside it, a plot of each day.

    Args:
        large: what becomes of `LARGE`, with the bound and without.
    """
    rule, price = policy.rule, policy.price
    parts = [
        _HEAD.format(
            type=price.instance_type,
            slots=rule.slots,
            smallest=rule.smallest,
            largest=rule.largest,
            target=rule.target,
            boot_s=rule.boot_s,
            idle_s=policy.idle_after_s,
            spot=price.spot,
            ending_s=policy.ending_s,
        ),
        _COLUMNS.format("day"),
        *(_cells(trace.name, outcome) for trace, outcome in found),
        _GOALS,
        *(_bold(line) for line in verdicts(found, policy)),
        _why(found, trade_offs, policy, large),
        _COLUMNS.format("choice"),
        *(_cells(name, outcome) for name, outcome in trade_offs),
        "",
        "## The days",
        "",
    ]
    for trace, outcome in found:
        picture = path.with_name(f"fleet-{trace.name}.png")
        _plot(picture, trace, outcome, policy)
        parts += [
            f"### {trace.name}",
            "",
            (
                f"{trace.story} {len(trace.builds):,} builds, {outcome.asked:,} actions, "
                f"{outcome.busy_s / 3600:.0f} hours of work, {outcome.launches} launches."
            ),
            "",
            f"![{trace.name}]({picture.name})",
            "",
        ]
    path.write_text("\n".join(parts))


def _why(
    found: Sequence[tuple[Trace, Outcome]],
    trade_offs: Sequence[tuple[str, Outcome]],
    policy: Policy,
    large: tuple[Outcome, Outcome],
) -> str:
    bounded, free = large
    shipped = next(outcome for trace, outcome in found if trace.name == "working-day")
    others = dict(trade_offs)
    fast, unbounded = others[FAST], others[UNBOUNDED]
    between = shipped.idle_dollars - shipped.leaving_dollars - shipped.ending_dollars
    busy = shipped.dollars - shipped.idle_dollars - shipped.boot_dollars
    more = fast.dollars - shipped.dollars
    return _WHY.format(
        busy=_part(busy, shipped),
        booting=_part(shipped.boot_dollars, shipped),
        idle=_part(shipped.idle_dollars, shipped),
        between=_part(between, shipped),
        leaving=_part(shipped.leaving_dollars, shipped),
        ending=_part(shipped.ending_dollars, shipped),
        idle_s=policy.idle_after_s,
        launches=shipped.launches,
        fast_launches=fast.launches,
        shipped_s=quantile(shipped.build_s, 0.5),
        fast_s=quantile(fast.build_s, 0.5),
        fast_more=more,
        fast_each=100 * more / 60,
        unbounded=unbounded.dollars,
        unbounded_s=quantile(unbounded.build_s, 0.5),
        largest=LARGEST,
        part=LARGEST // 6,
        part_min=_minutes(bounded, LARGEST // 6),
        third=LARGEST // 3,
        third_min=_minutes(bounded, LARGEST // 3),
        all_min=_minutes(bounded, LARGEST),
        free_min=_minutes(free, LARGEST),
    )


def _minutes(outcome: Outcome, workers: int) -> float:
    """From the large build's beginning until so many are in service."""
    at = next(each.at for each in outcome.samples if each.workers >= workers)
    return (at - LARGE.builds[-1].start) / 60


def _bold(verdict: str) -> str:
    judgement, _, text = verdict.partition(":")
    return f"- **{judgement}**:{text}."


def _cells(name: str, outcome: Outcome) -> str:
    cells = (
        name,
        f"{quantile(outcome.waits, 0.5):.1f} s",
        f"{quantile(outcome.waits, 0.99):.0f} s",
        f"{quantile(outcome.build_s, 0.5):.0f} s",
        f"{outcome.dollars:.2f}",
        f"{_part(outcome.idle_dollars, outcome):.1%}",
        f"{_part(outcome.boot_dollars, outcome):.1%}",
        f"{outcome.busy_s / max(outcome.paid_s, 1):.0%}",
        str(outcome.interruptions),
        f"{outcome.handed_back} ({outcome.wasted_s / 3600:.2f} h)",
        str(outcome.asked - outcome.done),
    )
    return f"| {' | '.join(cells)} |"


def _plot(path: Path, trace: Trace, outcome: Outcome, policy: Policy) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    samples = outcome.samples
    hours = [sample.at / HOUR for sample in samples]
    figure, (queue, workers) = plt.subplots(2, 1, figsize=(9, 5), sharex=True)
    queue.plot(hours, [each.queued for each in samples], color="#b03a2e", lw=0.9, label="waiting")
    queue.plot(hours, [each.running for each in samples], color="#1f5fa8", lw=0.9, label="running")
    queue.set_ylabel("actions")
    queue.set_yscale("symlog", linthresh=10)
    queue.set_ylim(bottom=0)
    workers.fill_between(
        hours,
        [each.workers + each.booting for each in samples],
        step="post",
        color="#e3a857",
        label="booting",
    )
    workers.fill_between(
        hours, [each.workers for each in samples], step="post", color="#5b8c5a", label="in service"
    )
    workers.plot(
        hours,
        [each.running / policy.rule.slots for each in samples],
        color="#1b2631",
        lw=0.8,
        label="running / slots",
    )
    workers.set_ylabel("workers")
    workers.set_xlabel("hour of the day")
    workers.set_xlim(0, 24)
    workers.set_ylim(bottom=0)
    for drought in trace.droughts:
        for axes in (queue, workers):
            axes.axvspan(drought.start / HOUR, drought.end / HOUR, color="#888888", alpha=0.2)
    for axes in (queue, workers):
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncol=3, fontsize="small", frameon=False
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
