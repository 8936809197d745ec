"""A server that does nothing but answer: it shows how much load the loader itself can make.

`python -m bench.null_server` prints its port. Whatever arrives, every finished request gets an
empty gRPC message and status 0; nothing is decoded, stored or checked.
"""

from __future__ import annotations

import asyncio
import struct
from typing import cast

import uvloop
from hpack import Encoder

_FRAME = struct.Struct(">IBI")
_U32 = struct.Struct(">I")
_PREFACE_BYTES = 24


def _block(headers: dict[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(list(headers.items()))


_START = _block({":status": "200", "content-type": "application/grpc"})
_END = _block({"grpc-status": "0"})
_MESSAGE = b"\x00" * 5


class _Null(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.inbox = b""
        self.greeted = False
        self.received = 0
        settings = struct.pack(">HIHI", 3, 1000, 4, (1 << 31) - 1)
        self.transport.write(_FRAME.pack(len(settings) << 8 | 4, 0, 0) + settings)
        self.transport.write(_FRAME.pack(4 << 8 | 8, 0, 0) + _U32.pack(1 << 30))

    def data_received(self, data: bytes) -> None:
        buffer = self.inbox + data if self.inbox else data
        at, end = (0 if self.greeted else _PREFACE_BYTES), len(buffer)
        if end < at:
            self.inbox = buffer
            return
        self.greeted = True
        out: list[bytes] = []
        while end - at >= 9:
            head, flags, number = _FRAME.unpack_from(buffer, at)
            stop = at + 9 + (head >> 8)
            if stop > end:
                break
            at = stop
            kind = head & 255
            if kind == 0:
                self.received += head >> 8
                if flags & 1:
                    out.append(_FRAME.pack(len(_START) << 8 | 1, 4, number) + _START)
                    out.append(_FRAME.pack(len(_MESSAGE) << 8, 0, number) + _MESSAGE)
                    out.append(_FRAME.pack(len(_END) << 8 | 1, 5, number) + _END)
            elif kind == 4 and not flags & 1:
                out.append(_FRAME.pack(4, 1, 0))
        self.inbox = buffer[at:]
        if self.received > 1 << 28:
            out.append(_FRAME.pack(4 << 8 | 8, 0, 0) + _U32.pack(self.received))
            self.received = 0
        if out:
            self.transport.write(b"".join(out))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Null, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
