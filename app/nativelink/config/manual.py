"""The configuration page of the documentation, written from the models.

What a key means is said once, in its `description`; this module only lays it out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from pydantic_core import PydanticUndefined

from nativelink.config.fields import Spec
from nativelink.config.looser import LOOSER_FORMS
from nativelink.config.shape import (
    Choice,
    Key,
    Keyed,
    ListOf,
    MapOf,
    Object,
    Scalar,
    Shape,
    Tagged,
    shape_of,
)
from nativelink.config.specs import Config
from nativelink.config.specs_common import (
    ClientTlsSpec,
    EvictionSpec,
    GrpcEndpointSpec,
    RetrySpec,
)
from nativelink.config.units import format_duration, format_size

__all__ = ["manual"]

_INTRODUCTION: Final = """\
# Configuration

<!-- Written by scripts/generate_config_docs.py from app/nativelink/config; do not edit. -->

A process is configured by one JSON5 file: `nativelink FILE`. Files written for NativeLink load
as they are. Comments (`//`, `/* */`), trailing commas, unquoted keys and single quotes are allowed.

- `nativelink config check FILE` reports everything that is wrong, with line and column.
- `nativelink config explain FILE` draws what the file describes.
- `nativelink config schema` prints a JSON Schema for editors.

On this page: [values](#values), [variables](#environment-variables), [the file](#the-file),
[stores](#kinds-of-stores), [workers](#workerslocal), [schedulers](#kinds-of-schedulers),
[listeners](#serverslistenerhttp), [services](#serversservices), [`global`](#global),
[what is checked](#what-is-checked), [older forms](#looser-and-older-forms).

A small cache:

```json5
{
  stores: [
    {
      name: "CAS",
      filesystem: {
        content_path: "~/.cache/nativelink/cas",
        temp_path: "~/.cache/nativelink/cas-temp",
        eviction_policy: { max_bytes: "${CACHE_SIZE:-10gb}" },
      },
    },
    { name: "AC", memory: { eviction_policy: { max_bytes: "100mb" } } },
  ],
  servers: [
    {
      listener: { http: { socket_address: "127.0.0.1:50051" } },
      services: {
        cas: [{ cas_store: "CAS" }],
        ac: [{ ac_store: "AC" }],
        capabilities: [{}],
        bytestream: [{ cas_store: "CAS" }],
        health: {},
      },
    },
  ],
}
```

## Values

| Type | Written as |
|---|---|
| text | A text in quotes. Environment variables expand in it. |
| text, not expanded | A text in quotes, taken as it stands. |
| path | A text. Environment variables expand; `~/` at the beginning is the home directory. |
| number | A whole number, or a text with one. |
| size | A number of bytes, or a text with a unit: `k m g t p e` are powers of 1000 (`"100mb"` is \
100 * 1000^2 bytes), `ki mi gi ti pi ei` powers of 1024 (`"128mib"` is 128 * 1024^2 bytes). Upper \
and lower case, a space before the unit and a `b` behind it make no difference: `b` is bytes, only \
the words `bit` and `bits` mean bits. A fraction of a byte is rounded up. |
| duration in seconds | A number of seconds, or a text: `"90s"`, `"5m"`, `"1h 30m"`, `"1.5d"`. \
Units: `ns us ms s m h d w M y` (`M` is a month of 30.44 days) and their English words. Only whole \
seconds count: a fraction is cut off. |
| duration in milliseconds | A number of milliseconds, or a text such as `"500ms"` or `"10s"`. |
| boolean | `true` or `false`, or a text with one of the words. |
| number with fraction | A number; not a text. |

`null` means the same as leaving a key out where the default is *none*.

## Environment variables

`$NAME` and `${NAME}` become the value of the variable; the file does not load if it is not set.
`${NAME:-default}` becomes `default` if it is not set; a variable that is set but empty is empty.
`$$` is a dollar sign. What comes out is not expanded again. Variables expand in texts, paths, and
in numbers, sizes, durations and booleans that are written as texts, but not in *text, not
expanded*, and not in keys.

## Keys
"""

#: Titles of objects that stand in many places.
_SHARED: Final[dict[type[Spec], str]] = {
    ClientTlsSpec: "tls_config",
    EvictionSpec: "eviction_policy",
    GrpcEndpointSpec: "endpoint",
    RetrySpec: "retry",
}

_CHECKS: Final = """\
## What is checked

A wrong value, an unknown key, or a key that stands twice is an error. So is what only the whole
file shows: a name that nothing has, or that two have; stores that refer to each other in a circle;
a worker whose CAS is not `fast_slow` over `filesystem`; two listeners on one address; the CAS and
the action cache of an instance in one store; directories inside of each other; sizes out of order;
TLS settings that contradict an address.

`here` is what this machine lacks and the one that the file is for may have: files that it names, or
one device for `content_path` and `temp_path`. As it is, the server would not start, or not whole.

Warnings do not prevent a start: stores that grow without bound, that nothing uses, or whose purpose
does not fit their role, a worker API that clients can reach, keys without effect, and older forms.

"""

_LOOSER_INTRODUCTION: Final = """\
## Looser and older forms

These load as well. Where the last column says so, a warning names the current form.

| In | Written | Read as | Warning | |
|---|---|---|---|---|
"""


def manual() -> str:
    """The page as Markdown."""
    writer = _Writer()
    root = shape_of(Config)
    writer.title(root, "The file")
    writer.visit(root)
    sections = "\n".join(writer.section(each) for each in writer.order)
    return f"{_INTRODUCTION}\n{sections}\n{_CHECKS}{_LOOSER_INTRODUCTION}{_looser()}"


class _Writer:
    """Gives every object a title and an order, then a section."""

    def __init__(self) -> None:
        self.order: list[Object | Keyed] = []
        self._titles: dict[Object | Keyed, str] = {}

    def title(self, shape: Object | Keyed, title: str) -> bool:
        """Name a section; False if it has a name already."""
        if shape in self._titles:
            return False
        self._titles[shape] = title
        self.order.append(shape)
        return True

    def visit(self, shape: Shape, path: str = "") -> None:
        """Name everything below `shape`, in reading order."""
        match shape:
            case Object():
                for name, known in shape.keys.items():
                    self._below(known.shape, f"{path}.{name}" if path else name)
                if shape.beside is not None:
                    self._below(shape.beside, path)
            case ListOf():
                self._below(shape.item, f"{path}[]")
            case MapOf():
                self._below(shape.value, f"{path}.NAME")
            case Keyed() | Tagged():
                for key, variant in shape.variants.items():
                    self._below(variant, f"{path}.{key}")
            case _:
                pass

    def _below(self, shape: Shape, path: str) -> None:
        match shape:
            case Object():
                path = _SHARED.get(shape.model, path)
                if self.title(shape, f"`{path}`"):
                    self.visit(shape, path)
            case Keyed(noun=noun):
                if self.title(shape, f"Kinds of {noun}s"):
                    for key, variant in shape.variants.items():
                        self._variant(variant, noun, key)
            case Tagged():
                for value, variant in shape.variants.items():
                    if self.title(variant, f"{path} of {shape.key} `{value}`"):
                        self.visit(variant, value)
            case _:
                self.visit(shape, path)

    def _variant(self, variant: Shape, noun: str, key: str) -> None:
        title = f"{noun[0].upper()}{noun[1:]} `{key}`"
        if isinstance(variant, Object):
            if self.title(variant, title):
                self.visit(variant, key)
        elif isinstance(variant, Tagged):
            self._below(variant, title)

    def section(self, shape: Object | Keyed) -> str:
        """Heading, promise and keys of one object or union."""
        title = self._titles[shape]
        if isinstance(shape, Keyed):
            return f"## {title[0].upper()}{title[1:]}\n\n{self._kinds(shape)}"
        lines = [f"### {title}", "", _prose(shape.model), ""]
        if shape.beside is not None:
            lines += [
                f"`name`, and beside it one key for {self._link(shape.beside)}.",
                "",
            ]
        if shape.keys:
            lines += ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
            keys = sorted(shape.keys.values(), key=lambda key: not key.info.is_required())
            lines += [self._row(key) for key in keys]
        else:
            lines.append("It has no keys: `{}`.")
        return "\n".join(lines) + "\n"

    def _kinds(self, union: Keyed) -> str:
        rows = ["| Key | What it is |", "|---|---|"]
        rows += [f'| `"{word}"` | A bare text. |' for word in union.words]
        for key, variant in union.variants.items():
            rows.append(f"| {self._kind_link(variant, key)} | {self._meaning(union, key)} |")
        return "\n".join(rows) + "\n"

    def _kind_link(self, variant: Shape, key: str) -> str:
        return (
            f"[`{key}`](#{_anchor(self._titles[variant])})"
            if isinstance(variant, Object)
            else f"`{key}`"
        )

    def _meaning(self, union: Keyed, key: str) -> str:
        variant = union.variants[key]
        if isinstance(variant, Object):
            return _promise(variant.model)
        if isinstance(variant, Tagged):
            links = (self._link(each) for each in variant.variants.values())
            return f"By its `{variant.key}`: {', '.join(links)}."
        return f"{self._type(variant).capitalize()}."

    def _row(self, key: Key) -> str:
        name = f"`{key.name}`" + (" *(extension)*" if key.extension else "")
        meaning = key.info.description or ""
        if key.zero is not None:
            meaning += f" 0 means {_scalar(key, key.zero)}."
        if key.no_effect is not None:
            meaning += f" It has no effect: {key.no_effect}."
        return f"| {name} | {self._type(key.shape)} | {_default(key)} | {_cell(meaning)} |"

    def _type(self, shape: Shape) -> str:
        match shape:
            case Scalar(kind=kind):
                return kind.name
            case Choice(words=words):
                return " \\| ".join(f'`"{word}"`' for word in words)
            case ListOf(item=item):
                return f"list of {self._type(item)}"
            case MapOf(value=value):
                return f"object of name: {self._type(value)}"
            case Keyed(noun=noun):
                return f"[{noun}](#{_anchor(self._titles[shape])})"
            case Tagged():
                return ", ".join(self._link(each) for each in shape.variants.values())
            case Object():
                return self._link(shape)

    def _link(self, shape: Object | Keyed) -> str:
        title = self._titles[shape]
        return f"[{title.replace('`', '')}](#{_anchor(title)})"


def _anchor(title: str) -> str:
    """As GitHub makes it from a heading."""
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")


def _prose(model: type[Spec]) -> str:
    return inspect.cleandoc(model.__doc__ or "")


def _promise(model: type[Spec]) -> str:
    return _cell(_prose(model).split("\n\n")[0])


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _default(key: Key) -> str:
    if key.info.is_required():
        return "**required**"
    default = key.info.default
    assert default is not PydanticUndefined
    if default is None:
        return "*none*"
    if isinstance(default, tuple):
        return ", ".join(f'`"{item}"`' for item in default) or "`[]`"
    if isinstance(default, dict):
        return "`{}`"
    if isinstance(default, Spec):
        changed = {
            name: value
            for name, value in default
            if value != type(default).model_fields[name].default
        }
        inside = ", ".join(f"{name}: {value}" for name, value in changed.items())
        return f"`{{ {inside} }}`" if inside else "`{}`"
    return _scalar(key, default)


def _scalar(key: Key, value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value and isinstance(key.shape, Scalar):
        kind = key.shape.kind.name
        if kind == "size":
            return format_size(value)
        if kind.startswith("duration in seconds"):
            return format_duration(value)
        if kind == "duration in milliseconds":
            return f"{value:,} ms"
        return f"{value:,}"
    if isinstance(value, StrEnum | str):
        return f'`"{value}"`'
    return f"`{value}`"


def _looser() -> str:
    return "".join(_looser_rows())


def _looser_rows() -> Iterator[str]:
    for row in LOOSER_FORMS:
        warning = "yes" if row.warns else "no"
        yield f"| {row.place} | `{row.written}` | `{row.read_as}` | {warning} | {row.note} |\n"
