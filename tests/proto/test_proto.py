"""The generated protocol modules: what they say, and that they live apart from other libraries'."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from nativelink.proto._pool import POOL
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.proto.google.protobuf import any_pb2, duration_pb2, timestamp_pb2, wrappers_pb2
from nativelink.proto.google.rpc import code_pb2, error_details_pb2, status_pb2

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "app/nativelink/proto"
SOURCES = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
TABLES = (Path(__file__).parent / "protocol.txt").read_text(encoding="utf-8")

_SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def module_of(source: str) -> ModuleType:
    return importlib.import_module(
        "nativelink.proto." + source.removesuffix(".proto").replace("/", ".") + "_pb2"
    )


def type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            by_name = field.message_type.fields_by_name
            return f"map<{type_name(by_name['key'])}, {type_name(by_name['value'])}>"
        name = field.message_type.full_name
    elif field.enum_type is not None:
        name = field.enum_type.full_name
    else:
        name = _SCALARS[field.type]
    if field.is_repeated:
        return f"repeated {name}"
    real_oneof = field.containing_oneof is not None and not is_synthetic(field)
    explicit = field.has_presence and field.message_type is None and not real_oneof
    return f"optional {name}" if explicit else name


def is_synthetic(field: FieldDescriptor) -> bool:
    oneof = field.containing_oneof
    return oneof is not None and oneof.name == f"_{field.name}"


def enum_line(enum: EnumDescriptor, name: str) -> str:
    values = ", ".join(f"{value.name}={value.number}" for value in enum.values)
    return f"enum {name}: {values}"


def message_lines(message: Descriptor, name: str) -> Iterator[str]:
    yield f"message {name}"
    for field in message.fields:
        note = ""
        if field.containing_oneof is not None and not is_synthetic(field):
            note = f"  (oneof {field.containing_oneof.name})"
        if field.GetOptions().deprecated:
            note = "  (deprecated)"
        yield f"{field.number} {type_name(field)} {field.name}{note}"
    proto = descriptor_proto(message)
    for reserved in proto.reserved_range:
        yield f"reserved {reserved.start}..{reserved.end - 1}"
    for enum in message.enum_types:
        yield enum_line(enum, f"{name}.{enum.name}")
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from message_lines(nested, f"{name}.{nested.name}")


def descriptor_proto(message: Descriptor) -> Any:
    from google.protobuf.descriptor_pb2 import DescriptorProto

    proto = DescriptorProto()
    message.CopyToProto(proto)
    return proto


def file_lines(file: FileDescriptor) -> Iterator[str]:
    """What a file says, a line for a fact, as protocol.txt writes it."""
    for service in file.services_by_name.values():
        yield f"service {service.full_name}"
        for method in service.methods:
            request = ("stream " if method.client_streaming else "") + method.input_type.full_name
            reply = ("stream " if method.server_streaming else "") + method.output_type.full_name
            yield f"rpc {method.name} ({request}) -> ({reply})"
    for enum in file.enum_types_by_name.values():
        yield enum_line(enum, enum.name)
    for message in file.message_types_by_name.values():
        yield from message_lines(message, message.name)


def grouped(lines: Iterator[str] | list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Blocks of a header and its lines, in any order of blocks; lines of a block keep theirs."""
    blocks: list[tuple[str, list[str]]] = []
    for line in lines:
        if re.match(r"(message|enum|service) ", line):
            blocks.append((line, []))
        else:
            blocks[-1][1].append(line)
    return sorted((header, tuple(body)) for header, body in blocks)


def table_of(source: str) -> tuple[str, list[str]]:
    match = re.search(
        rf"^## {re.escape(source)}\s+\(package (\S+)\)\n(.*?)(?=^## |\Z)",
        TABLES,
        re.MULTILINE | re.DOTALL,
    )
    assert match is not None, f"protocol.txt lacks {source}"
    return match[1], [line.strip() for line in match[2].splitlines() if line.strip()]


@pytest.mark.parametrize("source", SOURCES)
def test_a_proto_file_says_what_the_protocol_table_says(source: str) -> None:
    package, lines = table_of(source)
    file = module_of(source).DESCRIPTOR
    assert file.package == package
    assert grouped(file_lines(file)) == grouped(lines)


def test_every_table_has_a_proto_file() -> None:
    assert sorted(re.findall(r"^## (\S+)", TABLES, re.MULTILINE)) == SOURCES


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (status_pb2, "google.rpc.status_pb2"),
        (error_details_pb2, "google.rpc.error_details_pb2"),
        (code_pb2, "google.rpc.code_pb2"),
    ],
)
def test_googles_own_copies_agree_with_ours(ours: ModuleType, theirs: str) -> None:
    other = importlib.import_module(theirs)
    assert other.DESCRIPTOR.pool is not POOL
    assert grouped(file_lines(ours.DESCRIPTOR)) == grouped(file_lines(other.DESCRIPTOR))


@pytest.mark.slow
@pytest.mark.parametrize("ours_first", [True, False])
def test_our_modules_and_other_libraries_load_together(ours_first: bool) -> None:
    ours = [f"import {module_of(source).__name__}" for source in SOURCES]
    theirs = [
        "import opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
        "import opentelemetry.exporter.otlp.proto.grpc.metric_exporter",
        "import google.rpc.status_pb2, google.rpc.error_details_pb2",
        "import google.longrunning.operations_proto_pb2",
        "import google.protobuf.any_pb2, google.protobuf.timestamp_pb2",
    ]
    lines = ours + theirs if ours_first else theirs + ours
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_generated_module_touches_the_default_pool() -> None:
    modules = list(PROTO.rglob("*_pb2.py*"))
    assert len(modules) >= len(SOURCES)
    for path in modules:
        text = path.read_text(encoding="utf-8")
        assert "descriptor_pool.Default" not in text
        assert not re.search(
            r"^from google\.(rpc|longrunning|bytestream|devtools)", text, re.MULTILINE
        )
        assert not re.search(r"^from google\.protobuf import \w+_pb2", text, re.MULTILINE)


def test_well_known_types_of_our_pool_keep_their_helpers() -> None:
    stamp = timestamp_pb2.Timestamp()
    stamp.GetCurrentTime()
    assert stamp.seconds > 1_700_000_000
    stamp.FromJsonString("2026-01-02T03:04:05.678Z")
    assert stamp.ToMilliseconds() == 1_767_323_045_678
    span = duration_pb2.Duration()
    span.FromTimedelta(datetime.timedelta(seconds=1, microseconds=500_000))
    assert (span.seconds, span.nanos) == (1, 500_000_000)

    packed = any_pb2.Any()
    packed.Pack(stamp)
    assert packed.type_url == "type.googleapis.com/google.protobuf.Timestamp"
    unpacked = timestamp_pb2.Timestamp()
    assert packed.Unpack(unpacked)
    assert unpacked == stamp
    assert not packed.Unpack(span)


def test_messages_take_values_of_the_well_known_types() -> None:
    metadata = reapi.ExecutedActionMetadata(
        queued_timestamp=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        virtual_execution_duration=datetime.timedelta(seconds=3),
    )
    assert metadata.virtual_execution_duration.seconds == 3
    node = reapi.NodeProperties(unix_mode=wrappers_pb2.UInt32Value(value=0o755))
    again = reapi.NodeProperties.FromString(node.SerializeToString())
    assert again.unix_mode.value == 0o755
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.PreconditionFailure())
    status = status_pb2.Status(code=9, details=[detail])
    assert status.details[0].TypeName() == "google.rpc.PreconditionFailure"


def test_generated_modules_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/generate_protos.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_module_fails_the_check_and_is_named() -> None:
    script = ROOT / "scripts/generate_protos.py"
    spec = importlib.util.spec_from_file_location("generate_protos", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = module.summary(
        {"a_pb2.py": "x = 1\n", "b_pb2.py": ""}, {"a_pb2.py": "x = 2\n", "c": ""}
    )
    assert lines == [
        "stale: a_pb2.py",
        "    @@ -1 +1 @@",
        "    -x = 1",
        "    +x = 2",
        "left over: b_pb2.py",
        "missing: c",
    ]
