"""Request headers of calls that are made on behalf of the call under way."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from nativelink.core.errors import invalid_argument
from nativelink.core.rpc import current_call

__all__ = ["CallMetadata", "Headers"]

#: As `core.channel.Metadata`, but hashable: calls of equal headers may travel together.
Headers: TypeAlias = tuple[tuple[str, str | bytes], ...]

#: What the client says about its build, and its place in a trace (W3C Trace Context, Baggage;
#: REAPI v2, RequestMetadata): of use in the upstream's logs whoever asks.
_ALWAYS: Final = (
    "traceparent",
    "tracestate",
    "baggage",
    "build.bazel.remote.execution.v2.requestmetadata-bin",
)
_TRACE: Final = frozenset({"traceparent", "tracestate"})


class CallMetadata:
    """Makes the headers of outgoing calls.

    Args:
        headers: added to every call.
        forward_headers: names of headers that are copied from the call under way, if it has them.
            They win over `headers` of the same name.
        trace: `traceparent` and `tracestate` of the span under way; None passes on the caller's.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a header that HTTP/2 cannot carry.
    """

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        forward_headers: Iterable[str] = (),
        trace: Callable[[], Iterable[tuple[str, str]]] | None = None,
    ) -> None:
        static: dict[str, str | bytes] = {}
        for name, text in (headers or {}).items():
            value = _decoded(name.lower(), text.encode("utf-8"))
            if value is None:
                raise invalid_argument(
                    f"header {name!r}: a value is printable ASCII, or base64 if the name ends in "
                    "-bin"
                )
            static[name.lower()] = value
        self._static: Headers = tuple(static.items())
        self._trace = trace
        wanted = [name.lower() for name in forward_headers]
        if trace is not None:
            wanted.extend(name for name in _ALWAYS if name not in _TRACE)
        else:
            wanted.extend(_ALWAYS)
        self._wanted = {name.encode("utf-8"): name for name in wanted}

    def now(self) -> Headers:
        """The headers of a call that begins now, in the context of its caller."""
        call = current_call.get()
        if call is None:
            return self._static
        copied: dict[str, str | bytes] = {}
        for raw_name, raw in call.metadata:
            name = self._wanted.get(raw_name)
            if name is not None and name not in copied:
                value = _decoded(name, raw)
                if value is not None:
                    copied[name] = value
        if self._trace is not None:
            copied.update(self._trace())
        if not copied:
            return self._static
        return (*(each for each in self._static if each[0] not in copied), *copied.items())


def _decoded(name: str, raw: bytes) -> str | bytes | None:
    """A header's value as a channel takes it; None if it cannot be sent on."""
    if name.endswith("-bin"):
        try:
            return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
        except binascii.Error:
            return None
    if raw and (min(raw) < 0x20 or max(raw) > 0x7E):
        return None
    return raw.decode("ascii")
