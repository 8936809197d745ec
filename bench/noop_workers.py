"""Workers that execute nothing: `python -m bench.noop_workers PORT COUNT`.

Every worker has a connection of its own and takes one action at a time, which it answers at once
with a result made beforehand. Raw HTTP/2 in one thread, so that the scheduler is what is measured.
Prints a line when all of them have joined; ends when its stdin does.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys

from hpack import Encoder

from bench.loader import FRAME_BYTES
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as api,
)
from nativelink.testing.reapi import digest_of

_PATH = "/com.github.trace_machina.nativelink.remote_execution.WorkerApi/ConnectWorker"
_FRAME = struct.Struct(">IBI")
_HEAD = struct.Struct(">BI")
_U32 = struct.Struct(">I")
_WINDOW_BYTES = 1 << 30
_STREAM = 1


def _response() -> re.ExecuteResponse:
    """What every action results in: all that a real worker says."""
    response = re.ExecuteResponse()
    result = response.result
    result.stdout_digest.CopyFrom(digest_of(b""))
    result.stderr_digest.CopyFrom(digest_of(b""))
    metadata = result.execution_metadata
    metadata.worker = "noop"
    for field in metadata.DESCRIPTOR.fields:
        if field.name.endswith("_timestamp"):
            getattr(metadata, field.name).seconds = 1_700_000_000
    return response


class _Worker:
    """One connection, one call, one action at a time."""

    def __init__(self, port: int) -> None:
        self.joined = False
        self._update = api.UpdateForScheduler()
        self._update.execute_result.execute_response.CopyFrom(_response())
        self._inbox = b""
        self._message = b""
        self._windows = {0: 65535, _STREAM: 65535}
        self._initial_window = 65535
        self._waiting: list[bytes] = []
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", 1, 0, 4, _WINDOW_BYTES)
        encoder = Encoder()
        encoder.header_table_size = 0
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": _PATH,
            ":authority": f"127.0.0.1:{port}",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = encoder.encode(list(headers.items()), huffman=False)
        hello = api.UpdateForScheduler(
            connect_worker_request=api.ConnectWorkerRequest(
                worker_id_prefix="noop", max_inflight_tasks=1
            )
        )
        self.sock.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _FRAME.pack(len(settings) << 8 | 4, 0, 0)
            + settings
            + _FRAME.pack(4 << 8 | 8, 0, 0)
            + _U32.pack(_WINDOW_BYTES)
            + _FRAME.pack(len(block) << 8 | 1, 4, _STREAM)
            + block
        )
        self._send(hello.SerializeToString())

    def receive(self) -> None:
        """Take frames, and answer orders."""
        received = self.sock.recv(65536)
        if not received:
            raise SystemExit("the scheduler closed a connection")
        buffer = self._inbox + received
        at = 0
        while len(buffer) - at >= _FRAME.size:
            head, flags, number = _FRAME.unpack_from(buffer, at)
            start = at + _FRAME.size
            stop = start + (head >> 8)
            if stop > len(buffer):
                break
            at = stop
            self._frame(head & 255, flags, number, buffer[start:stop])
        self._inbox = buffer[at:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == 0:
            self._message += payload
            self._messages()
        elif kind == 8:
            self._windows[number] += _U32.unpack(payload)[0]
            waiting, self._waiting = self._waiting, []
            for message in waiting:
                self._send(message)
        elif kind == 4 and not flags & 1:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 4:
                    self._windows[_STREAM] += value - self._initial_window
                    self._initial_window = value
            self.sock.sendall(_FRAME.pack(4, 1, 0))
        elif kind == 6 and not flags & 1:
            self.sock.sendall(_FRAME.pack(8 << 8 | 6, 1, 0) + payload)
        elif kind in (3, 7) or (kind == 1 and flags & 1):
            raise SystemExit(f"the scheduler ended a call: frame {kind} {payload!r}")

    def _messages(self) -> None:
        while len(self._message) >= _HEAD.size:
            _, size = _HEAD.unpack_from(self._message)
            end = _HEAD.size + size
            if len(self._message) < end:
                return
            order = api.UpdateForWorker.FromString(self._message[_HEAD.size : end])
            self._message = self._message[end:]
            if order.HasField("start_action"):
                self._update.execute_result.operation_id = order.start_action.operation_id
                self._send(self._update.SerializeToString())
            elif order.HasField("connection_result"):
                self.joined = True

    def _send(self, message: bytes) -> None:
        size = _HEAD.size + len(message)
        assert size <= FRAME_BYTES
        if size > min(self._windows.values()):
            self._waiting.append(message)
            return
        for number in self._windows:
            self._windows[number] -= size
        self.sock.sendall(
            _FRAME.pack(size << 8, 0, _STREAM) + _HEAD.pack(0, len(message)) + message
        )


def main(port: int, count: int) -> None:
    """Work until stdin ends."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    workers = [_Worker(port) for _ in range(count)]
    for worker in workers:
        selector.register(worker.sock, selectors.EVENT_READ, worker)
    told = False
    while True:
        for key, _ in selector.select():
            if key.data is None:
                return
            key.data.receive()
        if not told and all(worker.joined for worker in workers):
            told = True
            print("ready", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
