"""Whether the program answers `/status` with 200: health check of containers, test of images."""

from __future__ import annotations

import http.client
import os
import sys
from typing import Final

#: Where roles answer, and where `all_in_one.json5` does, beside its services.
_PORTS: Final = ("NATIVELINK_STATUS_ADDRESS", 50090), ("NATIVELINK_ADDRESS", 50051)
_TIMEOUT_S: Final = 5.0


def main() -> int:
    """Ask where a role answers, and else where `all_in_one.json5` does; the exit code."""
    for variable, default in _PORTS:
        port = int(os.environ.get(variable, "").rpartition(":")[2] or default)
        try:
            status = ask(port)
        except ConnectionRefusedError:
            continue
        except (OSError, http.client.HTTPException) as error:
            print(f"port {port}: {error}", file=sys.stderr)
            return 1
        print(f"port {port}: status {status}", file=sys.stderr)
        return int(status != http.client.OK)
    print("nothing listens", file=sys.stderr)
    return 1


def ask(port: int) -> int:
    """The HTTP status of `/status`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
