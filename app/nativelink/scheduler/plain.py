"""Records as plain data, which JSON, a log or a database can hold, and back.

A record is a dataclass or a named tuple of strings, numbers, bytes, enumerations, optional values,
tuples, mappings with string keys, and records. Fields that have their default are left out, so a
field that is added later does no harm to what was written before.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

from nativelink.scheduler.events import Event

__all__ = ["Plain", "event_from_plain", "event_to_plain", "from_plain", "to_plain"]

#: What `json` can write.
Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

T = TypeVar("T")

_EVENTS: Final[Mapping[str, type[Event]]] = {
    event.__name__: event for event in typing.get_args(Event)
}


def to_plain(value: Any) -> Plain:
    """A record, or anything that may stand in one, as plain data.

    Raises:
        TypeError: it may not stand in a record.
    """
    match value:
        case enum.Enum():
            return to_plain(value.value)
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return base64.b85encode(value).decode()
        case Mapping():
            return {name: to_plain(each) for name, each in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                field.name: to_plain(found)
                for field in dataclasses.fields(value)
                if (found := getattr(value, field.name)) != field.default
            }
        case tuple() | list():
            return [to_plain(each) for each in value]
        case _:
            raise TypeError(f"{type(value).__name__} cannot stand in a record: {value!r:.100}")


def from_plain(kind: type[T], plain: Plain) -> T:
    """What `to_plain` made plain data of.

    Args:
        kind: the record's class.
        plain: from `to_plain`, through whatever holds plain data.

    Raises:
        TypeError: the data is not such a record.
    """
    return typing.cast("T", _read(kind, plain))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, plain: Any) -> Any:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        (kind,) = [each for each in arguments if each is not type(None)]
        return _read(kind, plain)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple([_read(arguments[0], each) for each in plain])
        return tuple([_read(each, found) for each, found in zip(arguments, plain, strict=True)])
    if dataclasses.is_dataclass(kind):
        record: Any = kind
        hints = _hints(record)
        return record(**{name: _read(hints[name], found) for name, found in plain.items()})
    if kind is bytes:
        return base64.b85decode(plain)
    if isinstance(kind, type) and issubclass(kind, tuple):
        hints = _hints(kind)
        return kind(*[_read(hint, each) for hint, each in zip(hints.values(), plain, strict=True)])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(plain)
    if kind in (str, int, float, bool):
        return kind(plain)
    raise TypeError(f"a record cannot have a field of type {kind}")


def event_to_plain(event: Event) -> Plain:
    """An event, for a log."""
    return [type(event).__name__, to_plain(event)]


def event_from_plain(plain: Plain) -> Event:
    """What `event_to_plain` made plain data of.

    Raises:
        TypeError: it is no event.
    """
    match plain:
        case [str(name), dict(fields)] if name in _EVENTS:
            return from_plain(_EVENTS[name], fields)
        case _:
            raise TypeError(f"no event: {plain!r:.100}")
