"""A whole process: telemetry around stores, schedulers, servers and workers.

They are closed in the opposite order, each when nobody needs it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from nativelink.compose.available import unavailable
from nativelink.compose.environment import Environment, Resumable
from nativelink.compose.nodes import Leaf
from nativelink.compose.origin import open_origin_events
from nativelink.compose.schedulers import SchedulerBuilder
from nativelink.compose.servers import Listener, check_addresses, open_listeners
from nativelink.compose.stores import StoreBuilder
from nativelink.compose.telemetry import open_telemetry, sdk_disabled
from nativelink.compose.work_directory import check_work_directory
from nativelink.config.specs import Config, HashFunction
from nativelink.core.clock import Clock
from nativelink.core.digest import DigestFunction
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError, context
from nativelink.services.status import Health, HealthRegistry, HealthResult
from nativelink.telemetry.meter import Registry
from nativelink.telemetry.metrics import HEALTH_CHECKS

if TYPE_CHECKING:
    from nativelink.compose.workers import Worker
    from nativelink.scheduler.local import LocalScheduler

__all__ = ["System", "open_system"]

#: Between looks at whether the last operation has ended.
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class System:
    """What a configuration became.

    Attributes:
        listeners: open ports with what they serve, in the configuration's order.
        leaves: the stores that keep something.
        registry: the metrics of all of it.
        schedulers: those whose state is in this process.
        workers: those of this process.
        resumables: services with calls that clients go on with after a restart.
        health: the checks of the stores.
    """

    listeners: tuple[Listener, ...]
    leaves: tuple[Leaf, ...]
    registry: Registry
    schedulers: tuple[LocalScheduler, ...] = ()
    workers: tuple[Worker, ...] = ()
    resumables: tuple[Resumable, ...] = ()
    health: HealthRegistry | None = None

    async def ailing(self, timeout_s: float) -> list[str]:
        """A line for each store that does not work now.

        Args:
            timeout_s: what takes longer does not work.
        """
        results = () if self.health is None else await self.health.results(timeout_s)
        return [
            f"{each.namespace.removeprefix('/nativelink/')} does not work: "
            f"{each.message or f'no answer within {timeout_s:g} s'}"
            for each in results
            if each.health in (Health.FAILED, Health.TIMEOUT)
        ]

    async def drain(self, grace_s: float) -> bool:
        """Take no new calls and let those under way finish.

        Args:
            grace_s: seconds until what is still under way is cancelled; workers whose own
                configuration gives their actions longer get that.

        Returns:
            Whether everything finished by itself.
        """
        grace_s = max(grace_s, *(each.drain_timeout_s for each in self.workers), 0)
        done = await run_all(
            [
                *(each.drain(grace_s) for each in self.listeners),
                self._drain_execution(grace_s),
                self._end_streams(grace_s),
            ]
        )
        return all(done)

    async def _end_streams(self, grace_s: float) -> bool:
        """When nothing else is under way, end the calls that clients go on with elsewhere.

        Not before: a client comes again a few times only, so that it should find the next process.
        """
        await _until(
            lambda: (
                sum(each.server.statistics().calls for each in self.listeners)
                <= sum(each.streams for each in self.resumables)
            ),
            grace_s,
        )
        for each in self.resumables:
            each.end_streams()
        return True

    async def _drain_execution(self, grace_s: float) -> bool:
        """Let the clients of our schedulers have their results, then part from the workers."""
        finished = True
        if self.schedulers:
            finished = await _until(lambda: not any(map(_is_busy, self.schedulers)), grace_s)
        left = await run_all(
            each.agent.leave(0 if self.schedulers else each.drain_timeout_s)
            for each in self.workers
        )
        # Workers elsewhere are told to look for another scheduler; their connections would keep
        # our listeners from ending.
        for scheduler in self.schedulers:
            scheduler.close()
        return finished and all(left)


@asynccontextmanager
async def open_system(
    config: Config, *, version: str, environ: Mapping[str, str], clock: Clock
) -> AsyncIterator[System]:
    """Open everything that a configuration asks for; leaving the context closes it.

    Servers sit inside, stores outside: servers are closed first, and stores see the end of every
    write that they acknowledged.

    Args:
        config: what to open.
        version: this program's, for telemetry and the pages.
        environ: the process' environment, for the OTEL_ variables.
        clock: the time.

    Raises:
        NativeLinkError: what cannot be opened, its message beginning with the config path.
    """
    if lines := list(unavailable(config)):
        raise NativeLinkError(Code.UNIMPLEMENTED, "\n".join(lines))
    check_addresses(config)
    for index, worker in enumerate(config.workers or ()):
        with context(f"workers/{worker.local.name or f'worker_{index}'}"):
            check_work_directory(Path(worker.local.work_directory))
    registry = Registry()
    checks = registry.counter(HEALTH_CHECKS)

    def observe(result: HealthResult) -> None:
        checks.bind(result.namespace, result.health.value.lower()).add()

    try:
        async with AsyncExitStack() as lifetimes:
            yield await _open(config, registry, observe, lifetimes, version, environ, clock)
    except BaseExceptionGroup as group:
        # Task groups on the way wrap what they did not raise themselves.
        raised: BaseException = group
        while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
            raised = raised.exceptions[0]
        if isinstance(raised, NativeLinkError):
            raise raised from None
        raise


async def _open(
    config: Config,
    registry: Registry,
    observe: Callable[[HealthResult], None],
    lifetimes: AsyncExitStack,
    version: str,
    environ: Mapping[str, str],
    clock: Clock,
) -> System:
    function = config.global_.default_digest_hash_function or HashFunction.SHA256
    tracer = await lifetimes.enter_async_context(
        open_telemetry(config.global_, registry, version=version, environ=environ, clock=clock)
    )
    env = Environment(
        version=version,
        clock=clock,
        registry=registry,
        measured=not sdk_disabled(environ),
        health=HealthRegistry(clock=clock, observe=observe),
        lifetimes=lifetimes,
        tracer=tracer,
        digest_function=DigestFunction[function.name],
        health_check_bytes=config.global_.default_digest_size_health_check,
    )
    stores = StoreBuilder(config.stores, env)
    await stores.build_all()
    origin = await open_origin_events(config.experimental_origin_events, stores, env)
    schedulers = SchedulerBuilder(
        config.schedulers or (),
        stores,
        env,
        origin,
        worker_apis=[
            each.services.worker_api
            for each in config.servers
            if each.services.worker_api is not None
        ],
    )
    await schedulers.build_all()
    listeners = await open_listeners(config, stores, schedulers, env)
    workers: list[Worker] = []
    if config.workers:
        workers = await _open_workers(config, stores, listeners, env, environ)
    if config.global_.aws is not None:
        from nativelink.compose.aws import open_aws

        group = await env.lifetimes.enter_async_context(_Background())
        for task in await open_aws(config.global_.aws, schedulers, workers, env):
            group.start(task)
    local = {id(each.local): each.local for each in schedulers.made.values() if each.local}
    return System(
        tuple(listeners),
        tuple(stores.leaves),
        registry,
        tuple(local.values()),
        tuple(workers),
        tuple(env.resumables),
        env.health,
    )


async def _open_workers(
    config: Config,
    stores: StoreBuilder,
    listeners: Sequence[Listener],
    env: Environment,
    environ: Mapping[str, str],
) -> list[Worker]:
    from nativelink.compose.workers import open_workers

    workers = await open_workers(
        [each.local for each in config.workers or ()], stores, listeners, env, environ
    )
    group = await env.lifetimes.enter_async_context(_Background())
    for worker in workers:
        group.start(worker.agent.run())
    return workers


class _Background:
    """Tasks that run as long as the process; the first one to fail ends it."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> _Background:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside everything else."""
        self._tasks.append(self._group.create_task(coro))


def _is_busy(scheduler: LocalScheduler) -> bool:
    figures = scheduler.statistics()
    return figures.executing > 0 or figures.queued > figures.unschedulable


async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - it is looked at this once, at the end
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return False
    return True
