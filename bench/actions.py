"""Actions for the benchmark of execution: made, put into the CAS, and their results checked."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.answers import WrongAnswerError
from bench.loader import Request
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.testing.reapi import REAPI, ReapiClient, digest_of

__all__ = ["Actions", "check", "check_stored", "nothing_actions", "output_actions", "shared_inputs"]

_EXECUTE = f"{REAPI}Execution/Execute"
_HEAD = struct.Struct(">BI")
_BATCH = 1000


@dataclass
class Actions:
    """Actions that differ from each other.

    Attributes:
        requests: one ExecuteRequest for each.
        blobs: what the CAS must have before they are sent.
        outputs: every output file that they make, by its content.
    """

    requests: list[Request]
    blobs: list[bytes]
    outputs: set[bytes]

    def upload(self, client: ReapiClient) -> None:
        """Put everything that they need into the CAS."""
        for at in range(0, len(self.blobs), _BATCH):
            client.batch_update(self.blobs[at : at + _BATCH])


def nothing_actions(seed: int, count: int) -> Actions:
    """`/bin/true` with an argument that nobody looks at; no inputs, no outputs."""
    empty = re.Directory().SerializeToString()
    actions = Actions([], [empty], set())
    for number in range(count):
        command = re.Command(arguments=["/bin/true", f"{seed}-{number}"])
        _add(actions, command, digest_of(empty))
    return actions


#: What an action does that has three outputs: a shell, so that it is as cheap as can be.
_SCRIPT = "echo {0}a >a; echo {0}b >b; echo {0}c >c"


def output_actions(seed: int, count: int, root: re.Digest) -> Actions:
    """Actions that make three files of their own, all with the same input tree."""
    actions = Actions([], [], set())
    for number in range(count):
        mark = f"{seed}-{number}-"
        command = re.Command(
            arguments=["/bin/sh", "-c", _SCRIPT.format(mark)], output_paths=["a", "b", "c"]
        )
        _add(actions, command, root)
        actions.outputs.update(f"{mark}{name}\n".encode() for name in "abc")
    return actions


def shared_inputs(files: int, directories: int = 10) -> tuple[re.Digest, list[bytes]]:
    """An input tree of small files: its root, and all of its blobs."""
    blobs: list[bytes] = []
    root = re.Directory()
    for place in range(directories):
        directory = re.Directory()
        for number in range(files // directories):
            data = f"input {place} {number}\n".encode() * 20
            blobs.append(data)
            directory.files.add(name=f"input_{number:04}.h", digest=digest_of(data))
        blobs.append(directory.SerializeToString())
        root.directories.add(name=f"include_{place:02}", digest=digest_of(blobs[-1]))
    blobs.append(root.SerializeToString())
    return digest_of(blobs[-1]), blobs


def _add(actions: Actions, command: re.Command, root: re.Digest) -> None:
    actions.blobs.append(command.SerializeToString())
    action = re.Action(command_digest=digest_of(actions.blobs[-1]), input_root_digest=root)
    actions.blobs.append(action.SerializeToString())
    request = re.ExecuteRequest(action_digest=digest_of(actions.blobs[-1]))
    actions.requests.append(Request.of(_EXECUTE, (request.SerializeToString(),)))


def check(answers: Sequence[bytes], actions: Actions) -> None:
    """Every action was executed, once, successfully, and made what it should.

    Raises:
        WrongAnswerError: if not.
    """
    if len(answers) != len(actions.requests):
        raise WrongAnswerError(f"{len(answers)} answers to {len(actions.requests)} requests")
    made: list[tuple[str, int]] = []
    for answer in answers:
        operation = operations_pb2.Operation.FromString(list(_messages(answer))[-1])
        response = re.ExecuteResponse()
        if not (operation.done and operation.response.Unpack(response)):
            raise WrongAnswerError(f"an operation ended without a response: {operation}")
        if response.status.code or response.result.exit_code or response.cached_result:
            raise WrongAnswerError(f"an action was not executed as it should be: {response}")
        made += [_key(file.digest) for file in response.result.output_files]
    if sorted(made) != sorted(_key(digest_of(output)) for output in actions.outputs):
        raise WrongAnswerError(f"{len(made)} outputs, or wrong ones, of {len(actions.outputs)}")


def check_stored(client: ReapiClient, outputs: Iterable[bytes]) -> None:
    """The CAS has these outputs.

    Raises:
        WrongAnswerError: if not.
    """
    for output in outputs:
        (stored,) = client.batch_read([digest_of(output)]).responses
        if stored.data != output:
            raise WrongAnswerError(f"{output!r} is not in the CAS: {stored}")


def _key(digest: re.Digest) -> tuple[str, int]:
    return digest.hash, digest.size_bytes


def _messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        _, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield data[at : at + size]
        at += size
