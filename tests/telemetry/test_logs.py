"""Log lines: filters, formats, and the fields of the call they belong to."""

import base64
import io
import json
import logging
from collections.abc import Iterator

import pytest

from nativelink.core.rpc import CallContext, Peer, current_call
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import (
    RequestMetadata,
    ToolDetails,
)
from nativelink.services.request_metadata import HEADER, describe
from nativelink.telemetry.logs import TRACE, LogFilter, configure, parse_filter


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    yield
    root.handlers, root.level = handlers, level
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    logging.captureWarnings(capture=False)


def a_call(*metadata: tuple[bytes, bytes]) -> CallContext:
    return CallContext("/pkg.Service/Method", metadata, Peer("10.0.0.7:4242"))


def bazel_header(*, padded: bool = False) -> tuple[bytes, bytes]:
    value = base64.b64encode(
        RequestMetadata(
            tool_details=ToolDetails(tool_name="bazel", tool_version="8.1.0"),
            tool_invocation_id="6f1c",
            target_id="//app:server",
            action_mnemonic="CppCompile",
        ).SerializeToString()
    )
    return HEADER, value if padded else value.rstrip(b"=")


def written(line: str, environ: dict[str, str], *, call: CallContext | None = None) -> str:
    stream = io.StringIO()
    configure(environ, stream)
    token = current_call.set(call)
    try:
        logging.getLogger("nativelink.stores.memory").warning(line)
    finally:
        current_call.reset(token)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("", LogFilter(logging.INFO, {})),
        ("debug", LogFilter(logging.DEBUG, {})),
        ("WARN", LogFilter(logging.WARNING, {})),
        ("trace", LogFilter(TRACE, {})),
        (
            "warn,nativelink::stores=debug",
            LogFilter(logging.WARNING, {"nativelink.stores": logging.DEBUG}),
        ),
        ("nativelink.transport", LogFilter(logging.INFO, {"nativelink.transport": TRACE})),
        ("error, ,x=nonsense", LogFilter(logging.ERROR, {})),
    ],
)
def test_rust_log_says_what_is_written(directives: str, expected: LogFilter):
    assert parse_filter(directives) == expected


def test_a_level_for_one_logger_lets_it_say_more_than_the_others():
    stream = io.StringIO()
    configure({"RUST_LOG": "warn,nativelink::stores=debug", "NL_LOG": "compact"}, stream)
    logging.getLogger("nativelink.stores.memory").debug("seen")
    logging.getLogger("nativelink.transport").info("unseen")
    assert "seen" in stream.getvalue()
    assert "unseen" not in stream.getvalue()


def test_off_silences_everything():
    assert written("x", {"RUST_LOG": "off"}) == ""


def test_a_json_line_has_nativelinks_shape():
    line = json.loads(written("disk is full", {"NL_LOG": "json"}))
    assert line["level"] == "WARN"
    assert line["target"] == "nativelink.stores.memory"
    assert line["fields"] == {"message": "disk is full"}
    assert line["timestamp"].endswith("Z")


def test_a_line_written_during_a_call_names_the_call_and_its_client():
    line = json.loads(written("slow", {"NL_LOG": "json"}, call=a_call(bazel_header())))
    assert line["fields"] == {
        "message": "slow",
        "method": "/pkg.Service/Method",
        "peer": "10.0.0.7:4242",
        "tool": "bazel/8.1.0",
        "invocation": "6f1c",
        "target": "//app:server",
        "mnemonic": "CppCompile",
    }


def test_pretty_lines_carry_the_same_fields_and_the_date():
    line = written("slow", {}, call=a_call(bazel_header()))
    assert " WARN stores.memory: slow method=/pkg.Service/Method peer=10.0.0.7:4242" in line
    assert "target=//app:server" in line
    assert line[:3] == "202"


def test_compact_lines_begin_with_the_time_of_day():
    line = written("x", {"NL_LOG": "compact"})
    assert line[2] == ":"
    assert "\x1b" not in line


def test_a_field_with_spaces_or_control_characters_stays_in_its_line():
    call = a_call(
        (HEADER, base64.b64encode(RequestMetadata(target_id="a b\nc").SerializeToString()))
    )
    assert 'target="a b\\nc"' in written("x", {}, call=call)


@pytest.mark.parametrize("format_", ["pretty", "compact"])
def test_a_message_with_what_others_chose_in_it_stays_one_line(format_: str):
    line = written("inputs were written to: a\nERROR no more\x1b[2J \x9b2J ü", {"NL_LOG": format_})
    assert line.endswith("inputs were written to: a\\nERROR no more\\x1b[2J \\x9b2J ü\n")
    assert line.count("\n") == 1


def test_a_traceback_is_part_of_the_json_line():
    stream = io.StringIO()
    configure({"NL_LOG": "json"}, stream)
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("x").exception("failed")
    line = json.loads(stream.getvalue())
    assert "KeyError: 'lost'" in line["fields"]["error"]


@pytest.mark.parametrize("padded", [True, False])
def test_request_metadata_is_read_with_and_without_padding(padded: bool):
    assert describe(a_call(bazel_header(padded=padded)))["tool"] == "bazel/8.1.0"


@pytest.mark.parametrize("value", [b"!!", b"//8", b"a"])
def test_request_metadata_that_cannot_be_read_is_passed_over(value: bytes):
    assert describe(a_call((HEADER, value))) == {}
