#!/usr/bin/env python3
"""What a region costs in a month: `scripts/cost.py REGION`, idle, with 50 and with 500 developers.

    make cost REGION=team                               its settings, at the shipped prices
    scripts/cost.py team --developers 0 120             other numbers of developers
    scripts/cost.py team --set worker_hours=5 --lines   another assumption, every line
    scripts/cost.py --write                             docs/deploy.md, between its markers

Prices are in infra/cost/prices.yaml, with their date; assumptions are printed with the result.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "app"):
    sys.path.insert(0, str(folder))

from infra.cost.prices import SHIPPED, load_prices  # noqa: E402
from infra.cost.report import lines, page, summary  # noqa: E402 - the script may start anywhere
from infra.cost.usage import Usage  # noqa: E402
from infra.settings_load import find_region, load  # noqa: E402
from nativelink.core.errors import NativeLinkError, invalid_argument  # noqa: E402

_PAGE: Final = ROOT / "docs" / "deploy.md"
_BEGIN: Final = "<!-- costs: written by scripts/cost.py --write -->"
_END: Final = "<!-- end of costs -->"


def with_costs(text: str) -> str:
    """A page with what is between its markers written anew."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{page(ROOT / 'infra' / 'examples')}\n{_END}{after}"


def usage_of(changes: Sequence[str]) -> Usage:
    """The assumptions, with changes `NAME=NUMBER`.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, no such assumption, or no number.
    """
    known = {each.name for each in fields(Usage)}
    found: dict[str, float] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in known:
            raise invalid_argument(
                f"--set: no assumption {name!r}; there are {', '.join(sorted(known))}"
            )
        try:
            found[name] = float(value)
        except ValueError:
            raise invalid_argument(f"--set {name}: {value!r} is no number") from None
    return replace(Usage(), **found)


def main(arguments: Sequence[str]) -> int:
    """Print or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("region", nargs="?", default=os.environ.get("REGION"))
    parser.add_argument("--developers", type=float, nargs="+", default=[0, 50, 500])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--prices", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--lines", action="store_true", help="every line, not only the sums")
    parser.add_argument("--write", action="store_true", help="write the page's part")
    asked = parser.parse_args(arguments)
    try:
        if asked.write:
            _PAGE.write_text(with_costs(_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
            return 0
        if not asked.region:
            parser.error("REGION is not set; such as: make cost REGION=team")
        settings = load(find_region(asked.region))
        prices, usage = load_prices(asked.prices), usage_of(asked.set)
        show = lines if asked.lines else summary
        print(show(settings, usage, asked.developers, prices))
    except NativeLinkError as failure:
        print(failure.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
