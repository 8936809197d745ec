"""Log lines: `NL_LOG` says how they look, `RUST_LOG` which ones there are.

The standard `logging` module everywhere, and this module its only configuration. A line written
while a call is served names the call: method, peer, and what Bazel says about itself in its
RequestMetadata (tool, invocation, target). That is read from the call's headers when a line is
really written, so calls that log nothing pay nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TextIO

from nativelink.core.printable import printable
from nativelink.core.rpc import current_call
from nativelink.services.request_metadata import describe

__all__ = ["LogFilter", "LogFormat", "configure", "parse_filter"]

#: Below DEBUG, as in the tracing crates whose filter syntax RUST_LOG follows.
TRACE: Final = 5
_OFF: Final = logging.CRITICAL + 10
_LEVELS: Final = {
    "off": _OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_NAMES: Final = {
    logging.CRITICAL: "ERROR",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARN",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
    TRACE: "TRACE",
}
_COLOURS: Final = {
    "ERROR": "\x1b[31m",
    "WARN": "\x1b[33m",
    "INFO": "\x1b[32m",
    "DEBUG": "\x1b[34m",
    "TRACE": "\x1b[35m",
}
_DIM: Final = "\x1b[2m"
_PLAIN: Final = "\x1b[0m"
#: Libraries that talk too much below warnings; NativeLink silences its own ones likewise.
_QUIET: Final = ("asyncio", "grpc", "hpack", "urllib3", "botocore")


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are written: a level for all, and others for some loggers and what is below."""

    default: int
    loggers: Mapping[str, int]


class LogFormat:
    """The values of `NL_LOG`; any other value means `pretty`."""

    PRETTY: Final = "pretty"
    COMPACT: Final = "compact"
    JSON: Final = "json"


def parse_filter(directives: str) -> LogFilter:
    """`RUST_LOG`: `info`, or `warn,nativelink::stores=debug`; what makes no sense is passed over.

    `::` and `.` both separate, and a bare logger name means everything that it logs.
    """
    default = logging.INFO
    loggers: dict[str, int] = {}
    for directive in directives.split(","):
        target, equals, level = directive.strip().partition("=")
        if not target:
            continue
        if not equals and target.lower() in _LEVELS:
            default = _LEVELS[target.lower()]
            continue
        named = _LEVELS.get(level.strip().lower()) if equals else TRACE
        if named is not None:
            loggers[target.strip().replace("::", ".")] = named
    return LogFilter(default, loggers)


def configure(environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Set logging up for this process: once, by whoever owns the process.

    Args:
        environ: the environment; `NL_LOG`, `RUST_LOG` and `NO_COLOR` are read.
        stream: where lines go, standard output by default (as in NativeLink).
    """
    stream = sys.stdout if stream is None else stream
    handler = logging.StreamHandler(stream)
    colour = stream.isatty() and not environ.get("NO_COLOR")
    match environ.get("NL_LOG"):
        case LogFormat.JSON:
            handler.setFormatter(JsonFormatter())
        case LogFormat.COMPACT:
            handler.setFormatter(LineFormatter(colour=colour, date=False))
        case _:
            handler.setFormatter(LineFormatter(colour=colour, date=True))
    chosen = parse_filter(environ.get("RUST_LOG", ""))
    logging.addLevelName(TRACE, "TRACE")
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(chosen.default)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(chosen.default, logging.WARNING))
    for name, level in chosen.loggers.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)


def call_fields() -> dict[str, str]:
    """What is known about the call under way; empty outside of calls."""
    call = current_call.get()
    if call is None:
        return {}
    return {"method": call.method, "peer": call.peer.address, **describe(call)}


class LineFormatter(logging.Formatter):
    """One line: time, level, where, message, and the call's fields as `name=value`.

    Args:
        colour: use ANSI colours.
        date: write the whole UTC time stamp, not only the time of day.
    """

    def __init__(self, *, colour: bool, date: bool) -> None:
        super().__init__()
        self._colour = colour
        self._date = date

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        when = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if not self._date:
            when = when[11:-1]
        level = _NAMES.get(record.levelno, record.levelname)
        where = record.name.removeprefix("nativelink.")
        padded = f"{level:>5}"
        if self._colour:
            when = f"{_DIM}{when}{_PLAIN}"
            padded = f"{_COLOURS.get(level, '')}{padded}{_PLAIN}"
            where = f"{_DIM}{where}:{_PLAIN}"
        else:
            where = f"{where}:"
        # File names, host names and errors of others have lines of their own choice in them.
        parts = [when, padded, where, printable(record.getMessage())]
        parts += [f"{name}={_quoted(value)}" for name, value in call_fields().items()]
        line = " ".join(parts)
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in the shape that NativeLink's lines have."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, str] = {"message": record.getMessage(), **call_fields()}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(
            {
                "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "level": _NAMES.get(record.levelno, record.levelname),
                "fields": fields,
                "target": record.name,
            },
            ensure_ascii=False,
        )


def _quoted(value: str) -> str:
    """A value that may hold spaces or control characters, so that one line stays one line."""
    return value if value.isprintable() and " " not in value else json.dumps(value)
