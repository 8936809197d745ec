"""Kill -9 in the middle of 200 concurrent uploads: what was acknowledged is there, whole."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from nativelink.core.clock import SystemClock
from nativelink.core.digest import DigestFunction
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.store import read_bytes
from nativelink.testing.fakes import wait_until

ROUNDS = 50
PROGRAM = Path(__file__).with_name("programs") / "crashing_uploads.py"


def load_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("crashing_uploads", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def uploader() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def killed_upload(
    uploader: subprocess.Popen[str], directory: Path, seed: int, program: ModuleType
) -> set[int]:
    """One upload, killed at a moment that the seed chooses; what it had acknowledged."""
    assert uploader.stdin is not None
    assert uploader.stdout is not None
    rng = random.Random(seed)
    # Half of the rounds end after so many answers, half between two steps on the disk.
    kill_at = rng.randrange(program.COUNT) if seed % 2 else None
    step = 0 if seed % 2 else rng.randrange(1, program.STEPS)
    uploader.stdin.write(f"{directory} {seed} {step}\n")
    uploader.stdin.flush()
    acknowledged: set[int] = set()
    pid = 0
    for line in uploader.stdout:
        word, _, number = line.strip().partition(" ")
        if word == "ended":
            return acknowledged
        if word == "began":
            pid = int(number)
        else:
            acknowledged.add(int(number))
        if pid and kill_at is not None and len(acknowledged) >= kill_at:
            kill(pid)
    raise AssertionError("the uploader ended")


def kill(pid: int) -> None:
    """End a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def survivors(directory: Path) -> dict[str, bytes]:
    """Every blob that is visible after a restart, read through the store."""
    async with FilesystemStore(
        content_path=directory / "content",
        temp_path=directory / "temp",
        eviction=EvictionPolicy(),
        clock=SystemClock(),
    ) as store:
        await wait_until(lambda: not store.statistics().scanning)
        keys = store._map.keys_oldest_first()
        found = {str(key): await read_bytes(store, key) for key in keys}
        leftovers = [path for path in (directory / "temp").rglob("*") if path.is_file()]
        assert leftovers == []
        return found


@pytest.mark.slow
def test_a_killed_store_loses_nothing_that_it_acknowledged(
    uploader: subprocess.Popen[str], tmp_path: Path
) -> None:
    program = load_program()
    seen_partial_rounds = 0
    for seed in range(ROUNDS):
        directory = tmp_path / f"{seed}"
        acknowledged = killed_upload(uploader, directory, seed, program)
        found = asyncio.run(survivors(directory))
        for name, data in found.items():
            assert str(DigestFunction.SHA256.digest_of(data)) == name, f"round {seed}"
        for number in acknowledged:
            data = program.blob(seed, number)
            if data:
                key = DigestFunction.SHA256.digest_of(data)
                assert found.get(str(key)) == data, f"round {seed}, blob {number}"
        seen_partial_rounds += 0 < len(found) < program.COUNT - 10
        shutil.rmtree(directory)
    # The kill really came in the middle, often enough for this test to mean something.
    assert seen_partial_rounds > ROUNDS // 10
