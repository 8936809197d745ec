"""How much memory large blobs and many entries take."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.stores.eviction import EvictingMap, EvictionPolicy

LARGE_BLOBS = Path(__file__).with_name("programs") / "large_blobs.py"


@pytest.mark.slow
def test_large_blobs_take_a_few_pieces_of_memory_each(tmp_path: Path) -> None:
    """8 of 2 GiB may take 64 MiB together, so 2 may take 16; bench/ does all 8 over the network."""
    command = [sys.executable, str(LARGE_BLOBS), str(tmp_path), "2", "2048"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(output) < 16


@pytest.mark.slow
def test_an_entry_takes_less_than_400_bytes() -> None:
    count = 200_000
    tracemalloc.start()
    try:
        entries: EvictingMap[object, int] = EvictingMap(
            EvictionPolicy(max_bytes=1 << 60), weigh=int
        )
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            key = DigestFunction.SHA256.digest_of(b"%d" % number)
            entries.insert_oldest(key, key.size_bytes + 1_000_000, 0.0)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / count < 400
