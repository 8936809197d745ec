"""What may stand where: the spec models seen as a small grammar of the file.

pydantic knows the same, but in the form of validators. Expansion, the rewriting of older forms,
messages, the manual and `config explain` need to ask "which key is this, and what is below it".
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import Discriminator, Tag
from pydantic.fields import FieldInfo
from typing_extensions import TypeAliasType

from nativelink.config.choices import Named, OneKey, Variant
from nativelink.config.fields import Extension, Kind, NoEffect, Secret, Spec, Zero

__all__ = [
    "Choice",
    "Key",
    "Keyed",
    "ListOf",
    "MapOf",
    "Object",
    "Scalar",
    "Shape",
    "Tagged",
    "child",
    "secret_keys",
    "shape_of",
]


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A text, number, size, duration, boolean."""

    kind: Kind


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One of some words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ListOf:
    """A list."""

    item: Shape


@dataclass(frozen=True, slots=True, eq=False)
class MapOf:
    """An object whose keys the user chooses."""

    value: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Keyed:
    """An object with one key, which says what its value is; or one of some bare words."""

    noun: str
    variants: Mapping[str, Shape]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tagged:
    """An object in which the value of one key says what the others are."""

    key: str
    variants: Mapping[str, Object]


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A documented key of an object.

    Attributes:
        zero: what an explicit 0 stands for, if it is replaced.
    """

    name: str
    attribute: str
    shape: Shape
    info: FieldInfo
    zero: int | None
    secret: bool
    extension: bool
    no_effect: str | None


@dataclass(frozen=True, eq=False)
class Object:
    """An object with documented keys; `beside` holds the kinds that stand beside `name`."""

    model: type[Spec]

    @cached_property
    def keys(self) -> Mapping[str, Key]:
        """The keys by their names in a file, in the order of the manual."""
        hints = get_type_hints(self.model, include_extras=True)
        hidden = Named.FLATTENED if issubclass(self.model, Named) else None
        return {
            info.alias or attribute: _key(attribute, info, hints[attribute])
            for attribute, info in self.model.model_fields.items()
            if attribute != hidden
        }

    @cached_property
    def beside(self) -> Keyed | None:
        """The union whose one key stands among this object's own."""
        if not issubclass(self.model, Named):
            return None
        hints = get_type_hints(self.model, include_extras=True)
        shape = _shape(hints[Named.FLATTENED], ())
        assert isinstance(shape, Keyed)
        return shape


Shape: TypeAlias = Scalar | Choice | ListOf | MapOf | Keyed | Tagged | Object


@cache
def shape_of(model: type[Spec]) -> Object:
    """The grammar of a model; the same object each time."""
    return Object(model)


def child(shape: Shape | None, key: str | int, raw: object) -> Shape | None:
    """What stands under `key` of the value `raw`; None where nothing is documented."""
    match shape:
        case ListOf():
            return shape.item
        case MapOf():
            return shape.value
        case Keyed():
            return shape.variants.get(str(key))
        case Tagged():
            chosen = raw.get(shape.key) if isinstance(raw, dict) else None
            variant = shape.variants.get(chosen) if isinstance(chosen, str) else None
            return child(variant, key, raw)
        case Object():
            if (known := shape.keys.get(str(key))) is not None:
                return known.shape
            return None if shape.beside is None else shape.beside.variants.get(str(key))
        case _:
            return None


@cache
def secret_keys(model: type[Spec]) -> frozenset[str]:
    """Names of the keys in `model` and below it whose values are for nobody's eyes."""
    found: set[str] = set()
    waiting: list[Shape] = [shape_of(model)]
    seen: set[Shape] = set()
    while waiting:
        shape = waiting.pop()
        if shape in seen:
            continue
        seen.add(shape)
        match shape:
            case Object():
                found |= {key.name for key in shape.keys.values() if key.secret}
                waiting += [key.shape for key in shape.keys.values()]
                waiting += [shape.beside] if shape.beside is not None else []
            case ListOf():
                waiting.append(shape.item)
            case MapOf():
                waiting.append(shape.value)
            case Keyed() | Tagged():
                waiting += shape.variants.values()
            case _:
                pass
    return frozenset(found)


def _key(attribute: str, info: FieldInfo, hint: Any) -> Key:
    marks = tuple(_marks(hint, ()))
    zeros = [mark.value for mark in marks if isinstance(mark, Zero)]
    effects = [mark.reason for mark in marks if isinstance(mark, NoEffect)]
    return Key(
        name=info.alias or attribute,
        attribute=attribute,
        shape=_shape(hint, ()),
        info=info,
        zero=zeros[0] if zeros else None,
        secret=any(isinstance(mark, Secret) for mark in marks),
        extension=any(isinstance(mark, Extension) for mark in marks),
        no_effect=effects[0] if effects else None,
    )


def _marks(annotation: object, metadata: tuple[object, ...]) -> Iterator[object]:
    """All marks of a field, those inside `X | None` and of list items too."""
    yield from metadata
    if isinstance(annotation, TypeAliasType):
        return
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _marks(arguments[0], arguments[1:])
    else:
        for argument in arguments:
            yield from _marks(argument, ())


def _shape(annotation: Any, metadata: tuple[object, ...]) -> Shape:
    if isinstance(annotation, TypeAliasType):
        return _alias(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0], arguments[1:] + metadata)
    if origin in {Union, types.UnionType}:
        present = tuple(each for each in arguments if each is not type(None))
        if len(present) == 1:
            return _shape(present[0], metadata)
        return _union(present, metadata)
    for mark in metadata:
        if isinstance(mark, Kind):
            return Scalar(mark)
    if origin is Literal:
        return Choice(tuple(arguments))
    if origin is tuple:
        return ListOf(_shape(arguments[0], ()))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return MapOf(_shape(arguments[1], ()))
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return shape_of(annotation)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return Choice(tuple(annotation))
    raise TypeError(f"no shape for {annotation!r}")


@cache
def _alias(alias: TypeAliasType) -> Shape:
    return _shape(alias.__value__, ())


def _union(choices: tuple[object, ...], metadata: tuple[object, ...]) -> Keyed | Tagged:
    for mark in metadata:
        if isinstance(mark, OneKey):
            return _keyed(choices, mark)
    (discriminator,) = (mark for mark in metadata if isinstance(mark, Discriminator))
    key = discriminator.discriminator
    assert isinstance(key, str)
    variants: dict[str, Object] = {}
    for choice in choices:
        shape = _shape(choice, ())
        assert isinstance(shape, Object)
        (value,) = get_args(shape.model.model_fields[key].annotation)
        variants[value] = shape
    return Tagged(key, variants)


def _keyed(choices: tuple[object, ...], mark: OneKey) -> Keyed:
    variants: dict[str, Shape] = {}
    for choice in choices:
        inner, *marks = get_args(choice)
        (tag,) = (each.tag for each in marks if isinstance(each, Tag))
        if tag in mark.words:
            continue
        shape = _shape(inner, tuple(marks))
        if not any(isinstance(each, Variant) for each in marks):
            # The model has the tag as its only key.
            assert isinstance(shape, Object)
            shape = shape.keys[tag].shape
        variants[tag] = shape
    return Keyed(mark.noun, variants, mark.words)
