"""What servers are asked: requests that are repeated, and such as nobody ever made before.

They are byte for byte the same for every server.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence

from bench.data import KIB, MIB, action_result, blob, digests
from bench.loader import Request
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.testing.reapi import REAPI, digest_of

__all__ = [
    "AC",
    "CAS",
    "READ",
    "WRITE",
    "batch_read",
    "find",
    "framed",
    "present_batch",
    "present_write",
    "read",
    "unique_batches",
    "unique_finds",
    "unique_results",
    "unique_writes",
]

#: Full paths of methods, or what stands before their names.
CAS = f"{REAPI}ContentAddressableStorage/"
AC = f"{REAPI}ActionCache/"
READ = "/google.bytestream.ByteStream/Read"
WRITE = "/google.bytestream.ByteStream/Write"


def find(wanted: Sequence[re.Digest]) -> bytes:
    return re.FindMissingBlobsRequest(blob_digests=wanted).SerializeToString()


def batch_read(size: int, count: int) -> bytes:
    return re.BatchReadBlobsRequest(digests=digests(size, count)).SerializeToString()


def read(size: int) -> bytes:
    digest = digests(size, 1)[0]
    name = f"blobs/{digest.hash}/{digest.size_bytes}"
    return bs.ReadRequest(resource_name=name).SerializeToString()


def framed(*messages: bytes) -> bytes:
    """Messages as gRPC frames them."""
    return b"".join(b"\0" + struct.pack(">I", len(message)) + message for message in messages)


def present_write(size: int) -> bytes:
    digest = digests(size, 1)[0]
    name = f"uploads/9b2b0f4c-5d0a-4d6b-8f5e-0d8f1c1d2e3f/blobs/{digest.hash}/{size}"
    data, chunk = blob(size), MIB
    return framed(
        *(
            bs.WriteRequest(
                resource_name=name if at == 0 else "",
                write_offset=at,
                data=data[at : at + chunk],
                finish_write=at + chunk >= size,
            ).SerializeToString()
            for at in range(0, size, chunk)
        )
    )


def present_batch() -> bytes:
    entry = re.BatchUpdateBlobsRequest.Request
    return re.BatchUpdateBlobsRequest(
        requests=[
            entry(digest=digests(4 * KIB, 10)[number], data=blob(4 * KIB, number))
            for number in range(10)
        ]
    ).SerializeToString()


_WRITE_CHUNK_BYTES = 64 * KIB


def unique_writes(size: int) -> Callable[[int, int], list[Request]]:
    """Uploads of blobs that differ in their first bytes; the rest is shared, not copied."""

    def make(seed: int, count: int) -> list[Request]:
        tail = memoryview(blob(size))[64:]
        made = []
        for number in range(count):
            head = b"%064d" % (seed * 10_000_000 + number)
            hasher = hashlib.sha256(head)
            hasher.update(tail)
            name = f"uploads/{seed:08x}-0000-4000-8000-{number:012x}"
            name += f"/blobs/{hasher.hexdigest()}/{size}"
            messages: list[tuple[bytes | memoryview, ...]] = []
            for at in range(0, size, _WRITE_CHUNK_BYTES):
                stop = min(at + _WRITE_CHUNK_BYTES, size)
                fields = bs.WriteRequest(
                    resource_name=name if at == 0 else "",
                    write_offset=at,
                    finish_write=stop == size,
                ).SerializeToString()
                # Field 10, length-delimited, is the last on the wire: the data follows as it is.
                fields += b"\x52" + _varint(stop - at)
                if at == 0:
                    messages.append((fields + head, tail[: stop - 64]))
                else:
                    messages.append((fields, tail[at - 64 : stop - 64]))
            made.append(Request.of(WRITE, *messages))
        return made

    return make


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def unique_batches(seed: int, count: int) -> list[Request]:
    """Uploads of ten new blobs of 4 KiB in one call."""
    entry = re.BatchUpdateBlobsRequest.Request
    tail = blob(4 * KIB)[64:]
    made = []
    for number in range(count):
        blobs = [b"%064d" % ((seed * 1_000_000 + number) * 10 + at) + tail for at in range(10)]
        message = re.BatchUpdateBlobsRequest(
            requests=[entry(digest=digest_of(data), data=data) for data in blobs]
        )
        made.append(Request.of(f"{CAS}BatchUpdateBlobs", (message.SerializeToString(),)))
    return made


def unique_results(seed: int, count: int) -> list[Request]:
    """Results of new actions."""
    made = []
    for number in range(count):
        message = re.UpdateActionResultRequest(
            action_digest=digest_of(b"action %d of %d" % (number, seed)),
            action_result=action_result(number),
        )
        made.append(Request.of(f"{AC}UpdateActionResult", (message.SerializeToString(),)))
    return made


def unique_finds(seed: int, count: int) -> list[Request]:
    """Questions for a thousand digests that nobody has, and that were never asked for before."""
    made = []
    for number in range(count):
        names = (
            hashlib.sha256(b"%d of %d, never seen %d" % (at, number, seed)).hexdigest()
            for at in range(1000)
        )
        wanted = [re.Digest(hash=name, size_bytes=1000 + at) for at, name in enumerate(names)]
        made.append(Request.of(f"{CAS}FindMissingBlobs", (find(wanted),)))
    return made
