"""Load balancers: ports that lead to those machines that are well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from scripts.region_local.forwarder import Forwarder
from scripts.region_local.machine import Machine, Stage
from scripts.region_local.network import Network
from scripts.region_local.resources import Balancer, Datum, Group, Listener

__all__ = ["Doors"]

_HEALTH_S: Final = 3.0


@dataclass(frozen=True)
class _Door:
    """A port of a load balancer, and what listens there."""

    balancer: Balancer
    listener: Listener
    forwarder: Forwarder


class Doors:
    """The ports of every load balancer; they listen while the context is open.

    Args:
        balancers: that were deployed.
        network: where they are.
        happened: told of machines that become healthy, or not healthy any more.
    """

    def __init__(
        self, balancers: Sequence[Balancer], network: Network, happened: Callable[[str], None]
    ) -> None:
        self._balancers = balancers
        self._network = network
        self._happened = happened
        self._doors: list[_Door] = []
        self._groups: Sequence[Group] = ()
        self._machines: Collection[Machine] = ()
        self._lifetimes = AsyncExitStack()
        self._serve = asyncio.Event()

    async def __aenter__(self) -> Doors:
        async with AsyncExitStack() as lifetimes:
            for at, balancer in enumerate(self._balancers):
                for listener in balancer.listeners:
                    forwarder = Forwarder(self._network.balancer(at), listener.port)
                    await lifetimes.enter_async_context(forwarder)
                    self._doors.append(_Door(balancer, listener, forwarder))
            self._lifetimes = lifetimes.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lifetimes.aclose()

    async def wait_until_they_serve(self) -> None:
        """Return when there is a healthy machine behind every port."""
        await self._serve.wait()

    async def update(self, groups: Sequence[Group], machines: Collection[Machine]) -> None:
        """Ask every machine behind a port how it is, and lead connections to the healthy ones."""
        self._groups, self._machines = groups, machines
        async with asyncio.TaskGroup() as tasks:
            for machine in machines:
                checks = self._health_of(machine)
                if machine.pid is not None and checks:
                    tasks.create_task(self._check(machine, *checks[0]))
                else:
                    machine.healthy = False
        self._route()

    def _health_of(self, machine: Machine) -> list[tuple[int, str]]:
        targets = next(
            (each.targets for each in self._groups if each.name == machine.instance.group), ()
        )
        return [door.listener.health for door in self._doors if door.listener.group in targets]

    async def _check(self, machine: Machine, port: int, path: str) -> None:
        before = machine.healthy
        machine.examined(well=await _answers(machine.address, port, path))
        if before != machine.healthy:
            word = "healthy" if machine.healthy else "not healthy any more"
            self._happened(f"{machine.instance.group}: {machine.instance.id} is {word}")

    def _behind(self, listener: Listener) -> list[Machine]:
        """Machines in service that a port may lead to."""
        groups = {group.name for group in self._groups if listener.group in group.targets}
        return [
            machine
            for machine in self._machines
            if machine.stage is Stage.IN_SERVICE and machine.instance.group in groups
        ]

    def _route(self) -> None:
        """Give connections to healthy machines; to all, where none is, as AWS does."""
        serve = True
        for door in self._doors:
            behind = self._behind(door.listener)
            healthy = [machine for machine in behind if machine.healthy]
            serve = serve and bool(healthy)
            door.forwarder.targets = [
                (machine.address, door.listener.target_port) for machine in healthy or behind
            ]
        if serve:
            self._serve.set()

    def status(self) -> Mapping[str, tuple[int, int]]:
        """Healthy machines and open connections, by load balancer and port."""
        return {
            f"{door.balancer.name}:{door.listener.port}": (
                sum(machine.healthy for machine in self._behind(door.listener)),
                door.forwarder.connections,
            )
            for door in self._doors
        }

    def metrics(self) -> list[Datum]:
        """What load balancers publish about themselves."""
        found: list[Datum] = []
        for door in self._doors:
            listener = door.listener
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
