"""A filesystem store in a test's directory, and what is in it."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.streams import Chunk
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.testing.fakes import FakeClock, wait_until

#: Below and above what is read in one go.
SMALL, LARGE = 1_000, 700_000


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return Digest(hashlib.sha256(data).hexdigest(), size), data


def make(root: Path, *, clock: FakeClock | None = None, **settings: Any) -> FilesystemStore:
    settings.setdefault("eviction", EvictionPolicy())
    return FilesystemStore(
        content_path=root / "content",
        temp_path=root / "temp",
        clock=clock or FakeClock(),
        **settings,
    )


def path_of(root: Path, key: StoreKey) -> Path:
    return root / "content" / ("d" if isinstance(key, Digest) else "s") / str(key)


def files(root: Path) -> set[str]:
    """Names of all files below a directory."""
    return {path.name for path in root.rglob("*") if path.is_file()}


async def scanned(store: FilesystemStore) -> None:
    await wait_until(lambda: not store.statistics().scanning)


async def code_of(work: Any) -> Code:
    with pytest.raises(NativeLinkError) as caught:
        await work
    return caught.value.code


class Sink:
    """Keeps what comes, and does something at the first piece."""

    def __init__(self, first: Callable[[], object] = lambda: None) -> None:
        self.pieces: list[Chunk] = []
        self._first = first

    async def write(self, chunk: Chunk, /) -> None:
        if not self.pieces:
            self._first()
        self.pieces.append(chunk)


class Held:
    """Stands in for a function that runs in a thread, and holds it up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._gate = threading.Event()
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        self._gate.wait()
        return self._function(*args, **kwargs)

    def release(self) -> None:
        self._gate.set()


async def wait_for_files(root: Path, names: set[str]) -> bool:
    await wait_until(lambda: files(root) == names)
    return True
