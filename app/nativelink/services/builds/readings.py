"""What Bazel's events say, version by version, as plain values.

Newer Bazels say some things in other fields than older ones; nothing here is longer than a summary
may be, and what may be secret is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.protobuf.duration_pb2 import Duration
from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp

__all__ = [
    "MAX_TEXT",
    "clipped",
    "name_of",
    "processes_of",
    "public_option",
    "span_of",
    "text_of",
    "time_of",
]

#: Characters of a text.
MAX_TEXT: Final = 4096

_SECRET: Final = re.compile(r"(header|token|password|secret|credential|auth)", re.IGNORECASE)
_ENVIRONMENT: Final = re.compile(r"(--\w+_env=[^=]+)=.*", re.DOTALL)
#: `12 processes: 3 remote cache hit, 9 linux-sandbox.`
_PROCESSES: Final = re.compile(r"\d+ process(?:es)?: (.*?)\.?\s*$")


def time_of(stamp: Timestamp, millis: int) -> Timestamp:
    """A time that newer Bazels tell one way and older ones another."""
    if not (stamp.seconds or stamp.nanos) and millis:
        stamp = Timestamp()
        stamp.FromMilliseconds(millis)
    return stamp


def span_of(duration: Duration, millis: int) -> Duration:
    """A duration that newer Bazels tell one way and older ones another."""
    if not (duration.seconds or duration.nanos) and millis:
        duration = Duration()
        duration.FromMilliseconds(millis)
    return duration


def name_of(enum: object, number: int) -> str:
    """A value's name; one that is newer than this program has none."""
    try:
        name: str = enum.Name(number)  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
    return name


def text_of(files: Iterable[bep.File]) -> str:
    """What files hold that were sent along."""
    return clipped("".join(file.contents.decode("utf-8", "replace") for file in files))


def processes_of(text: str) -> dict[str, int]:
    """How many processes ran where, as Bazel prints it at the end."""
    found = _PROCESSES.search(text)
    runners: dict[str, int] = {}
    for part in found[1].split(", ") if found is not None else ():
        count, _, name = part.partition(" ")
        if count.isdigit() and name:
            runners[name] = int(count)
    return runners


def public_option(option: str) -> str:
    """An option without what may be secret: the values of headers, tokens and variables."""
    name, equals, _ = option.partition("=")
    if equals and _SECRET.search(name):
        return f"{name}=…"
    return _ENVIRONMENT.sub(r"\1=…", option)


def clipped(text: str) -> str:
    """A text, cut where it is too long."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"
