"""A filesystem store that lends its files."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nativelink.core.digest import Digest
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.local_files import LeasedFile
from nativelink.testing.fakes import FakeClock, wait_until


def blob(data: bytes) -> tuple[Digest, bytes]:
    return Digest(hashlib.sha256(data).hexdigest(), len(data)), data


ONE, ONE_DATA = blob(b"one")
TWO, TWO_DATA = blob(b"two, which is longer")
PROGRAM, PROGRAM_DATA = blob(b"#!/bin/sh\necho ran\n")


@asynccontextmanager
async def opened(root: Path, **settings: Any) -> AsyncIterator[FilesystemStore]:
    settings.setdefault("eviction", EvictionPolicy())
    settings.setdefault("clock", FakeClock())
    store = FilesystemStore(content_path=root / "content", temp_path=root / "temp", **settings)
    async with store:
        await wait_until(lambda: not store.statistics().scanning)
        yield store


async def lease(store: FilesystemStore, key: Digest) -> LeasedFile:
    (file,) = await store.files.lease([key])
    assert file is not None
    return file


def plain(store: FilesystemStore, file: LeasedFile) -> Path:
    return store.files.directory / file.name


def executable(store: FilesystemStore, file: LeasedFile) -> Path:
    return store.files.executable_directory / file.name


def overwrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)


def overwrite_as_it_was(path: Path) -> None:
    overwrite(path)
    path.chmod(0o444)
