"""What NativeLink left on disk (tests/golden), and the blobs that it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from pathlib import Path
from typing import Any

from nativelink.core.clock import SystemClock
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore

__all__ = ["GOLDEN", "INDEX", "copy", "make", "open_store", "tree"]

GOLDEN = Path(__file__).parents[1] / "golden" / "nativelink-v1.6.6"
INDEX: dict[str, dict[str, str]] = json.loads((GOLDEN / "index.json").read_text())


def make(name: str) -> bytes:
    """The blob of a name, as the README beside the data says."""
    kind, _, size = name.partition("-")
    data = bytearray()
    number = 0
    while len(data) < int(size):
        if kind == "text":
            data += b"line %d of a file that compresses well\n" % (number % 1000)
        else:
            data += hashlib.sha256(b"%s/%d" % (kind.encode(), number)).digest()
        number += 1
    return bytes(data[: int(size)])


def open_store(root: Path) -> FilesystemStore:
    return FilesystemStore(
        content_path=root,
        temp_path=root.with_name(root.name + "-temp"),
        eviction=EvictionPolicy(),
        clock=SystemClock(),
    )


def copy(name: str, to: Path) -> Path:
    """A directory as NativeLink left it."""
    shutil.copytree(GOLDEN / name, to / name)
    for path in (to / name).glob("*/*"):
        path.chmod(0o444)
    return to / name


def tree(root: Path) -> dict[str, Any]:
    """Every file below a directory with its bytes and mode."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), oct(stat.S_IMODE(path.stat().st_mode)))
        for path in root.rglob("*")
        if path.is_file()
    }
