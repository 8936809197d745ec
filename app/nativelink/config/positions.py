"""Where every value of a JSON5 text stands, and why a text is not JSON5.

The `json5` package decides what is valid and what it means, but it says nothing of positions, and
of a syntax error only where its grammar gave up. This scanner walks the same text once more, for
messages only: it never changes what a file means.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Final

from nativelink.config.problems import Path

__all__ = ["Lines", "MalformedError", "Positions", "Spot", "scan"]

_TOKEN: Final = re.compile(
    r"""
      (?P<space>(?:\s|\ufeff)+)
    | (?P<comment>//[^\n\r\u2028\u2029]*|/\*.*?\*/)
    | (?P<mark>[{}\[\]:,])
    | (?P<text>"(?:[^"\\\r\n]|\\(?:\r\n|.))*"|'(?:[^'\\\r\n]|\\(?:\r\n|.))*')
    | (?P<bare>[^\s{}\[\]:,"'/\ufeff]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBER: Final = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F]+|(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|Infinity|NaN)"
)
_WORDS: Final = frozenset({"true", "false", "null"})
_NAME: Final = re.compile(r"(?:[\w$\u200c\u200d]|\\u[0-9a-fA-F]{4})+")
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|.))", re.DOTALL)
_ESCAPED: Final = {
    "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0",
    "\n": "", "\r": "", "\r\n": "", "\u2028": "", "\u2029": "",
}  # fmt: skip
_CLOSING: Final = {"{": "}", "[": "]"}
#: Quotation marks of typography, which word processors put into examples.
_QUOTES: Final = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb`"


class MalformedError(Exception):
    """The text is not JSON5.

    Attributes:
        offset: where, in characters from the start.
        what: the fact.
        hint: what to do about it, if that can be guessed.
    """

    def __init__(self, offset: int, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.offset = offset
        self.what = what
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Spot:
    """Offsets of a value and of its key, in characters; a list item has no key."""

    start: int
    end: int
    key: int | None = None


@dataclass(frozen=True, slots=True)
class Positions:
    """What the scanner found.

    Attributes:
        spots: of every value, by path; of a key that comes twice, the last one.
        duplicates: paths of keys that come again, with the offset of the later key.
        malformed: why the scanner stopped early.
    """

    spots: dict[Path, Spot]
    duplicates: tuple[tuple[Path, int], ...]
    malformed: MalformedError | None


class Lines:
    """Lines and columns of a text, both counted from 1, columns in characters."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer(r"\r\n|\n|\r", text))]

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and column, or the nearest one that exists."""
        start = self._starts[min(line, len(self._starts)) - 1]
        return min(start + column - 1, len(self._text))

    def line(self, number: int) -> str:
        """The text of a line, without its end."""
        start = self._starts[number - 1]
        end = self._starts[number] if number < len(self._starts) else len(self._text)
        return self._text[start:end].rstrip("\r\n")


def scan(text: str) -> Positions:
    """Find every value of a JSON5 text; stops at the first place that is not JSON5."""
    scanner = _Scanner(text)
    malformed: MalformedError | None = None
    try:
        scanner.document()
    except MalformedError as error:
        malformed = error
    return Positions(scanner.spots, tuple(scanner.duplicates), malformed)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


class _Scanner:
    """A recursive descent with one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._last_end = 0
        self._open: list[_Token] = []
        self.spots: dict[Path, Spot] = {}
        self.duplicates: list[tuple[Path, int]] = []
        self._token = _Token("end", "", 0)

    def document(self) -> None:
        self._advance()
        self._value((), None)
        if self._token.kind != "end":
            closing = self._token.text in {"}", "]"}
            raise MalformedError(
                self._token.start,
                f"unexpected {self._shown()} after the end of the configuration",
                "one closing bracket too many" if closing else None,
            )

    def _value(self, path: Path, key: int | None) -> None:
        token = self._token
        if token.text in _CLOSING and token.kind == "mark":
            self._open.append(token)
            self._advance()
            if token.text == "{":
                self._object(path, token)
            else:
                self._list(path, token)
            self._open.pop()
        elif token.kind == "text" or (
            token.kind == "bare" and (token.text in _WORDS or _NUMBER.fullmatch(token.text))
        ):
            self._advance()
        else:
            raise self._no_value(token)
        self.spots[path] = Spot(token.start, self._last_end, key)

    def _object(self, path: Path, opening: _Token) -> None:
        seen: set[str] = set()
        while not self._closes(opening):
            key = self._token
            name = self._key()
            below = (*path, name)
            if name in seen:
                self.duplicates.append((below, key.start))
            seen.add(name)
            self._advance()
            if self._token.text != ":" or self._token.kind != "mark":
                hint = 'write ":"' if self._token.text.startswith("=") else None
                raise MalformedError(
                    self._token.start, f'expected ":" after the key "{name}"', hint
                )
            self._advance()
            self._value(below, key.start)
            self._separator(opening)

    def _list(self, path: Path, opening: _Token) -> None:
        index = 0
        while not self._closes(opening):
            self._value((*path, index), None)
            index += 1
            self._separator(opening)

    def _key(self) -> str:
        token = self._token
        if token.kind == "text":
            return _unquoted(token.text)
        if token.kind == "bare" and _NAME.fullmatch(token.text) and not token.text[0].isdigit():
            return _ESCAPE.sub(_character, token.text)
        if token.text == ",":
            raise MalformedError(token.start, 'unexpected ","', "one comma too many")
        name, equals, _ = token.text.partition("=")
        if equals:
            raise MalformedError(
                token.start + len(name), f'expected ":" after the key "{name}"', 'write ":"'
            )
        raise self._bad(token, "expected a key")

    def _closes(self, opening: _Token) -> bool:
        token = self._token
        if token.kind == "end":
            raise self._unclosed()
        if token.kind != "mark" or token.text not in {"}", "]"}:
            return False
        if token.text != _CLOSING[opening.text]:
            raise self._wrong_bracket(opening)
        self._advance()
        return True

    def _separator(self, opening: _Token) -> None:
        token = self._token
        if token.kind == "mark" and token.text == ",":
            self._advance()
        elif token.kind == "end":
            raise self._unclosed()
        elif token.kind == "mark" and token.text in {"}", "]"}:
            if token.text != _CLOSING[opening.text]:
                raise self._wrong_bracket(opening)
        elif token.kind in {"text", "bare"} or token.text in _CLOSING:
            raise self._bad(
                token, f"unexpected {self._shown()} after a value", "a comma is missing before it"
            )
        else:
            raise self._bad(token, f"unexpected {self._shown()} after a value")

    def _advance(self) -> None:
        self._last_end = self._end
        self._token = self._read()

    def _read(self) -> _Token:
        while True:
            start = self._end
            if start == len(self._text):
                return _Token("end", "", start)
            match = _TOKEN.match(self._text, start)
            if match is None:
                raise self._unreadable(start)
            self._end = match.end()
            if match.lastgroup not in {"space", "comment"}:
                return _Token(str(match.lastgroup), match[0], start)

    def _shown(self) -> str:
        quoted = self._token.kind == "text"
        return self._token.text if quoted else f'"{self._token.text}"'

    def _unclosed(self) -> MalformedError:
        opening = self._open[-1]
        line, column = Lines(self._text).at(opening.start)
        return MalformedError(
            self._token.start,
            f'the file ends, but the "{opening.text}" of line {line}, column {column} is not '
            "closed",
            f'a "{_CLOSING[opening.text]}" is missing',
        )

    def _wrong_bracket(self, opening: _Token) -> MalformedError:
        line, column = Lines(self._text).at(opening.start)
        return MalformedError(
            self._token.start,
            f'"{self._token.text}" cannot close the "{opening.text}" of line {line}, column '
            f"{column}",
            f'a "{_CLOSING[opening.text]}" is missing before it',
        )

    def _no_value(self, token: _Token) -> MalformedError:
        if token.kind == "end":
            if not self._open:
                return MalformedError(token.start, "the file is empty", "it needs at least { }")
            return self._unclosed()
        if not self._open and token.kind in {"bare", "text"}:
            return self._bad(
                token,
                f"unexpected {self._shown()}",
                "the file is one object in { }, in JSON5: no YAML, no TOML",
            )
        if token.text == "," or (token.kind == "mark" and self._open):
            hint = "one comma too many" if token.text == "," else "a value is missing before it"
            return MalformedError(token.start, f'unexpected "{token.text}"', hint)
        if token.kind == "bare" and token.text.lower() in _WORDS:
            return self._bad(token, f"unexpected {token.text}", f"write {token.text.lower()}")
        if token.kind == "bare" and re.fullmatch(r"[+-]?0[0-9]+", token.text):
            return self._bad(token, f"{token.text} is not a number", "no zero in front")
        return self._bad(token, f"unexpected {token.text}", f'texts need quotes: "{token.text}"')

    def _bad(self, token: _Token, what: str, hint: str | None = None) -> MalformedError:
        first = token.text[:1]
        if first and first in _QUOTES:
            return MalformedError(
                token.start, f"{first} is no quotation mark of JSON5", "write \" or '"
            )
        if first == "#":
            return MalformedError(token.start, 'unexpected "#"', "comments begin with //")
        return MalformedError(token.start, what, hint)

    def _unreadable(self, start: int) -> MalformedError:
        if self._text.startswith("/*", start):
            return MalformedError(start, "the comment is not closed", 'a "*/" is missing')
        if self._text[start] == "/" and self._text[:start].rstrip().endswith((":", "[")):
            word = re.split(r"[\s,}\]]", self._text[start:], maxsplit=1)[0]
            return MalformedError(start, f"unexpected {word}", f'texts need quotes: "{word}"')
        if self._text[start] == "/":
            return MalformedError(start, 'unexpected "/"', "comments begin with // or /*")
        quote = self._text[start]
        return MalformedError(
            start, "the text is not closed on its line", f"a {quote} is missing at its end"
        )


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(_character, text[1:-1])


def _character(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(match[3], match[3])
