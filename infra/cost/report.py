"""Bills as text: sums, lines, and the part of docs/deploy.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.cost.bill import Item, bill
from infra.cost.prices import Prices, load_prices
from infra.cost.usage import Usage
from infra.settings import RegionSettings
from infra.settings_load import load

__all__ = ["lines", "page", "summary"]

#: What the page shows: an example, and how many developers it is meant for.
_SHOWN: Final = (("minimal", 5), ("team", 50), ("multi-az-production", 500))


def _parts(items: Sequence[Item]) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in items:
        found[item.part] = found.get(item.part, 0) + item.dollars
    return found


def _head(prices: Prices) -> str:
    return f"US dollars a month, {prices.region}, {prices.dated}: {prices.source}."


def _assumed(usage: Usage) -> list[str]:
    return [
        "",
        "For each developer and working day (change one with --set NAME=NUMBER):",
        *(f"  {name:22} {value:8g}  {meaning}" for name, value, meaning in usage.meanings()),
    ]


def _developers(count: float) -> str:
    return f"{count:g} developers" if count else "idle"


def summary(
    settings: RegionSettings, usage: Usage, developers: Sequence[float], prices: Prices
) -> str:
    """The sum of each part, a column for each number of developers."""
    columns = [_parts(bill(settings, usage, count, prices)) for count in developers]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        f"Region {settings.name}. {_head(prices)}",
        "",
        f"{'':22}" + "".join(f"{_developers(count):>17}" for count in developers),
        *(
            f"{name:22}" + "".join(f"{column.get(name, 0):17,.0f}" for column in columns)
            for name in names
        ),
        f"{'together':22}" + "".join(f"{sum(column.values()):17,.0f}" for column in columns),
    ]
    each = [
        f"{sum(column.values()) / count:17,.0f}" if count else f"{'':17}"
        for column, count in zip(columns, developers, strict=True)
    ]
    rows.append(f"{'for each developer':22}" + "".join(each))
    return "\n".join([*rows, *_assumed(usage)])


def lines(
    settings: RegionSettings, usage: Usage, developers: Sequence[float], prices: Prices
) -> str:
    """Every line of each bill."""
    text = [f"Region {settings.name}. {_head(prices)}"]
    for count in developers:
        items = bill(settings, usage, count, prices)
        text += ["", f"{_developers(count)}: {sum(item.dollars for item in items):,.0f}"]
        text += [
            f"  {item.part:22}{item.what:52}{item.quantity:14,.1f} {item.unit:10}"
            f"x {item.price:9.4f} = {item.dollars:10,.2f}"
            for item in items
        ]
    return "\n".join([*text, *_assumed(usage)])


def page(examples: Path) -> str:
    """A table of the examples in Markdown, with the assumptions below."""
    prices, usage = load_prices(), Usage()
    columns: list[tuple[str, dict[str, float]]] = []
    for name, developers in _SHOWN:
        settings = load(examples / f"{name}.yaml")
        for count in (0, developers):
            title = f"`{name}`, {_developers(count)}"
            columns.append((title, _parts(bill(settings, usage, count, prices))))
    names = list(dict.fromkeys(part for _, column in columns for part in column))
    rows = [
        f"{_head(prices)[:-1]}. For your own settings: `make cost REGION=NAME`.",
        "",
        "| | " + " | ".join(title for title, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
        *(
            f"| {name} | "
            + " | ".join(f"{column.get(name, 0):,.0f}" for _, column in columns)
            + " |"
            for name in names
        ),
        "| **together** | "
        + " | ".join(f"**{sum(column.values()):,.0f}**" for _, column in columns)
        + " |",
        "",
        "Assumed of each developer on a working day, their part of CI included:",
        "",
        "| assumption | | |",
        "|---|---:|---|",
        *(f"| `{name}` | {value:g} | {meaning} |" for name, value, meaning in usage.meanings()),
        "",
    ]
    return "\n".join(rows)
