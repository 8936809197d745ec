"""A TCP proxy that can be cut."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

__all__ = ["Proxy"]


class Proxy:
    """Passes connections on to a port of this machine; use it as a context manager.

    Attributes:
        port: where it listens, on 127.0.0.1.
        connections: how many it has accepted and passed on.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._is_cut = False

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def cut(self) -> None:
        """Break all connections, and every new one until `mend`."""
        self._is_cut = True
        while self._pairs:
            for end in self._pairs.pop():
                _close(end)

    def mend(self) -> None:
        """Pass connections on again."""
        self._is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                _close(near)
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self.connections += 1
            self._pairs.append((near, far))
            self._start(_pump, near, far)
            self._start(_pump, far, near)

    def _start(self, body: object, *ends: socket.socket) -> None:
        thread = threading.Thread(target=body, args=ends, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    finally:
        _close(source)
        _close(target)


def _close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
