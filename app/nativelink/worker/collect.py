"""What an action left behind, from its directory into its result and the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.disk import DiskLane
from nativelink.stores.disk_calls import disk_error
from nativelink.worker.attempt import Attempt, set_digest
from nativelink.worker.directories import ActionDirectory
from nativelink.worker.outputs import FoundOutputs, OutputFinder, TooMuchError
from nativelink.worker.uploads import Uploads

__all__ = ["Collector"]

#: What an ActionResult may have at most: gRPC peers (schedulers, clients) take messages of 4 MiB,
#: and a worker whose message its scheduler refuses loses its connection again and again.
_MAX_RESULT_BYTES: Final = (4 << 20) - (256 << 10)
#: Outputs of up to so many bytes are read and hashed at once, some 100 us.
_FEW_BYTES: Final = 64 << 10


class Collector:
    """Collects the outputs of actions.

    Args:
        backing: where a file below a staged directory really is, for who wants to move it away.
        uploads: stores them.
        lane: threads that read many.
        timeout_s: seconds that storing those of one action may take.
    """

    def __init__(
        self,
        backing: Callable[[Path], Path],
        uploads: Uploads,
        *,
        lane: DiskLane,
        timeout_s: float,
    ) -> None:
        self._backing = backing
        self._uploads = uploads
        self._lane = lane
        self._timeout_s = timeout_s

    async def collect(
        self, directory: ActionDirectory, attempt: Attempt, command: pb.Command
    ) -> None:
        """Fill in the attempt's result; its blobs are stored when this returns.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for outputs that are none, or too many to list;
                DEADLINE_EXCEEDED; what the store raised.
        """
        attempt.stamp("output_upload_start")
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    # A thread has to win the interpreter back for every little file.
                    found, stdout, stderr = _find(
                        directory, command, attempt.function, max_bytes=_FEW_BYTES
                    )
                except TooMuchError:
                    found, stdout, stderr = await self._lane.run(
                        partial(_find, directory, command, attempt.function)
                    )
                if (size := found.result.ByteSize()) > _MAX_RESULT_BYTES:
                    raise invalid_argument(
                        f"the action's {len(found.result.output_files)} output files and other "
                        f"outputs take {size} bytes to list; {_MAX_RESULT_BYTES} are allowed. "
                        "Output directories are listed in blobs of their own"
                    )
                attempt.result.MergeFrom(found.result)
                set_digest(attempt.result.stdout_digest, stdout)
                set_digest(attempt.result.stderr_digest, stderr)
                files = {key: self._backing(path) for key, path in found.files.items()}
                await self._uploads.upload(
                    files,
                    found.messages,
                    attempt.function,
                    # A process that stays may have them open, and write to them.
                    settled=not attempt.process_stays,
                )
        except TimeoutError:
            raise NativeLinkError(
                Code.DEADLINE_EXCEEDED,
                "uploading the outputs took longer than "
                f"{self._timeout_s:g} s (max_upload_timeout_s)",
            ) from None
        attempt.stamp("output_upload_completed")


def _find(
    directory: ActionDirectory,
    command: pb.Command,
    function: DigestFunction,
    *,
    max_bytes: int | None = None,
) -> tuple[FoundOutputs, Digest, Digest]:
    """The outputs, and the digests of stdout and stderr, which are among their files.

    Raises:
        TooMuchError: they have more than `max_bytes`.
    """
    if directory.path.is_symlink():
        raise invalid_argument(
            "the action put a symbolic link in the place of its own directory; nothing that it "
            "leads to is looked at"
        )
    try:
        finder = OutputFinder(directory.root, command, function, max_bytes=max_bytes)
        found = finder.find()
        return found, finder.stream(directory.stdout), finder.stream(directory.stderr)
    except OSError as error:
        raise disk_error(error, "cannot read the outputs") from error
