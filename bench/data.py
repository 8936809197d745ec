"""The data that every server is given: made from seeds, the same in every run."""

from __future__ import annotations

import hashlib
import random
from functools import cache

from bench.answers import expect
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.reapi import ReapiClient, digest_of

__all__ = [
    "ACTION",
    "KIB",
    "MIB",
    "NO_ACTION",
    "absent",
    "action_result",
    "blob",
    "digests",
    "populate",
]

KIB = 1024
MIB = 1024 * 1024


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
                expect("BatchUpdateBlobs", entry.status.code, 0)
    for size in (16 * KIB, MIB, 64 * MIB):
        expect("Write", client.write(blob(size)), size)
    client.update_action_result(ACTION, action_result())
