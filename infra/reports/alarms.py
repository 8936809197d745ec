"""The alarms of a stack: what each looks at, in words, for the page of whoever is called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra.reports.stack import Resource, Synthesized

__all__ = ["Alarm", "alarms_of", "alarms_table", "anchor"]

_OPERATORS: Final = {"GreaterThanThreshold": "above", "LessThanThreshold": "below"}


@dataclass(frozen=True)
class Alarm:
    """An alarm, under the name that all of its kind share.

    Attributes:
        kind: its name without the region's, a pool's, a target's, a bucket's or a node's.
        description: as the mail says it.
        condition: when it begins.
        notifies: False for those that only make a pool grow.
    """

    kind: str
    description: str
    condition: str
    notifies: bool


def anchor(kind: str) -> str:
    """Of its section."""
    return kind.lower().replace("*", "")


def alarms_of(stack: Synthesized, region: str, pools: Sequence[str]) -> list[Alarm]:
    """Every alarm, each kind once, in the order of their names."""
    found: dict[str, Alarm] = {}
    for each in (
        *stack.of("aws_cloudwatch_metric_alarm"),
        *stack.of("aws_cloudwatch_composite_alarm"),
    ):
        name = each.body["alarm_name"].removeprefix(f"nl-{region}-")
        kind = _kind(name, pools)
        text = each.body["alarm_description"]
        for word in (*pools, *_variants(name, kind)):
            text = re.sub(rf"\b{re.escape(word)}\b", _placeholder(kind), text)
        actions = each.body["alarm_actions"]
        notifies = any("sns_topic" in action for action in actions)
        found.setdefault(kind, Alarm(kind, text, _condition(each), notifies))
    return sorted(found.values(), key=lambda each: each.kind.lower())


def _kind(name: str, pools: Sequence[str]) -> str:
    for pool in pools:
        if name.startswith(f"{pool}-"):
            return f"POOL{name.removeprefix(pool)}"
    name = re.sub(r"^redis-[0-9]+-", "redis-NODE-", name)
    name = re.sub(r"^s3-(cas|ac)-", "s3-BUCKET-", name)
    return re.sub(r"^(executions|worker-api|worker-cas|cas|scheduler)-", "TARGET-", name)


def _placeholder(kind: str) -> str:
    return next((word for word in ("POOL", "NODE", "BUCKET", "TARGET") if word in kind), "")


def _variants(name: str, kind: str) -> Sequence[str]:
    """What stands in a name where its kind has a word in capitals."""
    pattern = re.sub(r"POOL|NODE|BUCKET|TARGET", "(.+)", re.escape(kind))
    match = re.fullmatch(pattern, name)
    return match.groups() if match else ()


def _condition(alarm: Resource) -> str:
    body: Mapping[str, Any] = alarm.body
    if "alarm_rule" in body:
        return "any of the alarms `TARGET-down`"
    minutes = body["evaluation_periods"] * _period(body) / 60
    lasting = f"for {minutes:g} min" if minutes >= 1 else f"for {minutes * 60:g} s"
    what = body.get("metric_name")
    if what is None:
        (expression,) = [
            each["expression"] for each in body["metric_query"] if "expression" in each
        ]
        names = {
            each["id"]: each["metric"]["metric_name"]
            for each in body["metric_query"]
            if "metric" in each
        }
        what = re.sub(r"[a-z]+\b", lambda word: names.get(word[0], word[0]), expression)
        statistic = ""
    else:
        statistic = f" ({body.get('statistic') or body.get('extended_statistic')})".lower()
    sign = _OPERATORS[body["comparison_operator"]]
    missing = ", or no data" if body.get("treat_missing_data") == "breaching" else ""
    return f"`{what}`{statistic} {sign} {body['threshold']:g} {lasting}{missing}"


def _period(body: Mapping[str, Any]) -> int:
    """In seconds, of the alarm's metric or of those in its expression."""
    first = next(
        (each["metric"] for each in body.get("metric_query", ()) if "metric" in each), body
    )
    period: int = first["period"]
    return period


def alarms_table(alarms: Sequence[Alarm]) -> str:
    """A table with a link to the section of each alarm."""
    rows = [
        f"| [`{each.kind}`](#{anchor(each.kind)}) | {each.description} | {each.condition} |"
        for each in alarms
        if each.notifies
    ]
    return "\n".join(["| alarm | says | begins when |", "|---|---|---|", *rows])
