"""Blobs, and how a grpc store of them is asked."""

from __future__ import annotations

import random

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.retry import Retry
from nativelink.core.rpc import CallContext, MessageSource, Method
from nativelink.proto.google.bytestream import bytestream_pb2 as bs

REAPI = "/build.bazel.remote.execution.v2."
READ = "/google.bytestream.ByteStream/Read"
WRITE = "/google.bytestream.ByteStream/Write"
SHA = DigestFunction.SHA256


def blob(size: int, seed: int = 0) -> tuple[Digest, bytes]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return SHA.digest_of(data), data


SMALL, SMALL_DATA = blob(1000)
LARGE, LARGE_DATA = blob(3_000_000)


async def no_pause(_: float) -> None:
    return


def retrying(times: int = 3) -> Retry:
    return Retry(max_retries=times, sleep=no_pause)


class Names:
    """An upstream's ByteStream that notes what it is asked."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []

    async def write(self, source: MessageSource, context: CallContext) -> bs.WriteResponse:
        size = 0
        while (message := await source.read()) is not None:
            request = bs.WriteRequest.FromString(bytes(message))
            assert request.write_offset == size
            size += len(request.data)
            self.sizes.append(len(request.data))
            if request.resource_name:
                self.names.append(request.resource_name)
            if request.finish_write:
                break
        return bs.WriteResponse(committed_size=size)

    def methods(self) -> list[Method]:
        return [Method(WRITE, self.write, client_streaming=True)]
