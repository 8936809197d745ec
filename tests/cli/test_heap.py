"""One heap for all threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Says how many heaps there are once four threads have allocated.
HEAPS = """
import ctypes, sys, threading
{first}
barrier = threading.Barrier(4)
def allocate():
    barrier.wait()
    kept = [ctypes.create_string_buffer(50_000) for _ in range(50)]
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""
SHARE = "from nativelink.cli.heap import share_one_heap; share_one_heap()"


def heaps(first: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", HEAPS.format(first=first)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.count(b"<heap nr=")


@pytest.mark.slow
def test_threads_share_one_heap():
    assert heaps(SHARE) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="heaps are glibc's")
def test_who_asks_for_more_heaps_gets_them():
    assert heaps(SHARE, MALLOC_ARENA_MAX="8") > 1
