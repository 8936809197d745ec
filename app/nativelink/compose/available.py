"""What a configuration may ask for that this version does not have yet.

The whole reference parses and validates. Starting is refused where a part could not do its work,
with one line for each such part, before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterator

from nativelink.config.fields import Spec
from nativelink.config.specs import Config
from nativelink.config.specs_schedulers import RedisBackendSpec

__all__ = ["unavailable"]


def unavailable(config: Config) -> Iterator[str]:
    """One line for each part that this version cannot start, beginning with its config path."""
    for scheduler in config.schedulers or ():
        for path, spec in _tree(f"schedulers/{scheduler.name}", scheduler.spec):
            if isinstance(spec, RedisBackendSpec):
                yield f"{path}: a scheduler's state in Redis is not available in this version"


def _tree(path: str, spec: Spec) -> Iterator[tuple[str, Spec]]:
    """A spec with all specs inside it, and the path of each."""
    yield path, spec
    for key in type(spec).model_fields:
        value = getattr(spec, key)
        if isinstance(value, Spec):
            yield from _tree(f"{path}/{key}", value)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Spec):
                    yield from _tree(f"{path}/{key}/{index}", item)
