"""Externally tagged unions: `{"memory": {}}`, one key that says which of several specs is meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nativelink.config.fields import Spec

__all__ = ["Named", "OneKey", "Variant", "key_of"]


class Named(Spec):
    """A spec with `name` beside the key of its kind: `{name: "CAS", memory: {}}`."""

    #: The field that holds what the key of the kind selects; no such key is in a file.
    FLATTENED: ClassVar[str] = "spec"

    @model_validator(mode="before")
    @classmethod
    def _kind_beside_name(cls, raw: object) -> object:
        if not isinstance(raw, dict) or isinstance(raw.get(cls.FLATTENED), Spec):
            return raw
        kinds = {key: value for key, value in raw.items() if key != "name"}
        return {key: raw[key] for key in ("name",) if key in raw} | {cls.FLATTENED: kinds}


def key_of(raw: object) -> str | None:
    """The tag of an externally tagged value: its only key, or the text itself."""
    if isinstance(raw, Spec):
        return raw.KIND
    if isinstance(raw, str):
        return raw
    if isinstance(raw, dict) and len(raw) == 1:
        return str(next(iter(raw)))
    return None


@dataclass(frozen=True, slots=True)
class Variant:
    """One choice of an externally tagged union: takes the value out of its single key."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_value_of, handler(source))


def _value_of(raw: object) -> object:
    return next(iter(raw.values())) if isinstance(raw, dict) and len(raw) == 1 else raw


@dataclass(frozen=True, slots=True)
class OneKey:
    """Put behind a discriminated union: exactly one key, and a schema that editors complete.

    Attributes:
        noun: what a key selects, for messages ("store").
        words: choices that are a bare text rather than a key with a value.
    """

    noun: str
    words: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        union = handler(source)
        return core_schema.no_info_before_validator_function(self._check, union)

    def _check(self, raw: object) -> object:
        if isinstance(raw, Spec) or (isinstance(raw, str) and self.words):
            return raw
        if not isinstance(raw, dict):
            raise PydanticCustomError("not_one_key", "not an object", {"noun": self.noun})
        if len(raw) != 1:
            raise PydanticCustomError(
                "not_one_key",
                "{what}",
                {
                    "what": f"names {len(raw) or 'no'} {self.noun} kinds instead of one",
                    "noun": self.noun,
                    "keys": list(raw),
                },
            )
        return raw

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        union = schema
        while union["type"] != "tagged-union":
            union = union["schema"]
        properties: dict[str, Any] = {}
        alternatives: list[dict[str, Any]] = [{"enum": list(self.words)}] if self.words else []
        for tag, choice in union["choices"].items():
            if tag in self.words:
                continue
            if choice["type"] == "function-before":
                properties[tag] = handler(choice)
            else:
                # Not taken out of its key by `Variant`: the model has the tag as its only key.
                alternatives.append(handler(choice))
        if properties:
            alternatives.append(
                {
                    "type": "object",
                    "properties": properties,
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                }
            )
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
