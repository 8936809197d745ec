"""A worker's stores and what puts inputs in place, for tests of inputs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.errors import NativeLinkError
from nativelink.stores.disk import DiskLane
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.join.fast_slow import FastSlowStore
from nativelink.testing.fakes import DictStore, FakeClock, wait_until
from nativelink.testing.faults import FaultyStore
from nativelink.worker.hands.pool import Hands
from nativelink.worker.inputs import InputStager, StagedInputs
from nativelink.worker.tree import TreeFetcher
from tests.worker.input_trees import Tree, put_tree

__all__ = ["Farm", "opened"]


@dataclass
class Farm:
    """A worker's stores and its stager; `slow` is the truth."""

    root: Path
    backend: DictStore
    slow: FaultyStore
    fast: FilesystemStore
    cas: FastSlowStore
    stager: InputStager

    async def stage(
        self, tree: Tree, name: str = "action", *, directories: Sequence[str] = ()
    ) -> StagedInputs:
        """Stage a tree that only the slow side has."""
        digest = await put_tree(self.backend, tree)
        return await self.stager.stage(digest, self.root / name, directories=directories)

    async def refusal(self, tree: Tree, *, directories: Sequence[str] = ()) -> NativeLinkError:
        with pytest.raises(NativeLinkError) as caught:
            await self.stage(tree, directories=directories)
        assert self.leased == 0
        return caught.value

    @property
    def leased(self) -> int:
        return self.fast.statistics().entries.leased


@asynccontextmanager
async def opened(root: Path, **eviction: Any) -> AsyncIterator[Farm]:
    lane = DiskLane("test", threads=2)
    lane.start()
    backend = DictStore()
    slow = FaultyStore(backend)
    fast = FilesystemStore(
        content_path=root / "content",
        temp_path=root / "temp",
        eviction=EvictionPolicy(**eviction),
        clock=FakeClock(),
    )
    async with fast, Hands(1) as hands:
        await wait_until(lambda: not fast.statistics().scanning)
        cas = FastSlowStore(fast, slow)
        stager = InputStager(cas, fast.files, hands, trees=TreeFetcher(cas), lane=lane)
        yield Farm(root, backend, slow, fast, cas, stager)
    await lane.close()
