"""The filesystem store keeps the contract in each of its ways of working."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nativelink.core.digest import Digest, StoreKey
from nativelink.stores import filesystem_scan
from nativelink.stores.disk import InlineGuard
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.store import Store
from nativelink.testing.fakes import FakeClock
from nativelink.testing.store_contract import RawAccess, StreamsBlobs, StringKeys
from nativelink.testing.store_machine import StoreMachine


def filesystem(root: Path, **settings: Any) -> FilesystemStore:
    return FilesystemStore(
        content_path=root / "content",
        temp_path=root / "temp",
        eviction=EvictionPolicy(),
        clock=FakeClock(),
        **settings,
    )


class TestFilesystemOnASlowDisk(StringKeys, StreamsBlobs):
    """No system call on the event loop, few writes at a time, nothing left in the page cache."""

    @pytest.fixture(autouse=True)
    def _slow_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(InlineGuard, "allowed", False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as root:
            settings = {"evict_page_cache": True, "max_concurrent_writes": 2}
            async with filesystem(Path(root), **settings) as store:
                yield store


class TestFilesystemDuringItsScan(StringKeys, RawAccess):
    """The scan does not get anywhere, so that what is in the directories is found by looking."""

    @pytest.fixture(autouse=True)
    def _held_scan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = tmp_path
        self.gate = threading.Event()

        def list_directory(path: Path) -> Any:
            self.gate.wait()
            return os.scandir(path)

        monkeypatch.setattr(filesystem_scan, "list_directory", list_directory)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with filesystem(self.root) as store:
            try:
                yield store
            finally:
                self.gate.set()

    def path(self, key: StoreKey) -> Path:
        return self.root / "content" / ("d" if isinstance(key, Digest) else "s") / str(key)

    def raw_put(self, key: StoreKey, data: bytes) -> None:
        self.path(key).write_bytes(data)

    def raw_get(self, key: StoreKey) -> bytes | None:
        return self.path(key).read_bytes() if self.path(key).exists() else None

    def raw_names(self) -> set[str]:
        return {str(path) for path in self.root.rglob("*")}


class FilesystemMachine(StoreMachine):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as root:
            async with filesystem(Path(root)) as store:
                yield store


TestFilesystemMachine = FilesystemMachine.TestCase
