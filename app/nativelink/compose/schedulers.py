"""Scheduler specs to schedulers: one `match`, one short function per kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nativelink.compose.environment import Environment
from nativelink.compose.origin import OriginEventsNode
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs_schedulers import (
    AddProperty,
    CacheLookupSpec,
    GrpcSchedulerSpec,
    HistoricalResourceSpec,
    NamedScheduler,
    PropertyModification,
    PropertyModifierSpec,
    RemoveProperty,
    ReplaceProperty,
    SchedulerSpec,
    SimpleSpec,
)
from nativelink.config.specs_services import WorkerApiSpec
from nativelink.core.errors import already_exists, context, invalid_argument
from nativelink.scheduler.local import LocalScheduler
from nativelink.scheduler.policy import Allocation, Policy, PropertyKind
from nativelink.scheduler.recorder import NO_RECORDER, Recorder
from nativelink.scheduler.scheduler import Scheduler
from nativelink.telemetry.execution import ExecutionRecorder, FarmMetrics

if TYPE_CHECKING:
    from nativelink.scheduler.wrap.property_modifier import Modification

__all__ = ["SchedulerBuilder", "SchedulerNode"]


@dataclass(frozen=True, slots=True)
class SchedulerNode:
    """A scheduler, with what is innermost in it.

    Attributes:
        scheduler: what services execute with.
        local: where workers join; None if they join somewhere else.
    """

    scheduler: Scheduler
    local: LocalScheduler | None


class SchedulerBuilder:
    """Makes the named schedulers of a configuration.

    Args:
        specs: the configuration's schedulers.
        stores: where their specs find the stores they name.
        env: collaborators.
        origin: where origin events go; None if nobody wants them.
    """

    def __init__(
        self,
        specs: Sequence[NamedScheduler],
        stores: StoreBuilder,
        env: Environment,
        origin: OriginEventsNode | None = None,
        *,
        worker_apis: Iterable[WorkerApiSpec] = (),
    ) -> None:
        self._specs = specs
        self._stores = stores
        self._env = env
        self.made: dict[str, SchedulerNode] = {}
        self._origin = origin
        #: By the names of their schedulers, which learn from them how to stop what is revoked.
        self._worker_apis: dict[str, list[WorkerApiSpec]] = {}
        for api in worker_apis:
            self._worker_apis.setdefault(api.scheduler, []).append(api)
        self._recorder: Recorder = NO_RECORDER
        if env.measured and specs:
            self._recorder = ExecutionRecorder(env.registry)
        if origin is not None:
            self._recorder = origin.recording(self._recorder)

    async def build_all(self) -> None:
        """Make every scheduler.

        Raises:
            NativeLinkError: what cannot be made; the message begins with the config path.
        """
        if not self._specs:
            return
        farm = FarmMetrics(self._env.registry, self._env.clock)
        for named in self._specs:
            if named.name in self.made:
                raise already_exists(
                    f"schedulers/{named.name}: there are two schedulers of this name"
                )
            with context(f"schedulers/{named.name}"):
                node = await self._build(named.spec, self._worker_apis.get(named.name, ()))
            if self._origin is not None and node.local is not None:
                node = SchedulerNode(self._origin.admitting(node.scheduler), node.local)
            self.made[named.name] = node
            if node.local is not None:
                farm.add(named.name, node.local)

    def named(self, name: str) -> SchedulerNode:
        """The scheduler of a name.

        Raises:
            NativeLinkError: INVALID_ARGUMENT for an unknown name.
        """
        try:
            return self.made[name]
        except KeyError:
            known = ", ".join(sorted(self.made)) or "none"
            raise invalid_argument(
                f"there is no scheduler {name!r}; the schedulers are: {known}"
            ) from None

    async def _build(self, spec: SchedulerSpec, apis: Sequence[WorkerApiSpec]) -> SchedulerNode:
        match spec:
            case SimpleSpec():
                return await self._simple(spec, apis)
            case CacheLookupSpec():
                return await self._cache_lookup(spec, apis)
            case PropertyModifierSpec():
                return await self._property_modifier(spec, apis)
            case HistoricalResourceSpec():
                return await self._historical_resource(spec, apis)
            case GrpcSchedulerSpec():
                return await self._grpc(spec)

    async def _simple(self, spec: SimpleSpec, apis: Sequence[WorkerApiSpec]) -> SchedulerNode:
        policy = Policy(
            supported_properties={
                key: PropertyKind(kind.value)
                for key, kind in spec.supported_platform_properties.items()
            },
            allocation=Allocation(spec.allocation_strategy.value),
            max_job_retries=spec.max_job_retries,
            worker_timeout_s=spec.worker_timeout_s,
            client_action_timeout_s=spec.client_action_timeout_s,
            max_action_executing_timeout_s=spec.max_action_executing_timeout_s,
            unacknowledged_kill_timeout_s=spec.unacknowledged_kill_timeout_s,
            retain_completed_for_s=spec.retain_completed_for_s,
            unschedulable_timeout_s=spec.unschedulable_timeout_s,
            kill_revoked=not any(each.disable_kill_revoked_operations for each in apis),
            kill_interval_s=min(
                (each.kill_revoked_operations_interval_s for each in apis),
                default=Policy().kill_interval_s,
            ),
        )
        scheduler = await self._env.lifetimes.enter_async_context(
            LocalScheduler(
                policy,
                clock=self._env.clock,
                recorder=self._recorder,
                worker_match_logging_interval_s=spec.worker_match_logging_interval_s,
            )
        )
        return SchedulerNode(scheduler, scheduler)

    async def _cache_lookup(
        self, spec: CacheLookupSpec, apis: Sequence[WorkerApiSpec]
    ) -> SchedulerNode:
        from nativelink.scheduler.wrap.cache_lookup import CacheLookupScheduler
        from nativelink.services.cached_results import CachedResults

        store = (await self._stores.named(spec.ac_store)).store
        behind = await self._build(spec.scheduler, apis)
        scheduler = CacheLookupScheduler(
            behind.scheduler, CachedResults(store).lookup, clock=self._env.clock
        )
        return SchedulerNode(await self._env.lifetimes.enter_async_context(scheduler), behind.local)

    async def _property_modifier(
        self, spec: PropertyModifierSpec, apis: Sequence[WorkerApiSpec]
    ) -> SchedulerNode:
        from nativelink.scheduler.wrap.property_modifier import PropertyModifierScheduler

        behind = await self._build(spec.scheduler, apis)
        modifications = [_modification(each) for each in spec.modifications]
        return SchedulerNode(
            PropertyModifierScheduler(behind.scheduler, modifications), behind.local
        )

    async def _historical_resource(
        self, spec: HistoricalResourceSpec, apis: Sequence[WorkerApiSpec]
    ) -> SchedulerNode:
        from nativelink.scheduler.wrap.historical_resource import HistoricalResourceScheduler

        behind = await self._build(spec.scheduler, apis)
        scheduler = HistoricalResourceScheduler(
            behind.scheduler,
            Path(spec.hints_file).read_bytes,
            clock=self._env.clock,
            refresh_interval_s=spec.refresh_interval_s,
            cpu_property_name=spec.cpu_property_name,
            memory_property_name=spec.memory_property_name,
        )
        await scheduler.refresh()
        return SchedulerNode(scheduler, behind.local)

    async def _grpc(self, spec: GrpcSchedulerSpec) -> SchedulerNode:
        from nativelink.compose.channels import grpc_channel, retry_of
        from nativelink.services.forwarding import ForwardingScheduler

        # The limit is on requests, not on streams that follow an operation for an hour.
        channel = grpc_channel(
            [spec.endpoint],
            connections_per_endpoint=spec.connections_per_endpoint,
            max_concurrent_requests=0,
        )
        scheduler = ForwardingScheduler(
            await self._env.lifetimes.enter_async_context(channel),
            retry=retry_of(spec.retry),
            max_concurrent_requests=spec.max_concurrent_requests,
        )
        return SchedulerNode(await self._env.lifetimes.enter_async_context(scheduler), None)


def _modification(spec: PropertyModification) -> Modification:
    from nativelink.scheduler.wrap.property_modifier import Addition, Removal, Replacement

    match spec:
        case AddProperty():
            return Addition(spec.add.name, spec.add.value)
        case RemoveProperty():
            return Removal(spec.remove)
        case ReplaceProperty():
            change = spec.replace
            return Replacement(change.name, change.value, change.new_name, change.new_value)
