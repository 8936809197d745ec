"""JSON Schema of a configuration file, for editors (draft 2020-12).

It describes the current form. Older forms load, with a warning, but an editor marks them.
"""

from __future__ import annotations

from typing import Any, Final

from nativelink.config.choices import Named
from nativelink.config.specs import Config

__all__ = ["json_schema"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a whole file."""
    schema = Config.model_json_schema(mode="validation")
    definitions = schema["$defs"]
    for model in Named.__subclasses__():
        _flatten(definitions[model.__name__], definitions)
    _drop_titles(schema)
    return {"$schema": _DIALECT, "title": "NativeLink configuration", **schema}


def _flatten(named: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Put the kinds of a union beside `name`, where they stand in a file."""
    reference = named["properties"].pop(Named.FLATTENED)["$ref"]
    union = definitions[reference.rsplit("/", 1)[1]]
    named["properties"] |= union["properties"]
    named["required"] = ["name"]
    named["minProperties"] = named["maxProperties"] = 2


def _drop_titles(node: Any) -> None:
    """The titles only repeat the keys."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _drop_titles(value)
    elif isinstance(node, list):
        for item in node:
            _drop_titles(item)
