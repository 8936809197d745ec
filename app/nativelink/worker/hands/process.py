"""What a hand is: a process that does one job after another, and says how each went."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import socket
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from nativelink.worker.hands.clear import clear
from nativelink.worker.hands.overlay import show
from nativelink.worker.hands.place import carry_out
from nativelink.worker.hands.remove import remove_tree

__all__ = ["HEAD", "JOBS", "serve"]

#: What a hand can do.
JOBS: Final[dict[str, Callable[..., Any]]] = {
    "clear": clear,
    "place": carry_out,
    "remove": remove_tree,
    "show": show,
}

#: A message is the length of what follows, and a pickle: `(job, arguments)` one way, the other way
#: what the job returned and an OSError's `(errno, strerror, filename)`, or None. Both ends are this
#: program.
HEAD: Final = Struct("<I")


def serve(server: socket.socket) -> None:
    """Do what comes until nothing comes any more."""
    reader = server.makefile("rb")
    while len(head := reader.read(HEAD.size)) == HEAD.size:
        job, arguments = pickle.loads(reader.read(*HEAD.unpack(head)))  # noqa: S301 - our own server
        value: Any = None
        failure: tuple[int, str, str] | None = None
        try:
            value = JOBS[job](*arguments)
        except OSError as error:
            failure = (
                error.errno or 0,
                error.strerror or str(error),
                # A descriptor, if that is what was asked.
                str(error.filename or ""),
            )
        except Exception as error:  # noqa: BLE001 - other jobs wait for this process
            failure = (errno.EIO, f"{type(error).__name__}: {error}", "")
        data = pickle.dumps((value, failure))
        server.sendall(HEAD.pack(len(data)) + data)


def main() -> None:
    """Serve the socket that is our stdin."""
    # A terminal's Ctrl-C reaches all; the server says when it is over by closing the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0)
    gc.freeze()
    with socket.socket(fileno=0) as server:
        try:
            serve(server)
        except ConnectionError:
            pass


if __name__ == "__main__":
    main()
