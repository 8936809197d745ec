"""One action, from the order to its result.

The steps are REAPI's: fetch and stage the inputs, run the command, collect and upload the outputs,
publish the result. What belongs to the action (a wrong argument, a missing input, a program that
is not there) becomes an ExecuteResponse whose status says so: it is final. What went wrong on this
machine becomes an internal error, and the scheduler tries elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, digest_function
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    invalid_argument,
    resource_exhausted,
    unavailable,
)
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as worker_pb,
)
from nativelink.stores.disk import DiskLane
from nativelink.stores.recent import RecentMessages
from nativelink.stores.store import Store
from nativelink.worker.attempt import Attempt, is_final, set_status
from nativelink.worker.collect import Collector
from nativelink.worker.directories import ActionDirectories, ActionDirectory, Remover
from nativelink.worker.environment import AdditionalVariable, Fact, action_environment
from nativelink.worker.job import Job, JobReader
from nativelink.worker.launch import Exit, Launch, Launcher, Limits
from nativelink.worker.persistent.messages import WorkInput
from nativelink.worker.persistent.plan import wants_worker
from nativelink.worker.results import Publisher
from nativelink.worker.scripts import run_script
from nativelink.worker.side_channel import said_timeout
from nativelink.worker.uploads import Uploads

__all__ = ["ActionExecutor", "ActionSettings"]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_SCRIPT_TIMEOUT_S: Final = 60.0
_NETWORK: Final = "requires-network"

#: Actions whose process has ended and whose outputs are being stored, or whose directory is being
#: removed. Their slots are free; with more of them, a slow disk would fill up.
_FINISHING: Final = 64
#: How often an action is run whose inputs were written to.
_RUNS: Final = 3


class Staged(Protocol):
    """Inputs in place."""

    @property
    def inside(self) -> Sequence[str] | None:
        """See `ActionDirectory`."""
        ...

    def files(self, seen_from: str) -> Iterable[tuple[str, Digest]]:
        """Paths of all files, relative to a directory, with their digests."""
        ...

    async def modified(self) -> Sequence[str]:
        """Inputs whose shared files somebody wrote to; the store has given them up."""
        ...

    async def release(self) -> None:
        """Let the store evict the inputs again."""
        ...


class Stager(Remover, Protocol):
    """Puts inputs in place."""

    def stage(
        self,
        root: Digest,
        into: Path,
        *,
        directories: Iterable[str],
        movable: bool,
        is_furnished: bool,
    ) -> Coroutine[Any, Any, Staged]:
        """Make the input tree in the directory `into`, and `directories` in it.

        It is new, empty, or, if it `is_furnished`, holds all of these directories and nothing
        else. What is in a `movable` directory can be renamed into another one.

        Raises:
            NativeLinkError: FAILED_PRECONDITION with all missing blobs; INVALID_ARGUMENT for a
                tree that cannot be.
        """
        ...

    def backing(self, path: Path) -> Path:
        """Where a file below a staged directory really is, for who wants to move it away."""
        ...


class PersistentPool(Protocol):
    """Runs commands in processes that stay (Bazel's persistent workers)."""

    async def run(
        self,
        launch: Launch,
        properties: Mapping[str, str],
        *,
        timeout_s: float,
        inputs: Sequence[WorkInput],
    ) -> Exit | None:
        """Run the command, or None if it is to be run in a process of its own."""
        ...


@dataclass(frozen=True, slots=True)
class ActionSettings:
    """How a worker runs actions.

    Attributes:
        work_directory: each action has a directory of its own below it.
        max_action_timeout_s: seconds that an action may attempt.
        max_input_fetch_timeout_s: seconds that it may take to put its inputs in place.
        max_upload_timeout_s: seconds that uploading its outputs may take.
        timeout_handled_externally: the entrypoint ends actions; we only at the maximum.
        entrypoint: program that gets the command as its arguments; empty for none.
        precondition_script: run before every action; empty for none.
        additional_environment: variables that actions get besides their own.
        environment: the worker's own variables, for those that are taken from it.
        limits: of each action.
    """

    work_directory: Path
    max_action_timeout_s: float = 1200.0
    max_input_fetch_timeout_s: float = 600.0
    max_upload_timeout_s: float = 600.0
    timeout_handled_externally: bool = False
    entrypoint: str = ""
    precondition_script: Sequence[str] = ()
    additional_environment: Mapping[str, AdditionalVariable] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


class ActionExecutor:
    """Runs actions; any number at the same time.

    Args:
        cas: the worker's CAS.
        recent: messages of actions that this process has read.
        stager: puts inputs in place.
        launcher: runs processes.
        persistent: runs those that ask for a process that stays; None where there are none.
        uploads: stores outputs.
        publisher: publishes results.
        settings: see ActionSettings.
        lane: threads for the disk.
        scripts: threads that wait for precondition scripts.
        clock: the time.
    """

    def __init__(
        self,
        cas: Store,
        recent: RecentMessages,
        stager: Stager,
        launcher: Launcher,
        persistent: PersistentPool | None,
        uploads: Uploads,
        publisher: Publisher,
        settings: ActionSettings,
        *,
        lane: DiskLane,
        scripts: DiskLane,
        clock: Clock,
    ) -> None:
        self._jobs = JobReader(
            cas,
            recent,
            max_timeout_s=settings.max_action_timeout_s,
            timeout_handled_externally=settings.timeout_handled_externally,
        )
        self._stager = stager
        self._launcher = launcher
        self._persistent = persistent
        self._collector = Collector(
            stager.backing, uploads, lane=lane, timeout_s=settings.max_upload_timeout_s
        )
        self._publisher = publisher
        self._settings = settings
        self._scripts = scripts
        self._clock = clock
        self._finishing = asyncio.Semaphore(_FINISHING)
        self._directories = ActionDirectories(
            settings.work_directory, stager, clock=clock, max_spare=_FINISHING
        )

    def close(self) -> None:
        """Give up what is open. Nothing may run any more."""
        self._directories.close()

    async def execute(
        self,
        order: worker_pb.StartExecute,
        *,
        process_ended: Callable[[], None],
        finished: Callable[[worker_pb.ExecuteResult], None],
    ) -> None:
        """See `orders.Executor`."""
        result = worker_pb.ExecuteResult(
            instance_name=order.execute_request.instance_name, operation_id=order.operation_id
        )
        try:
            attempt = Attempt(order, self._clock)
        except (NativeLinkError, ValueError) as error:
            result.internal_error.code = Code.INVALID_ARGUMENT
            result.internal_error.message = str(error)
            finished(result)
            return

        def completed() -> None:
            result.execute_response.CopyFrom(attempt.complete())
            usage = result.resource_usage
            usage.operation_id, usage.worker_id = order.operation_id, order.worker_id
            if attempt.exit is not None:
                usage.cpu_time_ms = attempt.exit.cpu_time_ms
                usage.peak_memory_kb = attempt.exit.peak_memory_kb
                usage.sampled = attempt.exit.sampled
            finished(result)

        try:
            await self._run(attempt, process_ended, completed)
        except NativeLinkError as error:
            if is_final(error):
                attempt.fail(error)
                completed()
            else:
                set_status(result.internal_error, error)
                finished(result)
        except Exception as error:  # noqa: BLE001 - the scheduler is told, whatever it is
            _log.exception("operation %s failed in a way that nobody expected", order.operation_id)
            result.internal_error.code = Code.INTERNAL
            result.internal_error.message = f"{type(error).__name__}: {error}"
            finished(result)

    async def _run(
        self, attempt: Attempt, process_ended: Callable[[], None], completed: Callable[[], None]
    ) -> None:
        """Run the action, and call `completed` unless this raises."""
        await self._check_precondition(attempt)
        digest_function.set(attempt.function)
        job = await self._fetched(self._jobs.read(attempt.action_digest, attempt.properties))
        modified: Sequence[str] = ()
        for _ in range(_RUNS):
            directory = self._directories.take((job.root, job.directories))
            finishing = False
            try:
                modified = await self._run_in(directory, attempt, job)
                if not modified:
                    # The next action starts now, unless so many are behind already.
                    finishing = await self._finishing.acquire()
                    process_ended()
                    await self._finish(directory, attempt, job)
                    # The directory goes when nobody waits for anything any more.
                    completed()
                    return
            finally:
                try:
                    await self._directories.give_back(directory)
                finally:
                    if finishing:
                        self._finishing.release()
            # Somebody, it or another action, wrote to a file that several share. The files are
            # copies from now on, so the next run is alone with them.
            _log.warning(
                "operation %s runs again: its inputs were written to, %s",
                attempt.operation_id,
                ", ".join(modified[:10]),
            )
            attempt.forget_run()
        raise unavailable(
            f"inputs of the action were written to in each of {_RUNS} runs: "
            f"{', '.join(modified[:10])}"
        )

    async def _run_in(
        self, directory: ActionDirectory, attempt: Attempt, job: Job
    ) -> Sequence[str]:
        """Stage the inputs and run the command; inputs that were written to meanwhile."""
        attempt.stamp("input_fetch_start")
        stays = self._persistent is not None and wants_worker(job.properties)
        staged = await self._fetched(
            self._stager.stage(
                job.root,
                directory.root,
                directories=job.directories,
                movable=stays,
                is_furnished=directory.is_furnished,
            )
        )
        directory.inside = staged.inside
        try:
            attempt.stamp("input_fetch_completed")
            launch = self._launch(directory, job)
            attempt.stamp("execution_start")
            ended: Exit | None = None
            directory.is_idle = False
            if self._persistent is not None and stays:
                ended = await self._persistent.run(
                    launch,
                    job.properties,
                    timeout_s=job.timeout_s,
                    inputs=[
                        WorkInput(path, digest.hash)
                        for path, digest in staged.files(job.command.working_directory)
                    ],
                )
                attempt.process_stays = ended is not None
            self._note(attempt, job, ended or await self._start(launch, job.timeout_s))
            directory.is_idle = not attempt.process_stays
            return await staged.modified()
        finally:
            await staged.release()

    async def _fetched(self, coro: Coroutine[Any, Any, T]) -> T:
        """What fetching something brings, within the time that there is for it."""
        limit_s = self._settings.max_input_fetch_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await coro
        except TimeoutError:
            raise NativeLinkError(
                Code.DEADLINE_EXCEEDED,
                f"the inputs were not in place within {limit_s:g} s (max_input_fetch_timeout_s)",
            ) from None

    async def _finish(self, directory: ActionDirectory, attempt: Attempt, job: Job) -> None:
        """Collect the outputs of a run and publish its result."""
        await self._collector.collect(directory, attempt, job.command)
        if said_timeout(directory.side_channel):
            attempt.status(
                Code.DEADLINE_EXCEEDED, "the action says that it timed out (side channel file)"
            )
        await self._publisher.publish(
            attempt.action_digest,
            attempt.function,
            attempt.complete(),
            cacheable=job.cacheable,
        )

    async def _check_precondition(self, attempt: Attempt) -> None:
        script = self._settings.precondition_script
        if not script:
            return
        environment = action_environment(
            {
                name: source
                for name, source in self._settings.additional_environment.items()
                if not isinstance(source, Fact) or source is Fact.FROM_ENVIRONMENT
            },
            (),
            properties=attempt.properties,
            worker_environment=self._settings.environment,
            timeout_s=0,
            side_channel_file=Path(),
            action_directory=Path(),
        )
        said = await self._scripts.run(
            partial(run_script, script, environment, timeout_s=_SCRIPT_TIMEOUT_S)
        )
        if said.exit_code:
            raise resource_exhausted(
                f"the precondition script exited with {said.exit_code}: {said.stdout.strip()}"
            )

    def _launch(self, directory: ActionDirectory, job: Job) -> Launch:
        environment = action_environment(
            self._settings.additional_environment,
            ((each.name, each.value) for each in job.command.environment_variables),
            properties=job.properties,
            worker_environment=self._settings.environment,
            # What was asked for, also where somebody else sees to it.
            timeout_s=job.wanted_timeout_s or job.timeout_s,
            side_channel_file=directory.side_channel,
            action_directory=directory.path,
        )
        arguments: Sequence[str] = job.command.arguments
        if self._settings.entrypoint:
            arguments = (self._settings.entrypoint, *arguments)
        inside = job.command.working_directory
        return Launch(
            arguments=arguments,
            environment=environment,
            working_directory=directory.root / inside if inside else directory.root,
            action_directory=directory.path,
            stdout=directory.stdout,
            stderr=directory.stderr,
            network=job.properties.get(_NETWORK, "") not in ("", "0", "false"),
            limits=self._settings.limits,
        )

    def _note(self, attempt: Attempt, job: Job, ended: Exit) -> None:
        """Take down how the command ended."""
        attempt.stamp("execution_completed")
        attempt.exit = ended
        attempt.result.exit_code = ended.exit_code
        duration = attempt.result.execution_metadata.virtual_execution_duration
        nanos = max(0, round((ended.ended_at - ended.started_at) * 1e9))
        duration.seconds, duration.nanos = divmod(nanos, 10**9)
        if ended.timed_out:
            attempt.status(
                Code.DEADLINE_EXCEEDED,
                f"the command was stopped because it ran longer than {job.timeout_s:g} s",
            )
        if ended.out_of_memory and (ended.exit_code or ended.timed_out):
            attempt.response.message = _out_of_memory(self._settings.limits)

    async def _start(self, launch: Launch, timeout_s: float) -> Exit:
        try:
            return await self._launcher.run(launch, timeout_s=timeout_s)
        except NativeLinkError as error:
            if error.code in (Code.NOT_FOUND, Code.PERMISSION_DENIED):
                # No operation is missing and no right of the client's, as the codes would say to
                # it: the program is not there, or is none.
                raise invalid_argument(error.message) from error
            raise


def _out_of_memory(limits: Limits) -> str:
    allowed = "" if limits.memory_bytes is None else f" of {limits.memory_bytes} bytes"
    return (
        f"the kernel killed in the action because it reached its memory limit{allowed} "
        "(action_limits.memory_bytes of the worker)"
    )
