"""The action cache: REAPI's ActionCache."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from nativelink.core.digest import Digest, DigestFunction, digests_of, is_empty
from nativelink.core.errors import (
    Code,
    MissingBlob,
    NativeLinkError,
    invalid_argument,
    not_found,
    permission_denied,
)
from nativelink.core.rpc import CallContext, Method, Reply
from nativelink.core.streams import BytesSink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.inlining import inline_outputs, wishes_any
from nativelink.services.instances import Instances
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.services.methods import method, service
from nativelink.stores.store import Store, write_bytes

__all__ = ["MAX_RESULT_BYTES", "ActionCacheInstance", "ActionCacheService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "ActionCache")
#: A result is a list of names; one that is larger than this is none. (NativeLink's limit.)
MAX_RESULT_BYTES: Final = 10 * 1024 * 1024
_NO_RESULT: Final = "no result is cached for this action"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ActionCacheInstance:
    """One instance.

    Attributes:
        store: where its results are.
        read_only: refuse updates by clients.
        cas: where the outputs are, to be inlined on request; None if this server has no CAS of
            that name.
    """

    store: Store
    read_only: bool = False
    cas: Store | None = None


class ActionCacheService:
    """Serves the action cache of several instances.

    Args:
        instances: by name.
        default_function: the digest function of requests that name none.
        max_inlined_bytes: a result is filled up with inlined blobs to this size at most.
    """

    def __init__(
        self,
        instances: Mapping[str, ActionCacheInstance],
        *,
        default_function: DigestFunction = DigestFunction.SHA256,
        max_inlined_bytes: int = MAX_BATCH_TOTAL_SIZE_BYTES,
    ) -> None:
        self._instances = Instances("action cache", instances)
        self._default_function = default_function
        self._max_inlined_bytes = max_inlined_bytes

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "GetActionResult", self._get_action_result),
            method(_SERVICE, "UpdateActionResult", self._update_action_result),
        ]

    async def _get_action_result(
        self, request: pb.GetActionResultRequest, _context: CallContext
    ) -> Reply:
        instance = self._instances.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        digest = Digest.parse(request.action_digest.hash, request.action_digest.size_bytes)
        if is_empty(digest):
            # Stores have the empty blob always; but no action is empty: it names its command.
            raise not_found(f"no result of {digest}: an empty message is no Action")
        sink = BytesSink(MAX_RESULT_BYTES)
        try:
            await instance.store.get(digest, sink)
        except NativeLinkError as error:
            details = error.details
            if (
                error.code is Code.NOT_FOUND
                and details
                and isinstance(details[0], MissingBlob)
                and details[0].digest == digest
            ):
                # The most frequent error of a cache has a text that is always the same, so that
                # the transport need not encode it again.
                error.message, error.details = _NO_RESULT, ()
            raise
        data = sink.getvalue()
        try:
            # 0.5 us; the bytes go out as they were stored all the same.
            result = pb.ActionResult.FromString(data)
        except DecodeError:
            _log.warning(
                "the action cache of instance %r holds %d bytes under %s that are no ActionResult",
                request.instance_name,
                len(data),
                digest,
            )
            raise not_found(f"what is stored under {digest} is no ActionResult") from None
        if instance.cas is not None and wishes_any(request):
            room = self._max_inlined_bytes - len(data)
            if await inline_outputs(result, request, instance.cas, room):
                return result
        return data

    async def _update_action_result(
        self, request: pb.UpdateActionResultRequest, _context: CallContext
    ) -> Reply:
        instance = self._instances.get(request.instance_name)
        if instance.read_only:
            raise permission_denied(
                f"the action cache of instance {request.instance_name!r} is read-only here"
            )
        use_digest_function(request.digest_function, self._default_function)
        digest = Digest.parse(request.action_digest.hash, request.action_digest.size_bytes)
        if is_empty(digest):
            raise invalid_argument(f"{digest} is no digest of an Action: no Action is empty")
        if not request.HasField("action_result"):
            raise invalid_argument(f"the update of {digest} has no action_result")
        result = request.action_result
        _check_digests(result)
        data = result.SerializeToString()
        if len(data) > MAX_RESULT_BYTES:
            raise invalid_argument(
                f"the result of {digest} has {len(data)} bytes; {MAX_RESULT_BYTES} are allowed"
            )
        await write_bytes(instance.store, digest, data)
        return data


def _check_digests(result: pb.ActionResult) -> None:
    """Refuse a result that no client could use.

    An output that has no well-formed digest would make every later hit fail. Digests of stdout
    and stderr, and of directories, may be left out, or be empty messages.

    Raises:
        NativeLinkError: INVALID_ARGUMENT (REAPI v2, UpdateActionResult).
    """
    messages = [file.digest for file in result.output_files]
    for directory in result.output_directories:
        messages += (directory.tree_digest, directory.root_directory_digest)
    messages += (result.stdout_digest, result.stderr_digest)
    required = len(result.output_files)
    digests_of(
        [
            message
            for index, message in enumerate(messages)
            if index < required or message.hash or message.size_bytes
        ]
    )
