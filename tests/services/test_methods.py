from __future__ import annotations

import pytest

from nativelink.core.rpc import Method
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.proto.google.bytestream import bytestream_pb2
from nativelink.services.methods import method, service


async def handler(*_: object) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("of", "name", "client_streaming", "server_streaming"),
    [
        (service(reapi.DESCRIPTOR, "Capabilities"), "GetCapabilities", False, False),
        (service(reapi.DESCRIPTOR, "Execution"), "Execute", False, True),
        (service(bytestream_pb2.DESCRIPTOR, "ByteStream"), "Write", True, False),
        (service(bytestream_pb2.DESCRIPTOR, "ByteStream"), "Read", False, True),
    ],
)
def test_a_method_is_what_its_descriptor_says(
    of: object, name: str, client_streaming: bool, server_streaming: bool
) -> None:
    made = method(of, name, handler)
    assert made == Method(
        f"/{of.full_name}/{name}",
        handler,
        made.parse,
        client_streaming,
        server_streaming,
    )


def test_a_request_is_parsed_by_its_message() -> None:
    made = method(service(reapi.DESCRIPTOR, "Capabilities"), "GetCapabilities", handler)
    request = reapi.GetCapabilitiesRequest(instance_name="i")
    assert made.parse(request.SerializeToString()) == request


def test_streamed_requests_stay_bytes() -> None:
    made = method(service(bytestream_pb2.DESCRIPTOR, "ByteStream"), "Write", handler)
    assert made.parse(b"abc") == b"abc"


def test_a_misspelt_method_is_noticed() -> None:
    with pytest.raises(KeyError):
        method(service(reapi.DESCRIPTOR, "Capabilities"), "GetCapabilitys", handler)
