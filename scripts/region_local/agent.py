"""Plays EC2, its load balancers, auto scaling and CloudWatch's alarms over what was deployed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.region_local import events
from scripts.region_local.alarms import Alarm
from scripts.region_local.cloud import Cloud
from scripts.region_local.deployed import Deployed
from scripts.region_local.doors import Doors
from scripts.region_local.lifecycle import Lifecycle
from scripts.region_local.machine import Machine, Stage
from scripts.region_local.network import Network
from scripts.region_local.resources import LAUNCHING, TERMINATING, Datum, Group, Hook, Instance
from scripts.region_local.settings import Settings
from scripts.region_local.told import Place, boot, metadata_of
from scripts.region_local.watch import Watch

__all__ = ["Agent", "Happening", "Status", "differences"]

#: A machine that shuts down gets so long, as EC2 gives an operating system some time.
_SHUTDOWN_S: Final = 15.0
#: Between what load balancers and groups publish about themselves.
_PUBLISH_S: Final = 10.0
_REMEMBERED: Final = 500


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
    _waiting: dict[str, Hook] = field(default_factory=dict)
    _published_at: float = 0.0

    def __post_init__(self) -> None:
        self._doors = Doors(self.deployed.balancers, self.network, self._happened)
        self._watch = Watch(self.cloud, self.deployed.policies, self._happened)

    async def run(self) -> None:
        """Play until cancelled."""
        async with self._doors:
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
        await self._doors.update(self._groups, self.machines.values())
        await self._watch.look(self._groups, self._ages(now), time.time())
        if now - self._published_at >= _PUBLISH_S:
            self._published_at = now
            values = self._doors.metrics() + self._pending()
            await asyncio.to_thread(self.cloud.publish, values)
            await self._watch.read_pools(time.time())

    async def wait_until_it_serves(self) -> None:
        """Return when there is a healthy machine behind every port of every load balancer."""
        await self._doors.wait_until_they_serve()

    def status(self) -> Status:
        """How everything is."""
        return Status(
            self._groups,
            sorted(
                self.machines.values(), key=lambda each: (each.instance.group, each.launched_at)
            ),
            self._watch.alarms,
            self._watch.pools,
            self._doors.status(),
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

    def _pending(self) -> list[Datum]:
        """What groups publish about themselves."""
        found: list[Datum] = []
        for group in self._groups:
            pending = sum(
                machine.stage in {Stage.BOOTING, Stage.STARTING}
                for machine in self.machines.values()
                if machine.instance.group == group.name
            )
            of_group = (("AutoScalingGroupName", group.name),)
            found.append(Datum("AWS/AutoScaling", "GroupPendingInstances", of_group, pending))
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
        hook = self.deployed.hook(instance.group, TERMINATING)
        machine.leave()
        self._happened(f"{instance.group}: {instance.id} leaves")
        if hook is None:
            await self._stop(machine, now)
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
        if hook := self.deployed.hook(instance.group, LAUNCHING):
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
            await self._stop(machine, now)
        elif outcome is None or outcome.goes_on:
            machine.stage = Stage.IN_SERVICE
            took = now - machine.launched_at
            self._happened(f"{instance.group}: {instance.id} is in service after {took:.0f} s")
        else:
            await self._end(machine)

    async def _stop(self, machine: Machine, now: float) -> None:
        """The machine shuts down."""
        machine.stop(now, _SHUTDOWN_S)
        await self._say_that_it_ends(machine)

    async def _end(self, machine: Machine) -> None:
        """The machine is gone, from one moment to the next."""
        wanted_still = machine.stage in {Stage.BOOTING, Stage.STARTING, Stage.IN_SERVICE}
        machine.kill()
        self._forget(machine)
        await self._say_that_it_ends(machine)
        if wanted_still:
            await asyncio.to_thread(self.cloud.end, machine.instance.id)

    async def _say_that_it_ends(self, machine: Machine) -> None:
        event = events.ended(
            machine.instance.id,
            account=self.deployed.account,
            region=self.deployed.region,
            at=time.time(),
        )
        await asyncio.to_thread(self._deliver, event)

    def _forget(self, machine: Machine) -> None:
        id_ = machine.instance.id
        self._happened(f"{machine.instance.group}: {id_} is gone")
        self._waiting.pop(id_, None)
        self.lifecycle.forget(id_)
        self.machines.pop(id_, None)

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
