"""EC2's instance metadata service, version 2, as far as machines ask for it: HTTP on loopback.

Tests use it, and the region on a laptop, which has one for each of its machines.
"""

from __future__ import annotations

import contextlib
import itertools
from http.server import BaseHTTPRequestHandler

from nativelink.testing.http_thread import HttpThread

__all__ = ["FakeImds"]

_PREFIX = "/latest/meta-data/"


class FakeImds(HttpThread):
    """A context manager; what it says may be changed at any time.

    Args:
        host, port: where it listens; 0 is any free port.

    Attributes:
        said: texts by path below `/latest/meta-data/`; what is not there answers 404.
        broken: paths that answer 500.
        tokens: how many were given.
        asked: every path that was asked for with a good token.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.said: dict[str, str] = {"autoscaling/target-lifecycle-state": "InService"}
        self.broken: set[str] = set()
        self.tokens = 0
        self.asked: list[str] = []
        self._valid: set[str] = set()
        self._numbers = itertools.count(1)
        imds = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                lifetime = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                # As EC2: proxies do not get one.
                if self.path != "/latest/api/token" or not lifetime.isdigit():
                    self._answer(400, "")
                    return
                if "token" in imds.broken:
                    self._answer(500, "")
                    return
                token = f"token-{next(imds._numbers)}"
                imds._valid.add(token)
                imds.tokens += 1
                self._answer(200, token)

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") not in imds._valid:
                    self._answer(401, "")
                    return
                path = self.path.removeprefix(_PREFIX)
                imds.asked.append(path)
                if path in imds.broken:
                    self._answer(500, "")
                elif path in imds.said:
                    self._answer(200, imds.said[path])
                else:
                    self._answer(404, "")

            def _answer(self, status: int, text: str) -> None:
                data = text.encode()
                # Who asked may be gone: machines end at any time.
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has
                del format, args

        super().__init__(host, port, Handler)

    def forget_tokens(self) -> None:
        """No token that was given is good any more."""
        self._valid.clear()
