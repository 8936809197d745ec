"""A small blocking client of remote execution over grpcio: an independent peer for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import grpc

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.proto.google.longrunning import operations_pb2
from nativelink.proto.google.protobuf import duration_pb2, empty_pb2
from nativelink.proto.google.rpc import error_details_pb2, status_pb2
from nativelink.testing.reapi import Metadata, ReapiClient, Stream, digest_of

__all__ = [
    "Blobs",
    "Execution",
    "ExecutionClient",
    "File",
    "Link",
    "Tree",
    "make_action",
    "make_tree",
    "missing_of",
    "status_of",
]

_OPERATIONS: Final = "/google.longrunning.Operations/"


@dataclass(frozen=True)
class File:
    """An input file.

    Attributes:
        data: its bytes.
        executable: whether it may be run.
        mtime: when it was modified, seconds since the epoch; None says nothing.
        mode: its permission bits; None says nothing.
    """

    data: bytes = b""
    executable: bool = False
    mtime: int | None = None
    mode: int | None = None


@dataclass(frozen=True)
class Link:
    """A symbolic link among the inputs."""

    target: str


#: Inputs by name; a mapping is a directory, bytes and text are plain files.
Tree: TypeAlias = Mapping[str, "bytes | str | File | Link | Tree"]


@dataclass
class Blobs:
    """What has to be uploaded for an action.

    Attributes:
        data: bytes by their digest's hash.
    """

    data: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> re.Digest:
        """Take a blob; its digest."""
        digest = digest_of(data)
        self.data[digest.hash] = data
        return digest


def make_tree(tree: Tree, blobs: Blobs) -> re.Digest:
    """The digest of a directory and all below it, which go into `blobs`."""
    directory = re.Directory()
    for name in sorted(tree, key=str.encode):
        node = tree[name]
        if isinstance(node, str):
            node = node.encode()
        if isinstance(node, bytes):
            node = File(node)
        if isinstance(node, Link):
            directory.symlinks.add(name=name, target=node.target)
        elif isinstance(node, File):
            entry = directory.files.add(
                name=name, digest=blobs.add(node.data), is_executable=node.executable
            )
            if node.mtime is not None:
                entry.node_properties.mtime.seconds = node.mtime
            if node.mode is not None:
                entry.node_properties.unix_mode.value = node.mode
        else:
            directory.directories.add(name=name, digest=make_tree(node, blobs))
    return blobs.add(directory.SerializeToString(deterministic=True))


def make_action(
    arguments: Sequence[str],
    blobs: Blobs,
    *,
    inputs: Tree | re.Digest | None = None,
    outputs: Sequence[str] = (),
    timeout_s: float = 0,
    do_not_cache: bool = False,
    platform: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    salt: bytes = b"",
    **command: Any,
) -> re.Digest:
    """The digest of an Action, which goes into `blobs` with all that it needs.

    Args:
        arguments: its command line.
        blobs: takes what is to be uploaded.
        inputs: its input root, or the digest of one that is in the CAS.
        outputs: output paths.
        timeout_s: seconds that it may run; 0 says nothing.
        do_not_cache: as the Action has it.
        platform: properties of the Action.
        environment: variables; PATH is set if it is not among them.
        salt: makes actions differ that are the same otherwise.
        command: further fields of the Command.
    """
    message = re.Command(arguments=arguments, output_paths=outputs, **command)
    for name, value in sorted({"PATH": "/usr/bin:/bin", **(environment or {})}.items()):
        message.environment_variables.add(name=name, value=value)
    root = inputs if isinstance(inputs, re.Digest) else make_tree(inputs or {}, blobs)
    action = re.Action(
        command_digest=blobs.add(message.SerializeToString(deterministic=True)),
        input_root_digest=root,
        do_not_cache=do_not_cache,
        salt=salt,
    )
    if timeout_s:
        action.timeout.CopyFrom(
            duration_pb2.Duration(seconds=int(timeout_s), nanos=round(timeout_s % 1 * 1e9))
        )
    for name, value in sorted((platform or {}).items()):
        action.platform.properties.add(name=name, value=value)
    return blobs.add(action.SerializeToString(deterministic=True))


class Execution:
    """An execution that is followed.

    Attributes:
        seen: every state so far.
    """

    def __init__(self, stream: Stream[operations_pb2.Operation]) -> None:
        self._stream = stream
        self.seen: list[operations_pb2.Operation] = []

    @property
    def name(self) -> str:
        """The operation's name, once the first state is there."""
        return self.seen[-1].name if self.seen else next(iter(self)).name

    def __iter__(self) -> Iterator[operations_pb2.Operation]:
        for operation in self._stream:
            self.seen.append(operation)
            yield operation

    def until(self, stage: re.ExecutionStage.Value) -> Execution:
        """Follow it until it is in this stage."""
        for operation in self:
            if self.stage_of(operation) == stage:
                return self
        raise AssertionError(f"never in stage {stage}: {self.seen}")

    def result(self) -> re.ExecuteResponse:
        """Follow it to its end; what came of it."""
        for operation in self:
            if operation.done:
                response = re.ExecuteResponse()
                assert operation.response.Unpack(response), operation
                return response
        raise AssertionError(f"it never ended: {self.seen}")

    def leave(self) -> None:
        """Follow it no longer."""
        self._stream.cancel()

    @staticmethod
    def metadata_of(operation: operations_pb2.Operation) -> re.ExecuteOperationMetadata:
        """What is said about it."""
        metadata = re.ExecuteOperationMetadata()
        assert operation.metadata.Unpack(metadata), operation
        return metadata

    @classmethod
    def stage_of(cls, operation: operations_pb2.Operation) -> re.ExecutionStage.Value:
        """How far it is."""
        return cls.metadata_of(operation).stage


class ExecutionClient(ReapiClient):
    """Executes actions; see `ReapiClient` for its arguments."""

    def upload(self, blobs: Blobs) -> None:
        """Upload what is missing."""
        digests = [re.Digest(hash=key, size_bytes=len(data)) for key, data in blobs.data.items()]
        batch: list[bytes] = []
        room = 0
        for digest in self.find_missing(digests):
            data = blobs.data[digest.hash]
            if len(data) > 1 << 20:
                self.write(data)
                continue
            if len(data) > room:
                self._upload(batch)
                batch, room = [], 2 << 20
            batch.append(data)
            room -= len(data)
        self._upload(batch)

    def _upload(self, batch: Sequence[bytes]) -> None:
        if batch:
            answers = self.batch_update(batch).responses
            assert not any(each.status.code for each in answers), answers

    def execute(
        self,
        action: re.Digest,
        *,
        skip_cache_lookup: bool = False,
        priority: int = 0,
        metadata: Metadata = (),
    ) -> Execution:
        """Execute an action."""
        request = re.ExecuteRequest(
            instance_name=self.instance,
            action_digest=action,
            skip_cache_lookup=skip_cache_lookup,
            execution_policy=re.ExecutionPolicy(priority=priority),
        )
        stream = self.server_stream(
            "Execution/Execute", request, operations_pb2.Operation, metadata=metadata
        )
        return Execution(stream)

    def wait_execution(self, name: str) -> Execution:
        """Follow an operation again."""
        request = re.WaitExecutionRequest(name=name)
        return Execution(
            self.server_stream("Execution/WaitExecution", request, operations_pb2.Operation)
        )

    def uploaded(self, *arguments: str, **action: Any) -> re.Digest:
        """An action, as `make_action` makes it, that is there with all that it needs."""
        blobs = Blobs()
        digest = make_action(arguments, blobs, **action)
        self.upload(blobs)
        return digest

    def run(self, *arguments: str, **action: Any) -> re.ExecuteResponse:
        """Upload and execute an action; what came of it."""
        return self.execute(self.uploaded(*arguments, **action)).result()

    def operation(self, name: str) -> operations_pb2.Operation:
        """An operation as it is now."""
        request = operations_pb2.GetOperationRequest(name=name)
        return self.unary(_OPERATIONS + "GetOperation", request, operations_pb2.Operation)

    def operations(self, wanted: str = "") -> list[operations_pb2.Operation]:
        """All operations that a filter lets through."""
        found: list[operations_pb2.Operation] = []
        token = ""
        while True:
            request = operations_pb2.ListOperationsRequest(
                name=self.instance, filter=wanted, page_token=token
            )
            page = self.unary(
                _OPERATIONS + "ListOperations", request, operations_pb2.ListOperationsResponse
            )
            found.extend(page.operations)
            token = page.next_page_token
            if not token:
                return found

    def cancel(self, name: str) -> None:
        """End an operation."""
        request = operations_pb2.CancelOperationRequest(name=name)
        self.unary(_OPERATIONS + "CancelOperation", request, empty_pb2.Empty)

    def stdout(self, result: re.ActionResult) -> bytes:
        """What an action printed."""
        return result.stdout_raw or self.read(result.stdout_digest)

    def stderr(self, result: re.ActionResult) -> bytes:
        """What an action complained."""
        return result.stderr_raw or self.read(result.stderr_digest)

    def outputs(self, result: re.ActionResult) -> dict[str, bytes]:
        """The output files by their paths."""
        return {each.path: self.read(each.digest) for each in result.output_files}

    def tree(self, directory: re.OutputDirectory) -> re.Tree:
        """An output directory."""
        return re.Tree.FromString(self.read(directory.tree_digest))


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The status of a failed call, with its details."""
    # grpcio's errors are calls too, which its types do not say.
    call = cast("grpc.Call", error)
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=call.code().value[0], message=call.details() or "")


def missing_of(status: status_pb2.Status) -> set[str]:
    """Subjects of all violations of a FAILED_PRECONDITION; each must say that a blob is missing."""
    failure = error_details_pb2.PreconditionFailure()
    subjects: set[str] = set()
    for detail in status.details:
        assert detail.Unpack(failure), detail
        for violation in failure.violations:
            assert violation.type == "MISSING", violation
            subjects.add(violation.subject)
    return subjects
