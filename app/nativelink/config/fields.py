"""The kinds of values that specs are made of, and what every spec has in common.

A kind says how a raw value is read, whether environment variables expand in it, and how an editor
and the manual describe it. `expansion.py`, `schema.py` and `manual.py` read the same objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nativelink.config.units import (
    MAX_NUMBER,
    parse_boolean,
    parse_duration,
    parse_number,
    parse_size,
)

__all__ = [
    "EXTENSION",
    "SECRET",
    "Expansion",
    "Extension",
    "Flag",
    "Fraction64",
    "Items",
    "Kind",
    "Milliseconds",
    "NoEffect",
    "NullIs",
    "NullIsEmpty",
    "Number",
    "Number32",
    "PathText",
    "Seconds",
    "Secret",
    "SignedSeconds",
    "Size",
    "Size32",
    "Spec",
    "Text",
    "Verbatim",
    "Zero",
]


class Expansion(Enum):
    """What happens to the text of a value before it is read."""

    NONE = "none"
    ENVIRONMENT = "environment"
    PATH = "path"


class Spec(BaseModel):
    """A part of the configuration: frozen, of exact types, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    #: The key that selects this kind where several are possible (`memory`, `simple`).
    KIND: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A scalar kind: an annotation that pydantic, the expansion and the manual all read.

    Attributes:
        name: as the manual calls it.
        allowed: what a message offers to who wrote something else.
        expansion: whether environment variables expand in its text.
        read: from the raw (and expanded) value; None leaves it to pydantic.
        json_types: what an editor accepts.
        whole_seconds: a text may say less than a second, which is lost.
    """

    name: str
    allowed: str
    expansion: Expansion
    read: Callable[[Kind, object], object] | None
    json_types: tuple[Mapping[str, Any], ...]
    whole_seconds: bool = False

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        inner = handler(source)
        if self.read is None:
            return inner
        read = self.read
        return core_schema.no_info_before_validator_function(lambda raw: read(self, raw), inner)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        del schema, handler
        if len(self.json_types) == 1:
            return dict(self.json_types[0])
        return {"anyOf": [dict(each) for each in self.json_types]}

    def wrong(self, what: str) -> PydanticCustomError:
        """The error of a value that this kind does not accept."""
        return PydanticCustomError("value", "{what}", {"what": what, "allowed": self.allowed})


def _read_with(parse: Callable[[str], int | bool]) -> Callable[[Kind, object], object]:
    accepted: type = bool if parse is parse_boolean else int

    def read(kind: Kind, raw: object) -> object:
        if isinstance(raw, accepted) and (accepted is bool or not isinstance(raw, bool)):
            value = raw
        elif isinstance(raw, str):
            try:
                value = parse(raw)
            except ValueError as error:
                raise kind.wrong(str(error)) from None
        else:
            raise kind.wrong(f"not a {kind.name}")
        if isinstance(value, int) and not -MAX_NUMBER - 1 <= value <= MAX_NUMBER:
            raise kind.wrong("more than 64 bits")
        return value

    return read


_DIGITS: Final = re.compile(r"\s*-?[0-9]+\s*", re.ASCII)


def _seconds(text: str) -> int:
    """Whole seconds, rounded down; a bare number in quotes is seconds too."""
    return int(text) if _DIGITS.fullmatch(text) else int(parse_duration(text))


def _milliseconds(text: str) -> int:
    """Whole milliseconds, rounded down; a bare number in quotes is milliseconds."""
    return int(text) if _DIGITS.fullmatch(text) else int(parse_duration(text) * Fraction(1000))


def _non_negative(read: Callable[[Kind, object], object]) -> Callable[[Kind, object], object]:
    def checked(kind: Kind, raw: object) -> object:
        value = read(kind, raw)
        if isinstance(value, int) and value < 0:
            raise kind.wrong(f"a {kind.name} cannot be negative")
        return value

    return checked


_INTEGER: Final = {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER}
_STRING: Final = {"type": "string"}

#: Text in which `$NAME`, `${NAME}` and `${NAME:-default}` expand.
Text = Annotated[str, Kind("text", "a text", Expansion.ENVIRONMENT, None, (_STRING,))]
#: Text that is taken as it stands.
Verbatim = Annotated[str, Kind("text, not expanded", "a text", Expansion.NONE, None, (_STRING,))]
#: A path: variables expand, and a leading `~/` is the home directory.
PathText = Annotated[str, Kind("path", "a path", Expansion.PATH, None, (_STRING,))]
#: A count, zero or more.
Number = Annotated[
    int,
    Kind(
        "number",
        "a whole number, zero or more",
        Expansion.ENVIRONMENT,
        _non_negative(_read_with(parse_number)),
        (_INTEGER, _STRING),
    ),
]
#: A count that travels in 32 bits.
Number32 = Annotated[Number, Field(le=2**32 - 1)]
#: A number of bytes.
Size = Annotated[
    int,
    Kind(
        "size",
        'a number of bytes, or a text such as "100mb" (100 * 1000^2) or "128mib" (128 * 1024^2)',
        Expansion.ENVIRONMENT,
        _non_negative(_read_with(parse_size)),
        (_INTEGER, _STRING),
    ),
]
#: A number of bytes that travels in 32 bits.
Size32 = Annotated[Size, Field(le=2**32 - 1)]
#: A time in whole seconds.
Seconds = Annotated[
    int,
    Kind(
        "duration in seconds",
        'a number of seconds, or a text such as "30s", "5m" or "1h 30m"',
        Expansion.ENVIRONMENT,
        _non_negative(_read_with(_seconds)),
        (_INTEGER, _STRING),
        whole_seconds=True,
    ),
]
#: A time in whole seconds where a negative number has a meaning.
SignedSeconds = Annotated[
    int,
    Kind(
        "duration in seconds, or negative",
        'a number of seconds, a negative number, or a text such as "30s" or "5m"',
        Expansion.ENVIRONMENT,
        _read_with(_seconds),
        ({"type": "integer"}, _STRING),
        whole_seconds=True,
    ),
]
#: A time in whole milliseconds.
Milliseconds = Annotated[
    int,
    Kind(
        "duration in milliseconds",
        'a number of milliseconds, or a text such as "500ms" or "10s"',
        Expansion.ENVIRONMENT,
        _non_negative(_read_with(_milliseconds)),
        (_INTEGER, _STRING),
    ),
]
#: A switch.
Flag = Annotated[
    bool,
    Kind(
        "boolean",
        'true or false, or one of the texts "true" and "false"',
        Expansion.ENVIRONMENT,
        _read_with(parse_boolean),
        ({"type": "boolean"}, _STRING),
    ),
]
#: A number that may have a fraction; never a text.
Fraction64 = Annotated[
    float,
    Kind(
        "number with fraction",
        "a number, zero or more",
        Expansion.NONE,
        None,
        ({"type": "number", "minimum": 0},),
    ),
    Field(ge=0, allow_inf_nan=False),
]


@dataclass(frozen=True, slots=True)
class NullIs:
    """`null` stands for `value`, which is the default."""

    value: object

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda raw: self.value if raw is None else raw, handler(source)
        )


#: `null` where a list may be left out.
NullIsEmpty: Final = NullIs(())

#: JSON has lists; specs hold tuples. (Strict mode alone would ask the reader for a tuple.)
Items = Strict(strict=False)


@dataclass(frozen=True, slots=True)
class Zero:
    """An explicit 0 stands for `value`: the default, or what the key's reader means by it."""

    value: int

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            lambda value: value or self.value, handler(source)
        )


@dataclass(frozen=True, slots=True)
class Secret:
    """Never shown: `config explain` prints that it is set."""


SECRET: Final = Secret()


@dataclass(frozen=True, slots=True)
class Extension:
    """A key that NativeLink does not have."""


EXTENSION: Final = Extension()


@dataclass(frozen=True, slots=True)
class NoEffect:
    """A key that is accepted for compatibility and does nothing; `reason` says what does."""

    reason: str
