"""Worker specs to workers: what each runs actions with, and its connection to a scheduler."""

from __future__ import annotations

import grp
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from nativelink.compose.channels import endpoint_of, host_and_port, is_tls
from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Leaf, LocalTiers
from nativelink.compose.servers import Listener
from nativelink.compose.stores import StoreBuilder
from nativelink.compose.work_directory import claim_work_directory
from nativelink.compose.worker_properties import offered_properties
from nativelink.config.specs_stores import FilesystemSpec
from nativelink.config.specs_workers import (
    ActionLimitsSpec,
    EnvironmentSource,
    LocalWorkerSpec,
    UploadActionResultSpec,
)
from nativelink.config.specs_workers import FromProperty as FromPropertySpec
from nativelink.config.specs_workers import FromValue as FromValueSpec
from nativelink.core.channel import Channel
from nativelink.core.errors import (
    context,
    failed_precondition,
    invalid_argument,
)
from nativelink.stores.disk import DiskLane
from nativelink.stores.store import Store
from nativelink.telemetry.execution_metrics import (
    LOCAL_WORKER_CONNECTED,
    LOCAL_WORKER_CONNECTIONS,
    LOCAL_WORKER_EXECUTED,
    LOCAL_WORKER_RUNNING,
)
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.loopback import LoopbackChannel
from nativelink.worker.action import ActionExecutor, ActionSettings
from nativelink.worker.agent import Agent
from nativelink.worker.connection import ConnectionSettings
from nativelink.worker.directory_cache import DirectoryCache
from nativelink.worker.environment import AdditionalVariable, Fact, FromProperty, FromValue
from nativelink.worker.hands.pool import Hands
from nativelink.worker.inputs import InputStager
from nativelink.worker.launch import Limits
from nativelink.worker.persistent.pool import PersistentSettings, PersistentWorkers
from nativelink.worker.processes.launcher import ProcessLauncher
from nativelink.worker.processes.supervisor import Namespaces
from nativelink.worker.results import Publication, Publisher, UploadStrategy
from nativelink.worker.tree import TreeFetcher
from nativelink.worker.uploads import Uploads

__all__ = ["Worker", "open_workers"]

#: Threads that stage inputs and look for outputs; more would only wait for the interpreter.
_THREADS: Final = 4
#: Its bit in the sets of capabilities (capabilities(7)).
_CAP_SETGID: Final = 1 << 6
#: Precondition scripts at a time.
_SCRIPTS: Final = 64


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of this process.

    Attributes:
        name: what its id begins with.
        agent: its connection to the scheduler.
        scheduler: where that is, as the configuration writes it.
        work_directory: where actions run.
        max_inflight_tasks: so many at a time; 0 is no limit.
        drain_timeout_s: seconds that running actions get to finish.
        max_action_timeout_s: seconds that one of them may run.
    """

    name: str
    agent: Agent
    scheduler: str
    work_directory: Path
    max_inflight_tasks: int
    drain_timeout_s: float
    max_action_timeout_s: float


async def open_workers(
    specs: Iterable[LocalWorkerSpec],
    stores: StoreBuilder,
    listeners: Sequence[Listener],
    env: Environment,
    environ: Mapping[str, str],
) -> list[Worker]:
    """Open all workers of a configuration; none is connected yet.

    Args:
        specs: the workers.
        stores: where their specs find the stores they name.
        listeners: of this process: workers need no socket to get there.
        env: collaborators.
        environ: the process' environment variables.

    Raises:
        NativeLinkError: what cannot be opened; the message begins with the config path.
    """
    workers: list[Worker] = []
    for index, spec in enumerate(specs):
        name = spec.name or f"worker_{index}"
        with context(f"workers/{name}"):
            workers.append(await _open(name, spec, stores, listeners, env, environ))
    return workers


async def _open(
    name: str,
    spec: LocalWorkerSpec,
    stores: StoreBuilder,
    listeners: Sequence[Listener],
    env: Environment,
    environ: Mapping[str, str],
) -> Worker:
    node = await stores.named(spec.cas_fast_slow_store)
    if node.tiers is None:
        raise invalid_argument(
            f"cas_fast_slow_store: {spec.cas_fast_slow_store!r} is no fast_slow store over a "
            "filesystem store, whose files become the inputs of actions"
        )
    lane = DiskLane(f"worker-{name}", threads=_THREADS)
    lane.start()
    env.lifetimes.push_async_callback(lane.close)
    work_directory = Path(spec.work_directory)
    properties = await offered_properties(spec, lane, environ)
    executor = await _executor(
        spec, node.store, node.tiers, work_directory, stores, env, lane, environ
    )
    channel = await _channel(spec, name, listeners, env)
    agent = Agent(
        channel,
        executor,
        ConnectionSettings(
            name,
            properties,
            max_inflight_tasks=spec.max_inflight_tasks,
            timeout_s=spec.worker_api_endpoint.timeout,
        ),
        clock=env.clock,
        random=Random(),
    )
    _observe(name, agent, env)
    return Worker(
        name,
        agent,
        spec.worker_api_endpoint.uri,
        work_directory,
        spec.max_inflight_tasks,
        spec.drain_timeout_s,
        spec.max_action_timeout_s,
    )


def _observe(name: str, agent: Agent, env: Environment) -> None:
    """Report what a worker does in the metrics of the process."""
    labels = (name,)
    registry, now = env.registry, agent.statistics
    registry.observe(LOCAL_WORKER_RUNNING, lambda: [(labels, now().running)])
    registry.observe(LOCAL_WORKER_EXECUTED, lambda: [(labels, now().executed)])
    registry.observe(LOCAL_WORKER_CONNECTED, lambda: [(labels, int(now().connected))])
    registry.observe(LOCAL_WORKER_CONNECTIONS, lambda: [(labels, now().connections)])


async def _executor(
    spec: LocalWorkerSpec,
    cas: Store,
    tiers: LocalTiers,
    work_directory: Path,
    stores: StoreBuilder,
    env: Environment,
    lane: DiskLane,
    environ: Mapping[str, str],
) -> ActionExecutor:
    hands = await env.lifetimes.enter_async_context(Hands())
    claim = await lane.run(lambda: claim_work_directory(work_directory, tiers.files.device))
    env.lifetimes.callback(os.close, claim)
    cache = spec.directory_cache
    stager = InputStager(
        cas,
        tiers.files,
        hands,
        trees=TreeFetcher(
            cas,
            source=tiers.trees if cache and cache.experimental_get_tree_prefetch else None,
        ),
        lane=lane,
        max_concurrent_fetches=64 if cache is None else cache.max_concurrent_fetches,
        cache=await _directory_cache(spec, hands, work_directory),
    )
    await stager.recover(work_directory)
    namespaces = _namespaces(spec, tiers, work_directory, stores.leaves)
    for hidden in () if namespaces is None else namespaces.hidden:
        # What is made later would be in sight.
        await lane.run(partial(os.makedirs, hidden, exist_ok=True))
    launcher = await env.lifetimes.enter_async_context(
        ProcessLauncher(
            namespaces=namespaces,
            limited=spec.action_limits is not None,
            group_id=_group(spec.action_group),
        )
    )
    persistent = await env.lifetimes.enter_async_context(
        PersistentWorkers(
            launcher,
            lane,
            env.clock,
            PersistentSettings(
                # Emptied by `recover` just now, with all that earlier actions left.
                work_directory / "persistent",
                max_processes=spec.max_inflight_tasks or len(os.sched_getaffinity(0)),
            ),
        )
    )
    executor = ActionExecutor(
        cas,
        env.recent,
        stager,
        launcher,
        persistent,
        Uploads(cas, tiers.upstream, tiers.files, lane=lane),
        Publisher(await _publication(spec.upload_action_result, cas, stores)),
        ActionSettings(
            work_directory=work_directory,
            max_action_timeout_s=spec.max_action_timeout_s,
            max_input_fetch_timeout_s=spec.max_input_fetch_timeout_s,
            max_upload_timeout_s=spec.max_upload_timeout_s,
            timeout_handled_externally=spec.timeout_handled_externally,
            entrypoint=spec.entrypoint,
            precondition_script=shlex.split(spec.experimental_precondition_script or ""),
            additional_environment={
                key: _variable(source) for key, source in spec.additional_environment.items()
            },
            environment=environ,
            limits=_limits(spec.action_limits),
        ),
        lane=lane,
        scripts=_script_lane(spec, env),
        clock=env.clock,
    )
    env.lifetimes.callback(executor.close)
    return executor


def _script_lane(spec: LocalWorkerSpec, env: Environment) -> DiskLane:
    """Threads for precondition scripts, which may take a minute each: not those of the disk."""
    lane = DiskLane("worker-script", threads=min(spec.max_inflight_tasks or _SCRIPTS, _SCRIPTS))
    if spec.experimental_precondition_script:
        lane.start()
        env.lifetimes.push_async_callback(lane.close)
    return lane


async def _directory_cache(
    spec: LocalWorkerSpec, hands: Hands, work_directory: Path
) -> DirectoryCache | None:
    """The directory cache, if it is wanted and this machine lets it work."""
    if spec.directory_cache is None:
        return None
    cache = DirectoryCache(
        Path(spec.directory_cache.cache_root),
        hands,
        max_entries=spec.directory_cache.max_entries,
        max_size_bytes=spec.directory_cache.max_size_bytes,
    )
    works = await cache.open(to_namespaces_from=work_directory if spec.use_namespaces else None)
    return cache if works else None


def _namespaces(
    spec: LocalWorkerSpec, tiers: LocalTiers, work_directory: Path, leaves: Sequence[Leaf]
) -> Namespaces | None:
    if not spec.use_namespaces:
        return None
    hidden: list[Path] = []
    if spec.use_mount_namespace:
        # Other actions, and whatever this process keeps in files: the blobs under their own
        # names, and action caches, which an action could write to as the worker's user.
        hidden = [work_directory, tiers.files.directory, tiers.files.executable_directory]
        hidden += [Path(leaf.place) for leaf in leaves if leaf.kind == FilesystemSpec.KIND]
        if spec.directory_cache is not None:
            hidden.append(Path(spec.directory_cache.cache_root))
    isolated = True if spec.use_network_namespace is None else spec.use_network_namespace
    return Namespaces(hidden, network=not isolated)


def _group(name: str) -> int | None:
    """The id of the group that actions are in; None for that of this process."""
    if not name:
        return None
    try:
        group = int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise invalid_argument(
            f"action_group {name!r} does not exist here; the name or the number of a group is "
            "allowed"
        ) from None
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if not int(effective.split()[1], 16) & _CAP_SETGID:
        raise failed_precondition(
            f"action_group {name!r} needs CAP_SETGID, which this process lacks (systemd: "
            "AmbientCapabilities=CAP_SETGID)"
        )
    return group


async def _publication(
    spec: UploadActionResultSpec, cas: Store, stores: StoreBuilder
) -> Publication:
    history = spec.historical_results_store
    return Publication(
        action_cache=None if spec.ac_store is None else (await stores.named(spec.ac_store)).store,
        action_cache_strategy=UploadStrategy(spec.upload_ac_results_strategy.value),
        history=cas if history is None else (await stores.named(history)).store,
        history_strategy=UploadStrategy(spec.upload_historical_results_strategy.value),
        success_message=spec.success_message_template,
        failure_message=spec.failure_message_template,
    )


async def _channel(
    spec: LocalWorkerSpec, name: str, listeners: Sequence[Listener], env: Environment
) -> Channel:
    """The way to the scheduler: no socket, if it is in this process."""
    endpoint = spec.worker_api_endpoint
    host, port = host_and_port(endpoint.uri)
    for listener in listeners:
        if not is_tls(endpoint.uri) and listener.address in (f"{host}:{port}", f"0.0.0.0:{port}"):
            return LoopbackChannel(listener.methods, name=name)
    # A connection that died in silence must be gone when the scheduler gives the worker up, or the
    # next attempts would be made on it.
    half_s = endpoint.timeout / 2
    channel = GrpcChannel(
        [
            endpoint_of(
                endpoint.uri,
                endpoint.tls_config,
                connect_timeout_s=endpoint.timeout,
                http2_keepalive_interval_s=half_s,
                http2_keepalive_timeout_s=half_s,
            )
        ]
    )
    return await env.lifetimes.enter_async_context(channel)


def _variable(source: EnvironmentSource) -> AdditionalVariable:
    if isinstance(source, FromPropertySpec):
        return FromProperty(source.property)
    if isinstance(source, FromValueSpec):
        return FromValue(source.value)
    return Fact(source)


def _limits(spec: ActionLimitsSpec | None) -> Limits:
    if spec is None:
        return Limits()
    return Limits(spec.memory_bytes or None, spec.cpus or None, spec.pids or None)
