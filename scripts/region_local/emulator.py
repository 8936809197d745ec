"""moto's server, mended: `python -m scripts.region_local.emulator -H HOST -p PORT`.

moto keeps every value of a metric, and calculates no `p99` or its like of them: it fails where it
is asked for one. And it serves each request in a thread of its own without protecting what it
keeps: a request that walks over a dictionary while another one adds to it is answered 500, also
one that had its effect by then, and is refused as a duplicate when it is sent again. And it closes
each connection as soon as it has answered: now and then Go's client, and so Terraform, takes that
for an answer that was lost, and sends the request again. And it looks through its own folder at
every request, which is a sixth of what that costs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from io import BytesIO
from math import ceil
from threading import Lock
from typing import Any, Final, SupportsFloat

import moto.backends
import moto.server
from moto.cloudwatch.models import Statistics
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler

__all__ = ["ClosesLast", "OneAtATime", "install", "percentile"]

#: It waits up to 20 seconds for a message, and looks at no other queue meanwhile.
_WAITS: Final = "AmazonSQS.ReceiveMessage"

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


class OneAtATime:
    """A WSGI application whose calls take turns, and wait for nobody within theirs.

    So who waits for a message takes none.

    Args:
        application: what is called; it has done its work when its call returns.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._turn = Lock()

    def __call__(self, environ: dict[str, Any], start_response: object) -> Iterable[bytes]:
        """Call it when it is free."""
        if length := int(environ.get("CONTENT_LENGTH") or 0):
            environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(length))
        with nullcontext() if environ.get("HTTP_X_AMZ_TARGET") == _WAITS else self._turn:
            return self._application(environ, start_response)


class ClosesLast(MotoRequestHandler):
    """Leaves it to the client to close the connection first, for a while."""

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
    setattr(moto.server, "MotoRequestHandler", ClosesLast)  # noqa: B010 - not exported
    modules = frozenset(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = lambda: modules


if __name__ == "__main__":
    install()
    moto.server.main(sys.argv[1:])
