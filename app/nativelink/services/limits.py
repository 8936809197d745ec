"""Limits of messages, in bytes."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BATCH_ENTRY_BYTES",
    "MAX_BATCH_ENTRIES",
    "MAX_BATCH_REQUEST_BYTES",
    "MAX_BATCH_TOTAL_SIZE_BYTES",
    "MAX_MESSAGE_BYTES",
]

#: What gRPC clients take in one message unless they are told otherwise (grpc-java, grpc-go and
#: grpc core agree on 4 MiB), and `max_decoding_message_size` of a listener by default.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

#: The blobs of one batch. The rest of a message is for the names: 64 KiB are room for 585 blobs.
#: (bazel-remote and Buildbarn advertise 4 MiB and less a little; NativeLink 64 KiB.)
MAX_BATCH_TOTAL_SIZE_BYTES: Final = MAX_MESSAGE_BYTES - 64 * 1024

#: An entry of a batch without its blob: hash and size (66 + 11), tags and lengths (12), and in an
#: answer a status with its code (4).
BATCH_ENTRY_BYTES: Final = 112

#: So many entries have an answer that clients take, even if all of them are errors: 3.5 MiB. (The
#: Go SDK of the API's authors sends 4,000 at most.)
MAX_BATCH_ENTRIES: Final = 32_768

#: Clients that only count the blobs of a batch, as they may, send more than `MAX_MESSAGE_BYTES`
#: if the blobs are many and small; so a batch may be as large as blobs and names together.
MAX_BATCH_REQUEST_BYTES: Final = 2 * MAX_MESSAGE_BYTES
