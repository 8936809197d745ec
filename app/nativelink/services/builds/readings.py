"""What Bazel's events say, version by version, as plain values.

Newer Bazels say some things in other fields than older ones; nothing here is longer than a summary
may be, and what may be secret is left out. An event may be 16 MiB of anything, so nothing here
takes longer than its length allows either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from nativelink.proto.build_event_stream import build_event_stream_pb2 as bep
from nativelink.proto.google.protobuf.duration_pb2 import Duration
from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp

__all__ = [
    "MAX_NAME",
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
#: Characters of a name, such as a target's label.
MAX_NAME: Final = 1024
#: Times beyond the year 3000 are nobody's: calendars end at 9999, the field at 292 billion.
_MAX_SECONDS: Final = 32_503_680_000

_SECRET: Final = re.compile(r"(header|token|password|secret|credential|auth)", re.IGNORECASE)
_ENVIRONMENT: Final = re.compile(r"(--\w+_env=[^=]+)=.*", re.DOTALL)
#: Of an address with credentials in it. They may have "@" in them as it is.
_USER_INFO: Final = re.compile(r"(://)[^/\s]*@")
#: `12 processes: 3 remote cache hit, 9 linux-sandbox.` Digits are bounded, or each digit of a long
#: number would be a beginning that is followed to the number's end.
_PROCESSES: Final = re.compile(r"\b\d{1,12} process(?:es)?: ([^\n]*)")
_MAX_RUNNERS: Final = 100
_MAX_COUNT_DIGITS: Final = 12


def time_of(stamp: Timestamp, millis: int = 0) -> Timestamp:
    """A time that newer Bazels tell one way and older ones another; not set if it is none."""
    if not (stamp.seconds or stamp.nanos) and millis:
        stamp = Timestamp()
        stamp.FromMilliseconds(millis)
    is_one = 0 <= stamp.seconds < _MAX_SECONDS and 0 <= stamp.nanos < 1_000_000_000
    return stamp if is_one else Timestamp()


def span_of(duration: Duration, millis: int) -> Duration:
    """A duration that newer Bazels tell one way and older ones another."""
    if not (duration.seconds or duration.nanos) and millis:
        duration = Duration()
        duration.FromMilliseconds(millis)
    return duration


def name_of(enum: EnumTypeWrapper, number: int) -> str:
    """A value's name; one that is newer than this program has none."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return str(number)
    return name


def text_of(files: Iterable[bep.File]) -> str:
    """What files hold that were sent along."""
    # A character has up to four bytes.
    starts = (file.contents[: 4 * MAX_TEXT + 4] for file in files)
    return clipped("".join(start.decode("utf-8", "replace") for start in starts))


def processes_of(text: str) -> dict[str, int]:
    """How many processes ran where, as Bazel prints it at the end."""
    found = _PROCESSES.search(text)
    runners: dict[str, int] = {}
    said = "" if found is None else found[1].rstrip().removesuffix(".")
    for part in said.split(", ", _MAX_RUNNERS)[:_MAX_RUNNERS]:
        count, _, name = part.partition(" ")
        if name and count.isascii() and count.isdigit() and len(count) <= _MAX_COUNT_DIGITS:
            runners[clipped(name, MAX_NAME)] = int(count)
    return runners


def public_option(option: str) -> str:
    """An option without what may be secret: the values of headers, tokens and variables.

    A variable may be an option's value (`--define=token=…`), and a user's name and password a
    part of an address.
    """
    name, equals, value = option.partition("=")
    if equals and _SECRET.search(name):
        return f"{name}=…"
    variable, assigned, _ = value.partition("=")
    if assigned and "://" not in variable and _SECRET.search(variable):
        return f"{name}={variable}=…"
    return _USER_INFO.sub(r"\1…@", _ENVIRONMENT.sub(r"\1=…", option))


def clipped(text: str, limit: int = MAX_TEXT) -> str:
    """A text, cut where it is too long."""
    return text if len(text) <= limit else f"{text[:limit]} …"
