"""A TCP proxy that can be cut."""

from __future__ import annotations

import socket
import threading

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
        self._frozen: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._is_cut = False

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *reason: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._pairs += self._frozen
        self.cut()
        for thread in self._threads:
            thread.join(60)

    def cut(self) -> None:
        """Break all connections, and every new one until `mend`."""
        self._is_cut = True
        while self._pairs:
            for end in self._pairs.pop():
                _close(end)

    def freeze(self) -> None:
        """Pass nothing on any more over the connections that there are, and say so to nobody.

        As a router does that has forgotten them. New ones work.
        """
        self._frozen.extend(self._pairs)
        self._pairs.clear()

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
            self._start(self._pump, near, far)
            self._start(self._pump, far, near)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if not any(source in pair for pair in self._frozen):
                    target.sendall(data)
        except OSError:
            pass
        finally:
            _close(source)
            _close(target)

    def _start(self, body: object, *ends: socket.socket) -> None:
        thread = threading.Thread(target=body, args=ends, daemon=True)
        self._threads.append(thread)
        thread.start()


def _close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
