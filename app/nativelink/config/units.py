"""Sizes, durations, numbers and booleans as the configuration writes them.

A value may stand as itself (`1000`, `true`) or as text (`"100mb"`, `"5m"`, `"true"`), because text
is what is left when an environment variable was expanded. The grammars are NativeLink's, as its
v1.6.6 accepts them (docs/configuration.md, "Values"). Every function raises `ValueError` with a
sentence that needs no further context.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

__all__ = [
    "MAX_NUMBER",
    "format_duration",
    "format_size",
    "parse_boolean",
    "parse_duration",
    "parse_number",
    "parse_size",
]

#: Numbers travel as signed 64-bit integers, in NativeLink's parser and in REAPI's sizes.
MAX_NUMBER: Final = 2**63 - 1

_SIZE: Final = re.compile(
    r"(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?\s*"
    r"(?P<prefix>[kmgtpe]i?)?(?P<unit>b|bits?)?",
    re.IGNORECASE | re.ASCII,
)
_POWERS: Final = {letter: power for power, letter in enumerate("kmgtpe", start=1)}

_NUMBER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)

_TERM: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z\u00b5\u03bc]+)\s*")
#: Seconds of each unit; a month is a twelfth of a year of 365.25 days.
_UNITS: Final[dict[str, Fraction]] = {
    name: seconds
    for names, seconds in (
        ("ns nsec", Fraction(1, 10**9)),
        ("us usec \u00b5s \u03bcs", Fraction(1, 10**6)),
        ("ms msec", Fraction(1, 1000)),
        ("s sec secs second seconds", Fraction(1)),
        ("m min mins minute minutes", Fraction(60)),
        ("h hr hrs hour hours", Fraction(3600)),
        ("d day days", Fraction(86_400)),
        ("w wk wks week weeks", Fraction(7 * 86_400)),
        ("M month months", Fraction(2_630_016)),
        ("y yr yrs year years", Fraction(31_557_600)),
    )
    for name in names.split()
}


def parse_number(text: str) -> int:
    """A whole number: decimal digits with an optional sign, at most 64 bits."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a whole number")
    number = int(text)
    if not -MAX_NUMBER - 1 <= number <= MAX_NUMBER:
        raise ValueError("more than 64 bits")
    return number


def parse_boolean(text: str) -> bool:
    """`true` or `false`, upper and lower case alike."""
    lowered = text.lower()
    if lowered not in {"true", "false"}:
        raise ValueError("not a boolean")
    return lowered == "true"


def parse_size(text: str) -> int:
    """A number of bytes; a fraction of a byte is rounded up.

    `k m g t p e` are powers of 1000, with an `i` behind them powers of 1024; an appended `b` or
    `B` means bytes and changes nothing; only the words `bit` and `bits` divide by eight.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a size")
    digits, fraction = match["whole"], match["fraction"] or ""
    value = Fraction(int(digits + fraction), 10 ** len(fraction))
    prefix = (match["prefix"] or "").lower()
    if prefix:
        value *= (1024 if prefix.endswith("i") else 1000) ** _POWERS[prefix[0]]
    if (match["unit"] or "").lower().startswith("bit"):
        value /= 8
    size = -(-value.numerator // value.denominator)
    if size > MAX_NUMBER:
        raise ValueError("larger than 2^63 - 1 bytes")
    return size


def parse_duration(text: str) -> Fraction:
    """Seconds of a text such as `1h 30m`, exactly; terms add up.

    A number needs its unit, except `0`. `M` is a month and `m` a minute.
    """
    if text.strip() == "0":
        return Fraction(0)
    seconds = Fraction(0)
    position = 0
    while match := _TERM.match(text, position):
        unit = _UNITS.get(match[2])
        if unit is None:
            raise ValueError(f'unknown unit "{match[2]}"')
        seconds += Fraction(match[1]) * unit
        position = match.end()
    if position == 0 or position != len(text):
        raise ValueError("not a duration")
    if seconds > MAX_NUMBER:
        raise ValueError("longer than 2^63 - 1 seconds")
    return seconds


def format_size(size: int) -> str:
    """The shortest exact text: `128 MiB`, `100 MB`, `1,234 bytes`."""
    for power, letter in ((6, "E"), (5, "P"), (4, "T"), (3, "G"), (2, "M"), (1, "K")):
        for base, suffix in ((1024, "iB"), (1000, "B")):
            count, rest = divmod(size, base**power)
            if count and not rest:
                return f"{count} {letter}{suffix}"
    return f"{size:,} bytes"


def format_duration(seconds: int) -> str:
    """The seconds in their largest whole unit: `5 m`, `90 s`, `2 d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
