"""EC2 Auto Scaling's API before moto's: does what moto does not, and passes everything else on.

moto has no lifecycle actions, and lets a group get smaller than its smallest size. The same port
takes what `make interrupt` asks for.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Final
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from nativelink.testing.http_thread import HttpThread
from scripts.region_local.cloud import Cloud
from scripts.region_local.lifecycle import Lifecycle

__all__ = ["Front"]

_TIMEOUT_S: Final = 30.0
_SPACE: Final = "http://autoscaling.amazonaws.com/doc/2011-01-01/"


class Front(HttpThread):
    """Listens while its context is open.

    Args:
        host, port: where.

    Attributes:
        interrupt: what gives one worker, or the one that is named, a spot notice, and says which;
            raises LookupError if there is none.
    """

    def __init__(self, host: str, port: int) -> None:
        self.interrupt: Callable[[str], str] = _nobody
        super().__init__(host, port, self._handler())
        self._shrinking = threading.Lock()
        self._upstream = ""
        self._cloud: Cloud | None = None
        self._lifecycle: Lifecycle | None = None

    def serve(self, upstream: str, cloud: Cloud, lifecycle: Lifecycle) -> None:
        """Begin to answer.

        Args:
            upstream: URL of moto.
            cloud: the same.
            lifecycle: who waits at hooks.
        """
        self._upstream, self._cloud, self._lifecycle = upstream, cloud, lifecycle

    def answer(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Status, content type and text for a request of AWS' query protocol."""
        asked = dict(parse_qsl(body.decode()))
        action, instance = asked.get("Action", ""), asked.get("InstanceId", "")
        hook = asked.get("LifecycleHookName", "")
        assert self._lifecycle is not None
        match action:
            case "CompleteLifecycleAction":
                goes_on = asked.get("LifecycleActionResult") == "CONTINUE"
                done = self._lifecycle.complete(hook, instance, goes_on=goes_on)
                return _done(action) if done else _refused(_no_action(instance))
            case "RecordLifecycleActionHeartbeat":
                done = self._lifecycle.heartbeat(hook, instance)
                return _done(action) if done else _refused(_no_action(instance))
            case "TerminateInstanceInAutoScalingGroup":
                with self._shrinking:
                    fewer = asked.get("ShouldDecrementDesiredCapacity") == "true"
                    if refusal := self._refusal(instance, fewer=fewer):
                        return _refused(refusal)
                    return self._pass_on(body, headers)
            case _:
                return self._pass_on(body, headers)

    def _refusal(self, instance: str, *, fewer: bool) -> str:
        assert self._cloud is not None
        group = next((each for each in self._cloud.groups() if instance in each.instances), None)
        if group is None:
            return f"Instance Id not found - No managed instance found for instance ID: {instance}"
        if fewer and group.desired <= group.smallest:
            return (
                f"Currently, desiredSize equals minSize ({group.smallest}). Terminating instance "
                "without replacement will violate group's min size constraint."
            )
        return ""

    def _pass_on(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        host = urlsplit(self._upstream).netloc
        connection = http.client.HTTPConnection(host, timeout=_TIMEOUT_S)
        try:
            kept = {name: value for name, value in headers.items() if name.lower() != "host"}
            connection.request("POST", "/", body, kept)
            response = connection.getresponse()
            kind = response.getheader("Content-Type", "text/xml")
            return response.status, kind, response.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if self.path == "/interrupt":
                    self._interrupt(body.decode())
                else:
                    self._say(*front.answer(body, dict(self.headers.items())))

            def _interrupt(self, instance: str) -> None:
                try:
                    self._say(200, "text/plain", front.interrupt(instance).encode())
                except LookupError as error:
                    self._say(404, "text/plain", str(error.args[0]).encode())

            def _say(self, status: int, kind: str, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has
                del format, args

        return Handler


def _nobody(instance: str) -> str:
    raise LookupError(f"the region is not up yet: there is no worker {instance}".rstrip())


def _no_action(instance: str) -> str:
    return f"No active Lifecycle Action found with instance ID {instance}"


def _done(action: str) -> tuple[int, str, bytes]:
    text = (
        f'<{action}Response xmlns="{_SPACE}"><{action}Result/><ResponseMetadata>'
        f"<RequestId>local</RequestId></ResponseMetadata></{action}Response>"
    )
    return 200, "text/xml", text.encode()


def _refused(message: str) -> tuple[int, str, bytes]:
    text = (
        f'<ErrorResponse xmlns="{_SPACE}"><Error><Type>Sender</Type><Code>ValidationError</Code>'
        f"<Message>{escape(message)}</Message></Error><RequestId>local</RequestId></ErrorResponse>"
    )
    return 400, "text/xml", text.encode()
