"""The table: every case's requests, how its first answer is checked, what it is to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from bench.answers import WrongAnswerError, expect
from bench.data import ACTION, KIB, MIB, NO_ACTION, absent, action_result, blob, digests
from bench.loader import Request
from bench.requests import (
    AC,
    CAS,
    READ,
    WRITE,
    batch_read,
    find,
    framed,
    present_batch,
    present_write,
    read,
    unique_batches,
    unique_finds,
    unique_results,
    unique_writes,
)
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.reapi import REAPI, ReapiClient, digest_of

__all__ = ["CASES", "Case", "Target"]


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
        kind = "streaming" if self.path in (READ, WRITE) else "unary"
        return f"{self.name} {self.path} {kind}".lower()


def _check_find(wanted: Sequence[re.Digest], missing: int) -> Callable[[ReapiClient], None]:
    return lambda client: expect("missing", len(client.find_missing(wanted)), missing)


def _check_batch_read(size: int, count: int) -> Callable[[ReapiClient], None]:
    def check(client: ReapiClient) -> None:
        answer = client.batch_read(digests(size, count))
        got = {entry.digest.hash: entry.data for entry in answer.responses}
        wanted = {digests(size, count)[n].hash: blob(size, n) for n in range(count)}
        expect("blobs", got, wanted)

    return check


def _check_read(size: int) -> Callable[[ReapiClient], None]:
    def check(client: ReapiClient) -> None:
        data = client.read(digests(size, 1)[0])
        expect("SHA-256 of the data", digest_of(data), digests(size, 1)[0])

    return check


def _check_hit(client: ReapiClient) -> None:
    expect("outputs", len(client.get_action_result(ACTION).output_files), 2)


def _check_miss(client: ReapiClient) -> None:
    try:
        client.get_action_result(NO_ACTION)
    except grpc.RpcError as error:
        expect("status", error.code(), grpc.StatusCode.NOT_FOUND)
    else:
        raise WrongAnswerError("a result for an action that has none")


def _check_capabilities(client: ReapiClient) -> None:
    functions = client.capabilities().cache_capabilities.digest_functions
    expect("SHA-256 among digest functions", re.DigestFunction.SHA256 in functions, True)


def _check_write(size: int) -> Callable[[ReapiClient], None]:
    def check(client: ReapiClient) -> None:
        expect("committed size", client.write(blob(size)), size)
        expect("missing after the write", client.find_missing(digests(size, 1)), [])

    return check


def _check_batch_update(client: ReapiClient) -> None:
    answer = client.batch_update([blob(4 * KIB, number) for number in range(10)])
    expect("statuses", [entry.status.code for entry in answer.responses], [0] * 10)
    expect("missing after the upload", client.find_missing(digests(4 * KIB, 10)), [])


def _check_update(client: ReapiClient) -> None:
    client.update_action_result(ACTION, action_result())
    _check_hit(client)


def _everywhere(must: float, goal: float) -> dict[str, Target]:
    """Rows for which the goal names no store: judged on what `make run` serves."""
    return {"composed": Target(must, goal)}


def _read_case(
    name: str, size: int, must: float, goal: float, connections: int, streams: int
) -> Case:
    return Case(
        name,
        READ,
        _check_read(size),
        lambda: framed(read(size)),
        answer_bytes=size,
        connections=connections,
        streams=streams,
        targets=_everywhere(must, goal),
        latency=size == 16 * KIB,
    )


def _batch_read_case(size: int, count: int) -> Case:
    return Case(
        f"BatchReadBlobs {count:,} x {size // KIB} KiB",
        f"{CAS}BatchReadBlobs",
        _check_batch_read(size, count),
        lambda: framed(batch_read(size, count)),
        answer_bytes=size * count,
        targets={"memory": Target(2.5, 4), "filesystem": Target(1, 2)},
        latency=count == 10,
    )


def _find_case(
    name: str, wanted: Sequence[re.Digest], missing: int, must: float, goal: float
) -> Case:
    return Case(
        f"FindMissingBlobs {name}",
        f"{CAS}FindMissingBlobs",
        _check_find(wanted, missing),
        lambda: framed(find(wanted)),
        answer_bytes=5 + missing * 69,
        targets=_everywhere(must, goal),
        latency=len(wanted) == 100,
    )


def _unique_write_case(
    name: str, size: int, count: int, streams: int, must: float, goal: float
) -> Case:
    return Case(
        f"Write {name}, unique",
        WRITE,
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
            f"{AC}GetActionResult",
            _check_hit,
            lambda: framed(re.GetActionResultRequest(action_digest=ACTION).SerializeToString()),
            answer_bytes=5 + action_result().ByteSize(),
            targets=_everywhere(2, 5),
            latency=True,
        ),
        Case(
            "GetActionResult miss",
            f"{AC}GetActionResult",
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
            f"{CAS}FindMissingBlobs",
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
            f"{AC}UpdateActionResult",
            _check_update,
            unique=unique_results,
            unique_count=8000,
            targets={"filesystem": Target(1, 2)},
        ),
        Case(
            "BatchUpdateBlobs 10 x 4 KiB, unique",
            f"{CAS}BatchUpdateBlobs",
            _check_batch_update,
            unique=unique_batches,
            unique_count=1500,
            streams=2,
            targets={"filesystem": Target(0.5, 1)},
        ),
        Case(
            "UpdateActionResult, same key",
            f"{AC}UpdateActionResult",
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
            f"{CAS}BatchUpdateBlobs",
            _check_batch_update,
            lambda: framed(present_batch()),
            answer_bytes=5,
        ),
        Case(
            "Write 16 KiB, present",
            WRITE,
            _check_write(16 * KIB),
            lambda: present_write(16 * KIB),
            answer_bytes=5,
        ),
        Case(
            "Write 64 MiB, present",
            WRITE,
            _check_write(64 * MIB),
            lambda: present_write(64 * MIB),
            answer_bytes=5,
            connections=1,
            streams=2,
        ),
    ]


CASES: list[Case] = _cases()
