"""Limits of messages, in bytes."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_BATCH_TOTAL_SIZE_BYTES", "MAX_MESSAGE_BYTES"]

#: What gRPC clients take in one message unless they are told otherwise (grpc-java, grpc-go and
#: grpc core agree on 4 MiB), and `max_decoding_message_size` of a listener by default.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

#: The blobs of one batch. The rest of a message is for the names: an entry's digest, tags and
#: lengths take up to 90 bytes, so 64 KiB are room for 728 blobs. (bazel-remote and Buildbarn
#: advertise 4 MiB and less a little; NativeLink 64 KiB.)
MAX_BATCH_TOTAL_SIZE_BYTES: Final = MAX_MESSAGE_BYTES - 64 * 1024
