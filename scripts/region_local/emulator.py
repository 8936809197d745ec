"""moto's server, mended: `python -m scripts.region_local.emulator -H HOST -p PORT`.

moto keeps every value of a metric, and calculates no `p99` or its like of them: it fails where it
is asked for one. And it serves each request in a thread of its own without protecting what it
keeps: a request that walks over a dictionary while another one adds to it is answered 500, also
one that had its effect by then, and is refused as a duplicate when it is sent again. And it closes
each connection as soon as it has answered: Go's client, and so Terraform, may take that for an
answer that was lost, and sends the request again. However an answer is lost, who sends a change
again gets the same one here. And moto looks through its own folder at every request, which is a
sixth of what that costs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from threading import Lock
from typing import Any, Final, SupportsFloat

import moto.backends
import moto.server
from moto.cloudwatch.models import Statistics
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler

__all__ = ["MendedHandler", "OneAtATime", "install", "percentile"]

#: It waits up to 20 seconds for a message, and looks at no other queue meanwhile.
_WAITS: Final = "AmazonSQS.ReceiveMessage"

#: AWS' SDKs give each call one, which it keeps when it is sent again.
_CALL: Final = "HTTP_AMZ_SDK_INVOCATION_ID"
#: Answers that may be asked for again; who does that, does so within seconds.
_REMEMBERED: Final = 1024

#: A client that does not close is one that waits for us to do it.
_LINGER_S: Final = 20.0

_known = Statistics.get_statistics_for_type


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all values do not exceed.

    Args:
        values: at least one, in any order.
        percent: above 0, at most 100.
    """
    rank = ceil(round(len(values) * percent / 100, 6))
    return sorted(values)[rank - 1]


def _value_of(statistics: Statistics, stat: str) -> SupportsFloat | None:
    """What moto knows, and percentiles of single values."""
    asked = re.fullmatch(r"p(\d+(?:\.\d+)?)", stat)
    if asked is None:
        return _known(statistics, stat)
    values = statistics.metric_single_values_list
    return percentile(values, float(asked[1])) if values else None


@dataclass(frozen=True)
class _Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes


class OneAtATime:
    """A WSGI application whose calls take turns, and wait for nobody within theirs.

    So who waits for a message takes none. What changed something and is sent again is answered as
    it was: much of what it has done already the application would refuse.

    Args:
        application: what is called; it has done its work when its call returns.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._turn = Lock()
        self._answers: dict[str, _Answer] = {}

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Call it when it is free."""
        if length := int(environ.get("CONTENT_LENGTH") or 0):
            body = environ["wsgi.input"].read(length)
            if len(body) < length:
                raise ConnectionAbortedError(f"{len(body)} of {length} bytes came")
            environ["wsgi.input"] = BytesIO(body)
        if environ.get("HTTP_X_AMZ_TARGET") == _WAITS:
            return self._application(environ, start_response)
        reads = environ.get("REQUEST_METHOD") in {"GET", "HEAD"}
        call = None if reads else environ.get(_CALL)
        with self._turn:
            if call is None:
                return self._application(environ, start_response)
            answer = self._answers.get(call)
            if answer is None:
                answer = self._answer(environ)
                if answer.status.startswith("2"):
                    self._answers[call] = answer
            if len(self._answers) > _REMEMBERED:
                del self._answers[next(iter(self._answers))]
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _answer(self, environ: dict[str, Any]) -> _Answer:
        said: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
            said.append((status, headers))

        found = self._application(environ, start)
        try:
            body = b"".join(found)
            return _Answer(*said[-1], body)
        finally:
            getattr(found, "close", lambda: None)()


class MendedHandler(MotoRequestHandler):
    """Leaves it to the client to close the connection first, for a while.

    And it notes only what it refused or failed at: a line for each request was a sixth of its time.
    Not that an object is absent, which stores ask before they write; HEAD is for that alone.
    """

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write a line about an answer that is an error."""
        told = str(code)
        absent = told == "404" and self.command == "HEAD"
        if told[:1] in {"4", "5"} and not absent:
            super().log_request(code, size)

    def finish(self) -> None:
        """What was answered is on its way."""
        super().finish()
        with suppress(OSError):
            self.connection.settimeout(_LINGER_S)
            while self.connection.recv(65536):
                pass


def _one_at_a_time(create: Callable[..., Any]) -> OneAtATime:
    return OneAtATime(DomainDispatcherApplication(create))


def install() -> None:
    """Have moto's server of this process mended."""
    # It has no way to be told: the names are replaced where it looks for them.
    Statistics.get_statistics_for_type = _value_of  # type: ignore[assignment, method-assign]
    setattr(moto.server, "DomainDispatcherApplication", _one_at_a_time)  # noqa: B010 - not exported
    setattr(moto.server, "MotoRequestHandler", MendedHandler)  # noqa: B010 - not exported
    modules = frozenset(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = lambda: modules


if __name__ == "__main__":
    install()
    moto.server.main(sys.argv[1:])
