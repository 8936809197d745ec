"""What systemd wants to know of a service: that it is ready, alive, and about to stop.

The protocol is sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Without it nothing
is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

__all__ = ["ServiceManager"]

_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """Tells systemd, if it asked.

    Args:
        environ: the process' environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace begins with a zero byte, written as @.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        timed = ours and microseconds.isascii() and microseconds.isdecimal()
        self.watchdog_s: Final = int(microseconds) / _MICROSECONDS if timed else 0.0

    def tell(self, *state: str) -> None:
        """Send assignments such as `READY=1`; one that cannot be sent is lost."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto("\n".join(state).encode(), self._address)

    async def stay_alive(self) -> None:
        """Say, until cancelled, that the event loop runs; twice as often as is asked for."""
        while self.watchdog_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)
