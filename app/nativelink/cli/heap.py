"""The C library's heap, kept to one.

glibc gives each thread that allocates a heap of its own. The pieces of a large blob are made in
the disk's threads and freed on the event loop, so each of these heaps grows to its own peak and
keeps it: after eight downloads of 1 GiB at once 60 MiB more were resident than before, with one
heap 33 MiB. Threads of one Python program hardly ever allocate at the same time, so that sharing
the heap costs nothing.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["share_one_heap"]

#: `M_ARENA_MAX` of mallopt(3).
_ARENA_MAX: Final = -8


def share_one_heap() -> None:
    """Let all threads allocate from one heap, unless `MALLOC_ARENA_MAX` says how many.

    To be called before threads are started. Does nothing where the C library is not glibc.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
