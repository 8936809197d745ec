"""Plays EC2, its load balancers, auto scaling and CloudWatch's alarms over what was deployed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.region_local import events
from scripts.region_local.alarms import Alarm
from scripts.region_local.cloud import (
    LAUNCHING,
    TERMINATING,
    Balancer,
    Cloud,
    Datum,
    Group,
    Hook,
    Instance,
    Listener,
    Rule,
)
from scripts.region_local.forwarder import Forwarder
from scripts.region_local.lifecycle import Lifecycle
from scripts.region_local.machine import Machine, Stage
from scripts.region_local.network import Network
from scripts.region_local.scaling import Policy, TrackingPolicy
from scripts.region_local.settings import Settings
from scripts.region_local.told import Place, boot, metadata_of
from scripts.region_local.watch import Watch

__all__ = ["Agent", "Deployed", "Happening", "Status", "differences"]

#: A machine that shuts down gets so long, as EC2 gives an operating system some time.
_SHUTDOWN_S: Final = 15.0
#: Between what load balancers and groups publish about themselves.
_PUBLISH_S: Final = 10.0
_HEALTH_S: Final = 3.0
_REMEMBERED: Final = 500


@dataclass(frozen=True)
class Deployed:
    """What was deployed and does not change while the region runs."""

    account: str
    region: str
    balancers: Sequence[Balancer]
    names: dict[str, str]
    hooks: Sequence[Hook]
    policies: Sequence[Policy]
    rules: Sequence[Rule]

    @classmethod
    def read(cls, cloud: Cloud, network: Network, account: str, region: str) -> Deployed:
        """Ask the emulator for all of it."""
        balancers = cloud.balancers()
        addresses = {each.host: network.balancer(at) for at, each in enumerate(balancers)}
        names = {
            name: addresses[host] for name, host in cloud.aliases().items() if host in addresses
        }
        policies = cloud.policies()
        for policy in policies:
            if isinstance(policy, TrackingPolicy):
                cloud.track(policy)
        hooks = [hook for group in cloud.groups() for hook in cloud.hooks(group.name)]
        return cls(account, region, balancers, names | addresses, hooks, policies, cloud.rules())


@dataclass(frozen=True)
class Happening:
    """Something that people may want to know.

    Attributes:
        at: seconds since the Unix epoch.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Status:
    """The region at one moment, for a view.

    Attributes:
        pools: the newest metrics of each pool, by its group and their names.
        doors: healthy machines and open connections, by load balancer and port.
    """

    groups: Sequence[Group]
    machines: Sequence[Machine]
    alarms: Sequence[Alarm]
    pools: Mapping[str, Mapping[str, float]]
    doors: Mapping[str, tuple[int, int]]


def differences(known: dict[str, Stage], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Instances to launch, and instances that have to leave."""
    new = [id_ for id_ in wanted if id_ not in known]
    there = {Stage.BOOTING, Stage.STARTING, Stage.IN_SERVICE}
    old = [id_ for id_, stage in known.items() if stage in there and id_ not in wanted]
    return new, old


@dataclass
class Agent:
    """Use it as `await agent.run()`, in a task; cancelling it ends all machines.

    Args:
        cloud: the emulator.
        deployed: what is in it.
        network: addresses.
        settings: times and sizes.
        lifecycle: who waits at hooks.
        autoscaling: URL of the API that machines call.
        folder: for disks and logs.
        say: told of everything that happens.

    Attributes:
        happenings: the latest, oldest first.
        machines: those that are not gone, by id.
    """

    cloud: Cloud
    deployed: Deployed
    network: Network
    settings: Settings
    lifecycle: Lifecycle
    autoscaling: str
    folder: Path
    say: Callable[[Happening], None]
    happenings: deque[Happening] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    machines: dict[str, Machine] = field(default_factory=dict)
    _groups: Sequence[Group] = ()
    _listeners: list[tuple[Balancer, Listener, Forwarder]] = field(default_factory=list)
    _waiting: dict[str, Hook] = field(default_factory=dict)
    _published_at: float = 0.0

    def __post_init__(self) -> None:
        self._serves = asyncio.Event()
        self._watch = Watch(self.cloud, self.deployed.policies, self._happened)

    async def run(self) -> None:
        """Play until cancelled."""
        async with AsyncExitStack() as lifetimes:
            for at, balancer in enumerate(self.deployed.balancers):
                for listener in balancer.listeners:
                    forwarder = Forwarder(self.network.balancer(at), listener.port)
                    await lifetimes.enter_async_context(forwarder)
                    self._listeners.append((balancer, listener, forwarder))
            try:
                while True:
                    await self._tick()
                    await asyncio.sleep(self.settings.tick_s)
            finally:
                self._shut_down()

    async def _tick(self) -> None:
        now = time.monotonic()
        self._groups = await asyncio.to_thread(self.cloud.groups)
        await self._reconcile(now)
        for machine in list(self.machines.values()):
            await self._attend(machine, now)
        await self._check_health()
        self._route()
        await self._watch.look(self._groups, self._ages(now), time.time())
        if now - self._published_at >= _PUBLISH_S:
            self._published_at = now
            await asyncio.to_thread(self.cloud.publish, self._own_metrics())
            await self._watch.read_pools(time.time())

    async def wait_until_it_serves(self) -> None:
        """Return when there is a healthy machine behind every port of every load balancer."""
        await self._serves.wait()

    def status(self) -> Status:
        """How everything is."""
        return Status(
            self._groups,
            sorted(
                self.machines.values(), key=lambda each: (each.instance.group, each.launched_at)
            ),
            self._watch.alarms,
            self._watch.pools,
            {
                f"{balancer.name}:{listener.port}": (
                    sum(machine.healthy for machine in self._behind(listener)),
                    forwarder.connections,
                )
                for balancer, listener, forwarder in self._listeners
            },
        )

    def _happened(self, text: str) -> None:
        happening = Happening(time.time(), text)
        self.happenings.append(happening)
        self.say(happening)

    def _ages(self, now: float) -> dict[str, list[float]]:
        """Seconds since the launch of each group's instances."""
        found: dict[str, list[float]] = {group.name: [] for group in self._groups}
        wanted = {id_ for group in self._groups for id_ in group.instances}
        for id_, machine in self.machines.items():
            if id_ in wanted:
                found[machine.instance.group].append(now - machine.launched_at)
        return found

    # -- machines ------------------------------------------------------------------------------

    async def _reconcile(self, now: float) -> None:
        """Have a machine for every instance that a group wants."""
        stages = {id_: machine.stage for id_, machine in self.machines.items()}
        groups = {id_: group for group in self._groups for id_ in group.instances}
        new, old = differences(stages, list(groups))
        for id_ in new:
            instance = await asyncio.to_thread(self.cloud.instance, id_, groups[id_])
            self._launch(instance, now)
        for id_ in old:
            await self._leave(self.machines[id_], now)

    def _launch(self, instance: Instance, now: float) -> None:
        self.machines[instance.id] = Machine(
            instance,
            self.network.machine(instance.address),
            self.folder / "machines" / instance.id,
            metadata_of(instance),
            now,
        )
        self._happened(f"{instance.group}: {instance.id} is launched")

    async def _leave(self, machine: Machine, now: float) -> None:
        instance = machine.instance
        hook = self._hook(instance.group, TERMINATING)
        machine.leave()
        self._happened(f"{instance.group}: {instance.id} leaves")
        if hook is None:
            machine.stop(now, _SHUTDOWN_S)
            return
        token = self.lifecycle.wait_at(hook, instance.id)
        self._waiting[instance.id] = hook
        event = events.terminating(
            hook,
            instance.id,
            token,
            account=self.deployed.account,
            region=self.deployed.region,
            at=time.time(),
        )
        await asyncio.to_thread(self._deliver, event)

    async def _attend(self, machine: Machine, now: float) -> None:
        """Let one machine's life go on."""
        instance = machine.instance
        if machine.ends_at is not None and now >= machine.ends_at:
            await self._end(machine)
            return
        if text := machine.tend(now):
            self._happened(f"{instance.group}: {instance.id}: {text}")
        match machine.stage:
            case Stage.BOOTING if now >= machine.launched_at + self.settings.boot_s:
                await self._start(machine)
            case Stage.STARTING | Stage.LEAVING:
                await self._wait(machine, now)
            case Stage.STOPPING if machine.stopped(now):
                self._forget(machine)
            case _:
                pass

    async def _start(self, machine: Machine) -> None:
        instance = machine.instance
        place = Place(
            machine.address,
            machine.metadata,
            self.autoscaling,
            machine.folder,
            self.deployed.names,
        )
        told = await asyncio.to_thread(boot, instance, place, self.settings, self.cloud.secret)
        machine.start(told)
        if hook := self._hook(instance.group, LAUNCHING):
            self.lifecycle.wait_at(hook, instance.id)
            self._waiting[instance.id] = hook

    async def _wait(self, machine: Machine, now: float) -> None:
        """Look whether a machine waits still at a lifecycle hook."""
        instance = machine.instance
        hook = self._waiting.get(instance.id)
        outcome = self.lifecycle.outcome(hook, instance.id) if hook else None
        if hook and outcome is None:
            return
        self._waiting.pop(instance.id, None)
        if outcome and outcome.by_time:
            self._happened(f"{instance.group}: {instance.id}: nobody completed its lifecycle hook")
        if machine.stage is Stage.LEAVING:
            machine.stop(now, _SHUTDOWN_S)
        elif outcome is None or outcome.goes_on:
            machine.stage = Stage.IN_SERVICE
            took = now - machine.launched_at
            self._happened(f"{instance.group}: {instance.id} is in service after {took:.0f} s")
        else:
            await self._end(machine)

    async def _end(self, machine: Machine) -> None:
        """The machine is gone, from one moment to the next."""
        wanted_still = machine.stage in {Stage.BOOTING, Stage.STARTING, Stage.IN_SERVICE}
        machine.kill()
        self._forget(machine)
        if wanted_still:
            await asyncio.to_thread(self.cloud.end, machine.instance.id)

    def _forget(self, machine: Machine) -> None:
        id_ = machine.instance.id
        self._happened(f"{machine.instance.group}: {id_} is gone")
        self._waiting.pop(id_, None)
        self.lifecycle.forget(id_)
        self.machines.pop(id_, None)

    def _hook(self, group: str, transition: str) -> Hook | None:
        for hook in self.deployed.hooks:
            if hook.group == group and hook.transition == transition:
                return hook
        return None

    def _shut_down(self) -> None:
        """End every machine, workers first. What runs there is not waited for."""
        workers = [each for each in self.machines.values() if each.role == "worker"]
        others = [each for each in self.machines.values() if each.role != "worker"]
        for machine in [*workers, *others]:
            machine.kill()
        self.machines.clear()

    # -- spot ----------------------------------------------------------------------------------

    async def interrupt(self, named: str = "") -> str:
        """Take a worker's machine back, with a notice; gives its id.

        Args:
            named: which; any that is in service if empty.

        Raises:
            LookupError: there is none.
        """
        candidates = [
            machine
            for machine in self.machines.values()
            if machine.role == "worker"
            and machine.stage is Stage.IN_SERVICE
            and machine.ends_at is None
            and named in {"", machine.instance.id}
        ]
        if not candidates:
            raise LookupError("no worker is in service that has no notice yet")
        machine = random.choice(candidates)
        instance, wall = machine.instance, time.time()
        machine.take_back(time.monotonic(), self.settings.notice_s, wall)
        self._happened(
            f"{instance.group}: {instance.id} is taken back in {self.settings.notice_s:.0f} s"
        )
        event = events.interruption(
            instance.id, account=self.deployed.account, region=self.deployed.region, at=wall
        )
        await asyncio.to_thread(self._deliver, event)
        return instance.id

    def _deliver(self, event: dict[str, object]) -> None:
        for queue, text in events.queues_for(self.deployed.rules, event):
            self.cloud.send(queue, text)

    # -- load balancers ------------------------------------------------------------------------

    async def _check_health(self) -> None:
        """Ask every machine behind a load balancer how it is."""
        async with asyncio.TaskGroup() as group:
            for machine in self.machines.values():
                checks = self._health_of(machine)
                if machine.pid is not None and checks:
                    group.create_task(self._check(machine, *checks[0]))
                else:
                    machine.healthy = False

    def _health_of(self, machine: Machine) -> list[tuple[int, str]]:
        targets = next(
            (each.targets for each in self._groups if each.name == machine.instance.group), ()
        )
        return [each.health for _, each, _ in self._listeners if each.group in targets]

    async def _check(self, machine: Machine, port: int, path: str) -> None:
        before = machine.healthy
        machine.examined(well=await _answers(machine.address, port, path))
        if before != machine.healthy:
            word = "healthy" if machine.healthy else "not healthy any more"
            self._happened(f"{machine.instance.group}: {machine.instance.id} is {word}")

    def _behind(self, listener: Listener) -> list[Machine]:
        """Machines in service that a listener may use."""
        groups = {group.name for group in self._groups if listener.group in group.targets}
        return [
            machine
            for machine in self.machines.values()
            if machine.stage is Stage.IN_SERVICE and machine.instance.group in groups
        ]

    def _route(self) -> None:
        """Give connections to healthy machines; to all, where none is, as AWS does."""
        serves = True
        for _, listener, forwarder in self._listeners:
            behind = self._behind(listener)
            healthy = [machine for machine in behind if machine.healthy]
            serves = serves and bool(healthy)
            forwarder.targets = [
                (machine.address, listener.target_port) for machine in healthy or behind
            ]
        if serves:
            self._serves.set()

    # -- metrics -------------------------------------------------------------------------------

    def _own_metrics(self) -> list[Datum]:
        """What load balancers and groups publish about themselves."""
        found: list[Datum] = []
        for _, listener, _ in self._listeners:
            balancer, target = listener.suffixes
            dimensions = (("LoadBalancer", balancer), ("TargetGroup", target))
            healthy = sum(machine.healthy for machine in self._behind(listener))
            members = sum(
                len(group.instances) for group in self._groups if listener.group in group.targets
            )
            for name, value in (
                ("HealthyHostCount", healthy),
                ("UnHealthyHostCount", max(0, members - healthy)),
            ):
                found.append(Datum("AWS/NetworkELB", name, dimensions, value))
        for group in self._groups:
            pending = sum(
                machine.stage in {Stage.BOOTING, Stage.STARTING}
                for machine in self.machines.values()
                if machine.instance.group == group.name
            )
            of_group = (("AutoScalingGroupName", group.name),)
            found.append(Datum("AWS/AutoScaling", "GroupPendingInstances", of_group, pending))
        return found


async def _answers(host: str, port: int, path: str) -> bool:
    """Whether a GET gets 200."""
    try:
        async with asyncio.timeout(_HEALTH_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                )
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.split()[1:2] == [b"200"]
