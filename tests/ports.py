"""Loopback ports for programs that must be told one, and for addresses where nobody is.

None is one that the system gives to whoever asks for any, so nobody takes it before the program
does; nor is what a Redis cluster adds 10,000 to. The processes of a test run have their own each.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

__all__ = ["free_port", "free_ports"]

_FIRST, _BEHIND = 11_000, 22_000


def _own_ports() -> Iterator[int]:
    """This process' share, round and round, from a place where another run is hardly ever."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % processes
    share = (_BEHIND - _FIRST) // processes
    start = random.SystemRandom().randrange(share)
    return (_FIRST + number * share + (start + step) % share for step in itertools.count())


_ports = _own_ports()


def free_port() -> int:
    """A port that nobody listens on, and that was given to nobody for long."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError


def free_ports(count: int) -> list[int]:
    """So many of them."""
    return [free_port() for _ in range(count)]
