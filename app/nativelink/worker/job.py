"""What an action is to do: its messages read from the CAS, and refused if they cannot be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from nativelink.core.digest import Digest
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    context,
    failed_precondition,
    invalid_argument,
)
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.recent import RecentMessages
from nativelink.stores.store import Store, read_bytes
from nativelink.worker.confine import check_path, output_place

__all__ = ["Job", "JobReader"]

M = TypeVar("M", bound=Message)

#: An Action has a few digests; a Command may list the arguments of a large link.
_MAX_ACTION_BYTES: Final = 1 << 20
_MAX_COMMAND_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        command: as it stands in the CAS.
        root: of the input tree.
        directories: in the input root, that are there before the command runs.
        properties: its platform, a name's last value.
        wanted_timeout_s: seconds that the action asks for; 0 if it does not.
        timeout_s: seconds that it may run.
        cacheable: False if its result must not be cached.
    """

    command: pb.Command
    root: Digest
    directories: frozenset[str]
    properties: Mapping[str, str]
    wanted_timeout_s: float
    timeout_s: float
    cacheable: bool


class JobReader:
    """Reads jobs.

    Args:
        cas: has Actions and Commands.
        recent: may have them at hand.
        max_timeout_s: seconds that an action may ask for, and gets if it asks for none.
        timeout_handled_externally: every action gets them; something else ends it earlier.
    """

    def __init__(
        self,
        cas: Store,
        recent: RecentMessages,
        *,
        max_timeout_s: float,
        timeout_handled_externally: bool,
    ) -> None:
        self._cas = cas
        self._recent = recent
        self._max_timeout_s = max_timeout_s
        self._timeout_handled_externally = timeout_handled_externally

    async def read(self, digest: Digest, properties: Mapping[str, str]) -> Job:
        """What the Action of this digest is to do.

        Args:
            digest: of the Action.
            properties: what the scheduler's wrappers made of its platform; they count more than
                what the Action says.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with the blob that is missing; INVALID_ARGUMENT
                for what cannot be run, or asks for more time than is allowed here.
        """
        action = await self._read(digest, pb.Action, _MAX_ACTION_BYTES)
        command = await self._read(
            Digest.parse(action.command_digest.hash, action.command_digest.size_bytes),
            pb.Command,
            _MAX_COMMAND_BYTES,
        )
        if not command.arguments:
            raise invalid_argument("the command has no arguments; the first one names the program")
        platform = action.platform if action.platform.properties else command.platform
        wanted_s = self._checked(action.timeout.seconds + action.timeout.nanos / 1e9)
        root = action.input_root_digest
        return Job(
            command,
            Digest.parse(root.hash, root.size_bytes),
            _needed_directories(command),
            {**{each.name: each.value for each in platform.properties}, **properties},
            wanted_s,
            wanted_s if wanted_s and not self._timeout_handled_externally else self._max_timeout_s,
            not action.do_not_cache,
        )

    async def _read(self, digest: Digest, kind: type[M], max_bytes: int) -> M:
        message = self._recent.take(digest, kind)
        if message is not None:
            return message
        with context(kind.DESCRIPTOR.name):
            try:
                data = await read_bytes(self._cas, digest, max_size=max_bytes)
            except NativeLinkError as error:
                if error.code is Code.NOT_FOUND:
                    raise failed_precondition(error.message, details=error.details) from error
                raise
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise invalid_argument(f"{digest} is no {kind.DESCRIPTOR.name}") from error

    def _checked(self, wanted_s: float) -> float:
        """The time that an action asks for, if it may."""
        if wanted_s < 0:
            raise invalid_argument(f"the action's timeout is {wanted_s:g} s, less than 0")
        if wanted_s > self._max_timeout_s:
            raise invalid_argument(
                f"the action asks for a timeout of {wanted_s:g} s; this worker allows "
                f"{self._max_timeout_s:g} s (max_action_timeout_s)"
            )
        return wanted_s


def _needed_directories(command: pb.Command) -> frozenset[str]:
    """Directories that are there before the command runs (REAPI v2, Command).

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a path that leads out of the input root.
    """
    base = command.working_directory
    check_path("working_directory", base)
    needed = {base} if base else set()
    for path in (*command.output_paths, *command.output_files, *command.output_directories):
        check_path("output path", path, may_climb=True)
        if parent := output_place(base, path).rpartition("/")[0]:
            needed.add(parent)
    return frozenset(needed)
