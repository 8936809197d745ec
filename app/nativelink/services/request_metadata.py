"""What a client says about itself: REAPI's RequestMetadata, read when somebody asks."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.rpc import CallContext
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import RequestMetadata
from nativelink.scheduler.action import Origin

__all__ = ["HEADER", "decoded_header", "describe", "metadata_of", "request_metadata"]

#: REAPI v2, message RequestMetadata: the header's name is prescribed.
HEADER: Final = b"build.bazel.remote.execution.v2.requestmetadata-bin"


def request_metadata(call: CallContext) -> RequestMetadata | None:
    """The call's RequestMetadata; None if there is none, or none that can be read."""
    encoded = call.header(HEADER)
    if encoded is None:
        return None
    data = decoded_header(encoded)
    if data is None:
        return None
    try:
        return RequestMetadata.FromString(data)
    except DecodeError:
        return None


def decoded_header(encoded: bytes) -> bytes | None:
    """The value of a binary header as it was sent, None if that was no base64."""
    try:
        # gRPC sends binary headers without padding, and allows it (gRPC over HTTP/2).
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return None


def metadata_of(origin: Origin) -> RequestMetadata:
    """What is known of who asks, as a message."""
    return RequestMetadata(
        tool_invocation_id=origin.tool_invocation_id,
        target_id=origin.target_id,
        action_mnemonic=origin.action_mnemonic,
    )


def describe(call: CallContext) -> dict[str, str]:
    """The fields that were sent, under the names that logs and traces use."""
    metadata = request_metadata(call)
    if metadata is None:
        return {}
    tool = metadata.tool_details
    fields = {
        "tool": f"{tool.tool_name}/{tool.tool_version}" if tool.tool_version else tool.tool_name,
        "invocation": metadata.tool_invocation_id,
        "build": metadata.correlated_invocations_id,
        "action": metadata.action_id,
        "mnemonic": metadata.action_mnemonic,
        "target": metadata.target_id,
        "configuration": metadata.configuration_id,
    }
    return {name: value for name, value in fields.items() if value}
