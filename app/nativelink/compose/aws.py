"""What a process does because it runs on AWS: spec to tasks that run beside everything else."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nativelink.aws.auto_scaling import AutoScaling
from nativelink.aws.calls import CallPublisher, Calls
from nativelink.aws.clients import Clients, open_clients
from nativelink.aws.cloudwatch import PoolPublisher, put_metric_data
from nativelink.aws.departure import Departure, DepartureSettings, arrive
from nativelink.aws.drain_queue import DrainQueue, SqsQueue
from nativelink.aws.metadata import open_metadata
from nativelink.aws.notices import ImdsNotices
from nativelink.compose.environment import Environment
from nativelink.compose.schedulers import SchedulerBuilder
from nativelink.config.specs_aws import AwsServicesSpec, Ec2Spec, PoolSpec
from nativelink.core.errors import Code, context, invalid_argument
from nativelink.scheduler.pools import Pool, Pools
from nativelink.scheduler.scheduler import WorkerView
from nativelink.telemetry.meter import HistogramPoint, NumberPoint, Registry
from nativelink.telemetry.metrics import RPC_SERVER_DURATION, TLS_EXPIRY_TIME

if TYPE_CHECKING:
    from nativelink.compose.workers import Worker

__all__ = ["open_aws"]

_log: Final = logging.getLogger(__name__)

#: After a defect of a part that must not take the process with it.
_PAUSE_S: Final = 60.0
#: What a planned end of a machine gives beyond the longest action.
_UPLOAD_S: Final = 60.0

Task = Coroutine[Any, Any, None]


async def open_aws(
    spec: AwsServicesSpec,
    schedulers: SchedulerBuilder,
    workers: Sequence[Worker],
    env: Environment,
) -> list[Task]:
    """Open what runs on AWS.

    Args:
        spec: what is wanted.
        schedulers: where it finds the scheduler that it names.
        workers: those of this process.
        env: collaborators.

    Returns:
        What is to run as long as the process does; none of it ends it by failing.

    Raises:
        NativeLinkError: what cannot be opened; the message begins with the config path.
    """
    with context("global/aws"):
        clients = await env.lifetimes.enter_async_context(open_clients(spec.region))
        tasks = await _of_scheduler(spec, schedulers, clients, env)
        tasks += await _of_calls(spec, clients, env)
        if spec.ec2 is not None and spec.ec2.enabled:
            tasks += await _of_machine(spec.ec2, workers, clients, env)
    return tasks


async def _of_scheduler(
    spec: AwsServicesSpec, schedulers: SchedulerBuilder, clients: Clients, env: Environment
) -> list[Task]:
    publishes = spec.cloudwatch is not None and spec.cloudwatch.enabled
    reads = spec.drain_queue is not None and bool(spec.drain_queue.url)
    if not publishes and not reads:
        return []
    scheduler = schedulers.named(spec.scheduler).local
    if scheduler is None:
        raise invalid_argument(f"workers cannot join {spec.scheduler!r}: it passes actions on")
    pools = Pools([_pool(each) for each in spec.pools], scheduler.rules)
    tasks: list[Task] = []
    publisher: PoolPublisher | None = None
    if publishes and spec.cloudwatch is not None:
        publisher = PoolPublisher(
            lambda: scheduler.pool_statistics(pools),
            await put_metric_data(clients, spec.cloudwatch.namespace),
            clock=env.clock,
            interval_s=spec.cloudwatch.interval_s,
        )
        tasks.append(_lasting("CloudWatch", publisher.run))
    if reads and spec.drain_queue is not None:
        queue = DrainQueue(
            await SqsQueue.of(clients, spec.drain_queue.url),
            scheduler,
            await AutoScaling.of(clients),
            clock=env.clock,
            interrupted=_counter(publisher, pools),
        )
        tasks.append(_lasting("the drain queue", queue.run))
    return tasks


async def _of_calls(spec: AwsServicesSpec, clients: Clients, env: Environment) -> list[Task]:
    wanted = spec.call_metrics
    # Where nothing is counted, there is nothing to publish.
    if wanted is None or not wanted.enabled or not env.measured:
        return []
    publisher = CallPublisher(
        lambda: _calls(env.registry),
        RPC_SERVER_DURATION.bounds,
        await put_metric_data(clients, wanted.namespace),
        clock=env.clock,
        interval_s=wanted.interval_s,
        expiries=lambda: _expiries(env.registry),
    )
    return [_lasting("CloudWatch", publisher.run)]


def _calls(registry: Registry) -> Iterator[Calls]:
    for point in registry.histogram(RPC_SERVER_DURATION).points():
        assert isinstance(point, HistogramPoint)
        service, method, code = (value for _, value in point.attributes)
        yield Calls(str(service), str(method), Code(int(code)), point.counts)


def _expiries(registry: Registry) -> Iterator[float]:
    for series in registry.collect():
        if series.definition is TLS_EXPIRY_TIME:
            for point in series.points:
                assert isinstance(point, NumberPoint)
                yield point.value


def _counter(publisher: PoolPublisher | None, pools: Pools) -> Callable[[WorkerView], None]:
    def interrupted(worker: WorkerView) -> None:
        if publisher is not None:
            publisher.interrupted(pools.pool_of(worker.properties), worker.properties)

    return interrupted


def _pool(spec: PoolSpec) -> Pool:
    properties = [(name, value) for name, values in spec.properties.items() for value in values]
    return Pool(spec.name, tuple(properties), spec.slots)


async def _of_machine(
    spec: Ec2Spec, workers: Sequence[Worker], clients: Clients, env: Environment
) -> list[Task]:
    auto_scaling = await AutoScaling.of(clients)
    tasks: list[Task] = []
    if spec.launching_hook:
        come = partial(
            arrive,
            auto_scaling,
            group=spec.auto_scaling_group,
            hook=spec.launching_hook,
            instance=spec.instance_id,
            ready=lambda: all(worker.agent.statistics().connected for worker in workers),
        )
        tasks.append(_lasting("the launching hook", come))
    if len(workers) > 1:
        raise invalid_argument(f"ec2 looks after one worker, and there are {len(workers)}")
    for worker in workers:
        metadata = await env.lifetimes.enter_async_context(
            open_metadata(spec.metadata_endpoint, env.clock)
        )
        notices = ImdsNotices(
            metadata,
            planned_s=worker.max_action_timeout_s + _UPLOAD_S + spec.notice_margin_s,
            clock=env.clock,
        )
        departure = Departure(
            worker.agent,
            notices,
            auto_scaling,
            DepartureSettings(
                spec.instance_id,
                spec.auto_scaling_group,
                spec.terminating_hook,
                idle_after_s=spec.idle_after_s or math.inf,
                margin_s=spec.notice_margin_s,
            ),
            clock=env.clock,
        )
        tasks.append(_lasting("the machine", departure.run))
    return tasks


async def _lasting(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run something to its end; a defect in it is logged, and does not end the process."""
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001 - the cache and the scheduler matter more
            _log.exception("%s: a defect; it begins again in %g s", what, _PAUSE_S)
            await asyncio.sleep(_PAUSE_S)
        else:
            return
