"""What is asked: every case's requests, how its first answer is checked, what it is to reach.

Requests are made once from seeded data and are byte for byte the same for every server.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import grpc

from bench.loader import Request
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.google.bytestream import bytestream_pb2 as bs
from nativelink.testing.reapi import REAPI, ReapiClient, digest_of

__all__ = ["CASES", "Case", "Target", "WrongAnswerError", "populate"]

KIB = 1024
MIB = 1024 * 1024
_CAS = f"{REAPI}ContentAddressableStorage/"
_AC = f"{REAPI}ActionCache/"
_READ = "/google.bytestream.ByteStream/Read"
_WRITE = "/google.bytestream.ByteStream/Write"


class WrongAnswerError(Exception):
    """A server's answer is not what the case expects, so its speed means nothing."""


def _expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise WrongAnswerError(f"{what}: got {got!r:.200}, expected {wanted!r:.200}")


@dataclass(frozen=True)
class Target:
    """What a case is to reach with one of our configurations, as a multiple of casd's rate."""

    must: float
    goal: float


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: as printed.
        path: full gRPC method path.
        check: makes the call once by grpcio and raises `WrongAnswerError` if the answer is wrong.
        message: the request that h2load repeats (framed as gRPC frames it), or None if `unique`.
        answer_bytes: smallest right size of an answer's DATA, gRPC framing included.
        unique: makes the n requests of one round; sent by our own loader.
        unique_count: n in a full run.
        connections, streams: load; `connections * streams` calls in flight.
        targets: configuration -> what it is to reach.
        latency: whether p50 and p99 at 70 % of the peak rate are measured too.
    """

    name: str
    path: str
    check: Callable[[ReapiClient], None]
    message: Callable[[], bytes] | None = None
    answer_bytes: int = 0
    unique: Callable[[int, int], list[Request]] | None = None
    unique_count: int = 0
    connections: int = 4
    streams: int = 8
    targets: dict[str, Target] = field(default_factory=dict)
    latency: bool = False

    @property
    def words(self) -> str:
        """What `--only` looks into."""
        kind = "streaming" if self.path in (_READ, _WRITE) else "unary"
        return f"{self.name} {self.path} {kind}".lower()


# --- the data that every server is given ------------------------------------------------------


@cache
def blob(size: int, number: int = 0) -> bytes:
    """A blob that no compression helps with, the same in every run."""
    return random.Random(f"{size}/{number}").randbytes(size)


@cache
def digests(size: int, count: int) -> tuple[re.Digest, ...]:
    """Digests of `blob(size, 0..count-1)`."""
    return tuple(digest_of(blob(size, number)) for number in range(count))


def absent(count: int) -> list[re.Digest]:
    """Digests that nobody has."""
    names = (hashlib.sha256(b"absent %d" % number).hexdigest() for number in range(count))
    return [re.Digest(hash=name, size_bytes=1000 + at) for at, name in enumerate(names)]


ACTION = digest_of(b"an action that has a result")
NO_ACTION = digest_of(b"an action without a result")


def action_result(number: int = 0) -> re.ActionResult:
    """A compile action's result: two outputs and a line of stderr."""
    return re.ActionResult(
        output_files=[
            re.OutputFile(
                path=f"bazel-out/k8-fastbuild/bin/pkg/_objs/lib/file{number}.{kind}",
                digest=digests(4 * KIB, 10)[at],
                is_executable=True,
            )
            for at, kind in enumerate(("pic.o", "pic.d"))
        ],
        stderr_raw=b"warning: unused variable\n",
    )


def populate(client: ReapiClient) -> None:
    """Give a server what the cases read, over the protocol."""
    for size, count in ((4 * KIB, 10), (KIB, 1000)):
        for start in range(0, count, 100):
            stop = min(start + 100, count)
            answer = client.batch_update([blob(size, number) for number in range(start, stop)])
            for entry in answer.responses:
                _expect("BatchUpdateBlobs", entry.status.code, 0)
    for size in (16 * KIB, MIB, 64 * MIB):
        _expect("Write", client.write(blob(size)), size)
    client.update_action_result(ACTION, action_result())


# --- requests ---------------------------------------------------------------------------------


def _find(wanted: Sequence[re.Digest]) -> bytes:
    return re.FindMissingBlobsRequest(blob_digests=wanted).SerializeToString()


def _batch_read(size: int, count: int) -> bytes:
    return re.BatchReadBlobsRequest(digests=digests(size, count)).SerializeToString()


def _read(size: int) -> bytes:
    digest = digests(size, 1)[0]
    name = f"blobs/{digest.hash}/{digest.size_bytes}"
    return bs.ReadRequest(resource_name=name).SerializeToString()


def framed(*messages: bytes) -> bytes:
    """Messages as gRPC frames them."""
    return b"".join(b"\0" + struct.pack(">I", len(message)) + message for message in messages)


def _present_write(size: int) -> bytes:
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


def _present_batch() -> bytes:
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
            made.append(Request.of(_WRITE, *messages))
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
        made.append(Request.of(f"{_CAS}BatchUpdateBlobs", (message.SerializeToString(),)))
    return made


def unique_results(seed: int, count: int) -> list[Request]:
    """Results of new actions."""
    made = []
    for number in range(count):
        message = re.UpdateActionResultRequest(
            action_digest=digest_of(b"action %d of %d" % (number, seed)),
            action_result=action_result(number),
        )
        made.append(Request.of(f"{_AC}UpdateActionResult", (message.SerializeToString(),)))
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
        made.append(Request.of(f"{_CAS}FindMissingBlobs", (_find(wanted),)))
    return made


# --- checks -----------------------------------------------------------------------------------


def _check_find(wanted: Sequence[re.Digest], missing: int) -> Callable[[ReapiClient], None]:
    return lambda client: _expect("missing", len(client.find_missing(wanted)), missing)


def _check_batch_read(size: int, count: int) -> Callable[[ReapiClient], None]:
    def check(client: ReapiClient) -> None:
        answer = client.batch_read(digests(size, count))
        got = {entry.digest.hash: entry.data for entry in answer.responses}
        wanted = {digests(size, count)[n].hash: blob(size, n) for n in range(count)}
        _expect("blobs", got, wanted)

    return check


def _check_read(size: int) -> Callable[[ReapiClient], None]:
    def check(client: ReapiClient) -> None:
        data = client.read(digests(size, 1)[0])
        _expect("SHA-256 of the data", digest_of(data), digests(size, 1)[0])

    return check


def _check_hit(client: ReapiClient) -> None:
    _expect("outputs", len(client.get_action_result(ACTION).output_files), 2)


def _check_miss(client: ReapiClient) -> None:
    try:
        client.get_action_result(NO_ACTION)
    except grpc.RpcError as error:
        _expect("status", error.code(), grpc.StatusCode.NOT_FOUND)
    else:
        raise WrongAnswerError("a result for an action that has none")


def _check_capabilities(client: ReapiClient) -> None:
    functions = client.capabilities().cache_capabilities.digest_functions
    _expect("SHA-256 among digest functions", re.DigestFunction.SHA256 in functions, True)


def _check_write(size: int) -> Callable[[ReapiClient], None]:
    def check(client: ReapiClient) -> None:
        _expect("committed size", client.write(blob(size)), size)
        _expect("missing after the write", client.find_missing(digests(size, 1)), [])

    return check


def _check_batch_update(client: ReapiClient) -> None:
    answer = client.batch_update([blob(4 * KIB, number) for number in range(10)])
    _expect("statuses", [entry.status.code for entry in answer.responses], [0] * 10)
    _expect("missing after the upload", client.find_missing(digests(4 * KIB, 10)), [])


def _check_update(client: ReapiClient) -> None:
    client.update_action_result(ACTION, action_result())
    _check_hit(client)


# --- the table --------------------------------------------------------------------------------


def _everywhere(must: float, goal: float) -> dict[str, Target]:
    """Rows for which the goal names no store: judged on what `make run` serves."""
    return {"composed": Target(must, goal)}


def _read_case(
    name: str, size: int, must: float, goal: float, connections: int, streams: int
) -> Case:
    return Case(
        name,
        _READ,
        _check_read(size),
        lambda: framed(_read(size)),
        answer_bytes=size,
        connections=connections,
        streams=streams,
        targets=_everywhere(must, goal),
        latency=size == 16 * KIB,
    )


def _batch_read_case(size: int, count: int) -> Case:
    return Case(
        f"BatchReadBlobs {count:,} x {size // KIB} KiB",
        f"{_CAS}BatchReadBlobs",
        _check_batch_read(size, count),
        lambda: framed(_batch_read(size, count)),
        answer_bytes=size * count,
        targets={"memory": Target(2.5, 4), "filesystem": Target(1, 2)},
        latency=count == 10,
    )


def _find_case(
    name: str, wanted: Sequence[re.Digest], missing: int, must: float, goal: float
) -> Case:
    return Case(
        f"FindMissingBlobs {name}",
        f"{_CAS}FindMissingBlobs",
        _check_find(wanted, missing),
        lambda: framed(_find(wanted)),
        answer_bytes=5 + missing * 69,
        targets=_everywhere(must, goal),
        latency=len(wanted) == 100,
    )


def _unique_write_case(
    name: str, size: int, count: int, streams: int, must: float, goal: float
) -> Case:
    return Case(
        f"Write {name}, unique",
        _WRITE,
        _check_write(size),
        unique=unique_writes(size),
        unique_count=count,
        streams=streams,
        targets={"filesystem": Target(must, goal)},
    )


def _cases() -> list[Case]:
    thousand = digests(KIB, 1000)
    return [
        Case(
            "GetCapabilities",
            f"{REAPI}Capabilities/GetCapabilities",
            _check_capabilities,
            lambda: framed(b""),
            answer_bytes=5,
            targets=_everywhere(2, 5),
            latency=True,
        ),
        Case(
            "GetActionResult hit",
            f"{_AC}GetActionResult",
            _check_hit,
            lambda: framed(re.GetActionResultRequest(action_digest=ACTION).SerializeToString()),
            answer_bytes=5 + action_result().ByteSize(),
            targets=_everywhere(2, 5),
            latency=True,
        ),
        Case(
            "GetActionResult miss",
            f"{_AC}GetActionResult",
            _check_miss,
            lambda: framed(re.GetActionResultRequest(action_digest=NO_ACTION).SerializeToString()),
            targets=_everywhere(2.5, 6),
        ),
        _find_case("1 present", thousand[:1], 0, 2.5, 6),
        _find_case("100 present", thousand[:100], 0, 3, 6),
        _find_case("1,000 present", thousand, 0, 3, 6),
        _find_case("1,000 absent", absent(1000), 1000, 5, 8),
        Case(
            "FindMissingBlobs 1,000 never seen",
            f"{_CAS}FindMissingBlobs",
            _check_find(absent(1000), 1000),
            unique=unique_finds,
            unique_count=1500,
            targets=_everywhere(5, 8),
        ),
        _batch_read_case(4 * KIB, 10),
        _batch_read_case(KIB, 100),
        _read_case("Read 16 KiB", 16 * KIB, 1.5, 2, 4, 8),
        _read_case("Read 1 MiB", MIB, 0.9, 1.2, 4, 2),
        _read_case("Read 64 MiB", 64 * MIB, 3, 4, 1, 2),
        _unique_write_case("16 KiB", 16 * KIB, 6000, 8, 0.5, 1),
        # Few: disks of rented machines write some gigabytes fast, and then at a fifth of the speed.
        _unique_write_case("1 MiB", MIB, 128, 2, 0.8, 1.2),
        Case(
            "UpdateActionResult, unique",
            f"{_AC}UpdateActionResult",
            _check_update,
            unique=unique_results,
            unique_count=8000,
            targets={"filesystem": Target(1, 2)},
        ),
        Case(
            "BatchUpdateBlobs 10 x 4 KiB, unique",
            f"{_CAS}BatchUpdateBlobs",
            _check_batch_update,
            unique=unique_batches,
            unique_count=1500,
            streams=2,
            targets={"filesystem": Target(0.5, 1)},
        ),
        Case(
            "UpdateActionResult, same key",
            f"{_AC}UpdateActionResult",
            _check_update,
            lambda: framed(
                re.UpdateActionResultRequest(
                    action_digest=ACTION, action_result=action_result()
                ).SerializeToString()
            ),
            answer_bytes=5 + action_result().ByteSize(),
        ),
        Case(
            "BatchUpdateBlobs 10 x 4 KiB, present",
            f"{_CAS}BatchUpdateBlobs",
            _check_batch_update,
            lambda: framed(_present_batch()),
            answer_bytes=5,
        ),
        Case(
            "Write 16 KiB, present",
            _WRITE,
            _check_write(16 * KIB),
            lambda: _present_write(16 * KIB),
            answer_bytes=5,
        ),
        Case(
            "Write 64 MiB, present",
            _WRITE,
            _check_write(64 * MIB),
            lambda: _present_write(64 * MIB),
            answer_bytes=5,
            connections=1,
            streams=2,
        ),
    ]


CASES: list[Case] = _cases()
