"""pydantic's findings in the user's words: what, the value, what is allowed, what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic_core import ErrorDetails

from nativelink.config.choices import Named
from nativelink.config.problems import Path, Problem, closest, error, format_value
from nativelink.config.shape import Choice, Keyed, Object, Shape, Tagged, child

__all__ = ["problems_of"]

#: Keys that were taken out of the format, by the provider or kind that had them.
_REMOVED: Final[Mapping[tuple[str, str], str]] = {
    ("azure", "connection_timeout_s"): "was removed in NativeLink 1.6: remove it here too",
    ("azure", "read_timeout_s"): "was removed in NativeLink 1.6: remove it here too",
}
_TRUTHS: Final = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false"}


def problems_of(errors: Iterable[ErrorDetails], tree: object, shape: Shape) -> list[Problem]:
    """One problem for each error that validating `tree` gave.

    A missing key is not reported where an unknown one beside it was probably meant to be it.
    """
    found = [_problem(detail, tree, shape) for detail in errors]
    meant = {
        (*problem.path[:-1], problem.suggestion)
        for problem in found
        if problem.at_key and problem.suggestion
    }
    return [problem for problem in found if problem.path not in meant]


def _problem(detail: ErrorDetails, tree: object, shape: Shape) -> Problem:
    place = _Place(detail, tree, shape)
    describe = _DESCRIBE.get(detail["type"])
    if describe is None:
        return error(place.path, detail["msg"], got=place.got)
    return describe(place)


class _Place:
    """An error with its path in the tree and the shapes there.

    Attributes:
        path: as in the tree: pydantic also counts the branches of a union and the field that
            holds the kind beside a name.
        inner: the shape of the value; None if nothing is documented there.
        around: the shape of the object that the value is in.
    """

    def __init__(self, detail: ErrorDetails, tree: object, shape: Shape) -> None:
        self.detail = detail
        path: list[str | int] = []
        node, inner, around = tree, shape, None
        parts = detail["loc"]
        for index, part in enumerate(parts):
            if part == Named.FLATTENED and isinstance(inner, Object) and inner.beside is not None:
                # Pydantic's field, even where somebody wrote a kind that is called like it.
                continue
            inside = (isinstance(node, dict) and part in node) or (
                isinstance(node, list) and isinstance(part, int) and part < len(node)
            )
            last = index == len(parts) - 1
            if not inside and not (last and detail["type"] == "missing"):
                continue
            path.append(part)
            around, inner = inner, child(inner, part, node) or _NOTHING
            container: Any = node
            node = container[part] if inside else None
        self.path: Path = tuple(path)
        self.value = node
        self.inner: Shape | None = None if inner is _NOTHING else inner
        self.around = around
        self.node_is_object = isinstance(node, dict)

    @property
    def context(self) -> Mapping[str, Any]:
        """Pydantic's own facts about the error."""
        return self.detail.get("ctx") or {}

    @property
    def got(self) -> str:
        """The value, as JSON."""
        return format_value(self.value)


_NOTHING: Final = Choice(())


def _unknown_key(place: _Place) -> Problem:
    path, around = place.path, place.around
    key = str(path[-1])
    if isinstance(around, Tagged):
        around = _chosen(place, around)
    for (kind, removed), what in _REMOVED.items():
        if key == removed and kind in place.detail["loc"]:
            return error(path, what, at_key=True)
    if not isinstance(around, Object):
        return error(path, f'unknown key "{key}"', at_key=True)
    allowed = list(around.keys)
    suggestion = closest(key, allowed)
    hint = None
    if suggestion is None:
        homes = [
            known.name
            for known in around.keys.values()
            if isinstance(known.shape, Object) and key in known.shape.keys
        ]
        hint = f'"{key}" belongs into "{homes[0]}"' if homes else None
    return error(
        path,
        f'unknown key "{key}"',
        allowed=allowed or "no key",
        suggestion=suggestion,
        hint=hint,
        at_key=True,
    )


def _chosen(place: _Place, tagged: Tagged) -> Object | None:
    for part in place.detail["loc"]:
        if part in tagged.variants:
            return tagged.variants[str(part)]
    return None


def _missing(place: _Place) -> Problem:
    key = str(place.path[-1])
    around = place.around
    if isinstance(around, Tagged):
        around = _chosen(place, around)
    meaning = None
    if isinstance(around, Object) and key in around.keys:
        meaning = (around.keys[key].info.description or "").split(". ")[0].rstrip(".")
    return error(place.path, f"is missing ({meaning})" if meaning else "is missing")


def _unknown_kind(place: _Place) -> Problem:
    wrong = str(place.context["tag"])
    shape = place.inner
    if isinstance(shape, Tagged):
        variants = list(shape.variants)
        return error(
            (*place.path, shape.key),
            f"unknown {shape.key}",
            got=format_value(wrong),
            allowed=variants,
            suggestion=closest(wrong, variants),
        )
    union = shape.beside if isinstance(shape, Object) else shape
    assert isinstance(union, Keyed)
    variants = [*union.variants, *union.words]
    return error(
        (*place.path, wrong) if place.node_is_object else place.path,
        f'unknown {union.noun} kind "{wrong}"',
        allowed=variants,
        suggestion=closest(wrong, variants),
        at_key=place.node_is_object,
    )


def _no_kind(place: _Place) -> Problem:
    shape = place.inner
    assert isinstance(shape, Tagged)
    if not place.node_is_object:
        return _not_an_object(place)
    return error((*place.path, shape.key), "is missing", allowed=list(shape.variants))


def _not_one_kind(place: _Place) -> Problem:
    shape = place.inner
    union = shape.beside if isinstance(shape, Object) else shape
    if not place.node_is_object or not isinstance(union, Keyed):
        return _not_an_object(place)
    keys = [str(key) for key in place.context.get("keys", ())]
    variants = list(union.variants)
    unknown = [key for key in keys if key not in union.variants]
    if len(keys) - len(unknown) == 1:
        # One good kind and something else: the other key is what is wrong.
        key = unknown[0]
        beside = ", which takes nothing beside it" if not isinstance(shape, Object) else ""
        good = next(each for each in keys if each in union.variants)
        inside = union.variants[good]
        belongs = isinstance(inside, Object) and key in inside.keys
        return error(
            (*place.path, key),
            f'unknown key "{key}" beside "{good}"{beside}',
            suggestion=closest(key, ["name"]) if isinstance(shape, Object) else None,
            hint=f'"{key}" belongs into "{good}"' if belongs else None,
            at_key=True,
        )
    if not keys:
        return error(place.path, f"names no {union.noun} kind", allowed=variants)
    return error(
        place.path,
        f"names {len(keys)} {union.noun} kinds instead of one",
        got=", ".join(keys),
        allowed=None if len(unknown) == 0 else variants,
        suggestion=closest(unknown[0], variants) if unknown else None,
    )


def _not_an_object(place: _Place) -> Problem:
    return error(place.path, "not an object", got=place.got, allowed="{ … }")


def _not_a_list(place: _Place) -> Problem:
    hint = "put it into [ ]" if isinstance(place.value, dict | str) else None
    return error(place.path, "not a list", got=place.got, allowed="[ … ]", hint=hint)


def _value(place: _Place) -> Problem:
    context = place.context
    guess = _TRUTHS.get(str(place.value).lower()) if "boolean" in context["what"] else None
    return error(
        place.path,
        context["what"],
        got=place.got,
        allowed=context["allowed"],
        suggestion=guess,
    )


def _choice(place: _Place) -> Problem:
    words: Sequence[str] = place.inner.words if isinstance(place.inner, Choice) else ()
    text = place.value if isinstance(place.value, str) else ""
    return error(
        place.path,
        "not one of the choices",
        got=place.got,
        allowed=[f'"{word}"' for word in words],
        suggestion=closest(text, words),
    )


def _kind_of(what: str, allowed: str) -> Callable[[_Place], Problem]:
    return lambda place: error(place.path, what, got=place.got, allowed=allowed)


def _bound(what: str, allowed: str, limit: str) -> Callable[[_Place], Problem]:
    return lambda place: error(
        place.path, what, got=place.got, allowed=f"{allowed} {place.context[limit]:,}"
    )


def _empty(place: _Place) -> Problem:
    return error(place.path, "is empty", got=place.got, allowed="at least one entry")


_DESCRIBE: Final[Mapping[str, Callable[[_Place], Problem]]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "union_tag_invalid": _unknown_kind,
    "union_tag_not_found": _no_kind,
    "not_one_key": _not_one_kind,
    "value": _value,
    "enum": _choice,
    "literal_error": _choice,
    "model_type": _not_an_object,
    "model_attributes_type": _not_an_object,
    "dict_type": _not_an_object,
    "mapping_type": _not_an_object,
    "tuple_type": _not_a_list,
    "string_type": _kind_of("not a text", 'a text in quotes, such as "name"'),
    "float_type": _kind_of("not a number", "a number such as 0.5, not in quotes"),
    "finite_number": _kind_of("not a number", "a number such as 0.5, not in quotes"),
    "greater_than_equal": _bound("too small", "at least", "ge"),
    "less_than_equal": _bound("too large", "at most", "le"),
    "string_too_short": _kind_of("is empty", "a text of at least one character"),
    "too_short": _empty,
}
