"""From a file to a `Config`."""

from __future__ import annotations

from pathlib import Path

import json5

from nativelink.config.specs import Config

__all__ = ["load_file"]


def load_file(path: Path) -> Config:
    """The configuration in `path`."""
    return Config.model_validate(json5.loads(path.read_text(encoding="utf-8")))
