"""The build hook: the wheel's dependencies are the lines of requirements/runtime.in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RuntimeDependencies(MetadataHookInterface):
    """Reads `dependencies` from the one file that the lock is made from."""

    def update(self, metadata: dict[str, Any]) -> None:
        lines = Path(self.root, "requirements", "runtime.in").read_text(encoding="utf-8")
        metadata["dependencies"] = [
            line for line in lines.splitlines() if line and not line.startswith("#")
        ]
