"""What becomes of a finished action's result: the action cache, the history, the message."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as worker_pb,
)
from nativelink.stores.store import Store, write_bytes

__all__ = ["Publication", "Publisher", "UploadStrategy"]

_log: Final = logging.getLogger(__name__)


class UploadStrategy(Enum):
    """Which results are kept."""

    SUCCESS_ONLY = "success_only"
    NEVER = "never"
    EVERYTHING = "everything"
    FAILURES_ONLY = "failures_only"

    def wants(self, *, success: bool) -> bool:
        """Whether a result is kept."""
        match self:
            case UploadStrategy.SUCCESS_ONLY:
                return success
            case UploadStrategy.FAILURES_ONLY:
                return not success
            case UploadStrategy.EVERYTHING:
                return True
            case UploadStrategy.NEVER:
                return False


@dataclass(frozen=True, slots=True)
class Publication:
    """Where results go.

    Attributes:
        action_cache: None where results are not cached.
        action_cache_strategy: which go there.
        history: content-addressable storage for results that people look at later.
        history_strategy: which go there.
        success_message: template of the message to the client with a success; empty for none.
        failure_message: the same with anything else.
    """

    action_cache: Store | None
    action_cache_strategy: UploadStrategy
    history: Store
    history_strategy: UploadStrategy
    success_message: str = ""
    failure_message: str = ""


class Publisher:
    """Publishes results. What cannot be published is logged: the client has its result anyway."""

    def __init__(self, publication: Publication) -> None:
        self._to = publication

    async def publish(
        self,
        action_digest: Digest,
        function: DigestFunction,
        response: pb.ExecuteResponse,
        *,
        cacheable: bool,
    ) -> None:
        """Write the result where it belongs and add to `response.message`.

        Args:
            action_digest: of the action.
            function: of the request.
            response: complete but for what the templates say.
            cacheable: False for an action that must not be cached, or whose inputs changed while
                it ran.
        """
        # A status that is not OK is no success, whatever the exit code says (a time-out that
        # the action reported through its side channel exits with 0).
        success = response.result.exit_code == 0 and response.status.code == Code.OK
        cache = self._to.action_cache
        cached = (
            cache is not None
            and cacheable
            and self._to.action_cache_strategy.wants(success=success)
        )
        historical = self._to.history_strategy.wants(success=success)
        history_digest: Digest | None = None
        if historical:
            # Stored before the message names it.
            record = worker_pb.HistoricalExecuteResponse(execute_response=response)
            record.action_digest.hash = action_digest.hash
            record.action_digest.size_bytes = action_digest.size_bytes
            data = record.SerializeToString()
            digest = function.digest_of(data)
            if await _stored(self._to.history, digest, data, "the history"):
                history_digest = digest
        if cached and cache is not None:
            await _stored(
                cache, action_digest, response.result.SerializeToString(), "the action cache"
            )
        template = self._to.success_message if success else self._to.failure_message
        if template and (cached or historical):
            filled = _filled(template, action_digest, function, history_digest)
            response.message = f"{response.message}\n{filled}" if response.message else filled


async def _stored(store: Store, key: Digest, data: bytes, where: str) -> bool:
    try:
        await write_bytes(store, key, data)
    except NativeLinkError as error:
        _log.warning("the result of an action could not be stored in %s: %s", where, error)
        return False
    return True


def _filled(template: str, action: Digest, function: DigestFunction, history: Digest | None) -> str:
    """The template with NativeLink's variables replaced; other braces stay as they are."""
    for name, value in (
        ("digest_function", function.token),
        ("action_digest_hash", action.hash),
        ("action_digest_size", str(action.size_bytes)),
        ("historical_results_hash", "" if history is None else history.hash),
        ("historical_results_size", "" if history is None else str(history.size_bytes)),
    ):
        template = template.replace("{" + name + "}", value)
    return template
