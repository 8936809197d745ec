"""CloudWatch's metric math, as far as deployed alarms use it.

Numbers, ids of metrics, `+ - * /`, comparisons (1 or 0), parentheses, and the functions IF, MIN,
MAX and ABS (CloudWatch User Guide, "Using metric math").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["MathError", "value_of"]

_TOKEN: Final = re.compile(r"\s*(?:(\d+\.?\d*)|([A-Za-z]\w*)|(<=|>=|==|!=|[-+*/()<>,]))")
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


class MathError(ValueError):
    """An expression of a form that is not played here."""


def value_of(expression: str, metrics: Mapping[str, float]) -> float:
    """What an expression comes to at one time.

    Args:
        expression: of an alarm.
        metrics: the value of each id that it uses.

    Raises:
        MathError: it uses something else, or a metric that has no value.
    """
    return _Reader(expression, metrics).whole()


class _Reader:
    """Reads an expression from left to right, and calculates at once."""

    def __init__(self, expression: str, metrics: Mapping[str, float]) -> None:
        self._expression = expression
        self._metrics = metrics
        self._tokens = _split(expression)
        self._at = 0

    def whole(self) -> float:
        value = self._comparison()
        if self._next():
            raise self._wrong()
        return value

    def _comparison(self) -> float:
        value = self._sum()
        while compare := _COMPARE.get(self._next()):
            self._at += 1
            value = float(compare(value, self._sum()))
        return value

    def _sum(self) -> float:
        value = self._product()
        while (sign := self._next()) in {"+", "-"}:
            self._at += 1
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> float:
        value = self._part()
        while (sign := self._next()) in {"*", "/"}:
            self._at += 1
            other = self._part()
            if sign == "/" and not other:
                # CloudWatch gives no data point then; here the branch not taken is read too.
                value = float("nan")
            else:
                value = value * other if sign == "*" else value / other
        return value

    def _part(self) -> float:
        token = self._take()
        if token == "-":
            return -self._part()
        if token == "(":
            value = self._comparison()
            self._expect(")")
            return value
        if token[:1].isdigit():
            return float(token)
        if self._next() == "(":
            return self._call(token)
        if token not in self._metrics:
            raise self._wrong()
        return self._metrics[token]

    def _call(self, name: str) -> float:
        self._expect("(")
        values = [self._comparison()]
        while self._next() == ",":
            self._at += 1
            values.append(self._comparison())
        self._expect(")")
        match name.upper(), values:
            case "IF", [condition, yes, no]:
                return yes if condition else no
            case "MIN", _:
                return min(values)
            case "MAX", _:
                return max(values)
            case "ABS", [value]:
                return abs(value)
            case _:
                raise self._wrong()

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        if not token:
            raise self._wrong()
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise self._wrong()

    def _wrong(self) -> MathError:
        return MathError(f"metric math that is not played here: {self._expression!r}")


def _split(expression: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    text = expression.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise MathError(f"metric math that is not played here: {expression!r}")
        tokens.append(found[0].strip())
        at = found.end()
    return tokens
