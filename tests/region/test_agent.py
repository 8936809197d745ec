"""The life of machines: what groups want, hooks, notices, the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from nativelink.aws.events import Gone, Interruption, Terminating, parse_event
from scripts.region_local import agent as module
from scripts.region_local.agent import Agent, Happening, differences
from scripts.region_local.cloud import Cloud
from scripts.region_local.deployed import Deployed
from scripts.region_local.lifecycle import Lifecycle
from scripts.region_local.machine import Stage
from scripts.region_local.network import Network
from scripts.region_local.resources import LAUNCHING, TERMINATING, Group, Hook, Instance, Rule
from scripts.region_local.settings import Settings

READY = Hook("workers", "ready", LAUNCHING, 300.0, goes_on=False)
DRAIN = Hook("workers", "drain", TERMINATING, 900.0, goes_on=True)
RULES = [Rule("all", {"source": ["aws.ec2", "aws.autoscaling"]}, ("arn:aws:sqs:eu:1:drain",))]
GROUP = Group("workers", 0, 1, 20, ("i-1",), "c7i.2xlarge", ())


def test_what_is_wanted_and_not_there_comes() -> None:
    assert differences({"i-1": Stage.IN_SERVICE}, ["i-1", "i-2", "i-3"]) == (["i-2", "i-3"], [])


def test_what_is_there_and_not_wanted_goes_once() -> None:
    known = {
        "i-1": Stage.BOOTING,
        "i-2": Stage.STARTING,
        "i-3": Stage.IN_SERVICE,
        "i-4": Stage.LEAVING,
        "i-5": Stage.STOPPING,
        "i-6": Stage.IN_SERVICE,
    }
    assert differences(known, ["i-6"]) == ([], ["i-1", "i-2", "i-3"])


class FakeMachine:
    """A machine without a process."""

    def __init__(
        self,
        instance: Instance,
        address: str,
        folder: Path,
        metadata: Mapping[str, str],
        now: float,
    ) -> None:
        self.instance, self.address, self.folder = instance, address, folder
        self.stage, self.role, self.launched_at = Stage.BOOTING, "", now
        self.ends_at: float | None = None
        self.healthy, self.pid, self.metadata = False, None, "http://127.0.0.1:1338"
        self.killed = False

    def start(self, environment: Mapping[str, str]) -> None:
        self.role, self.stage = environment["NATIVELINK_ROLE"], Stage.STARTING

    def tend(self, now: float) -> str:
        return ""

    def take_back(self, now: float, seconds: float, wall: float) -> None:
        self.ends_at = now + seconds

    def leave(self) -> None:
        self.stage = Stage.LEAVING

    def stop(self, now: float, patience_s: float) -> None:
        self.stage = Stage.STOPPING

    def stopped(self, now: float) -> bool:
        self.kill()
        return True

    def kill(self) -> None:
        self.killed, self.stage = True, Stage.GONE


class FakeCloud:
    """Groups that a test sets, and what was asked for."""

    def __init__(self) -> None:
        self.groups_ = [GROUP]
        self.ended: list[str] = []
        self.sent: list[str] = []

    def groups(self) -> list[Group]:
        return self.groups_

    def instance(self, id_: str, group: Group) -> Instance:
        return Instance(id_, group.name, "10.64.3.17", group.kind, "eu-central-1a", "")

    def alarms(self) -> list[Any]:
        return []

    def publish(self, values: Any) -> None:
        self.published = list(values)

    def send(self, queue: str, text: str) -> None:
        self.sent.append(text)

    def end(self, id_: str) -> None:
        self.ended.append(id_)

    def secret(self, arn: str) -> str:
        raise AssertionError(arn)


class Playing:
    """An agent whose ticks a test makes."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.cloud = FakeCloud()
        self.lifecycle = Lifecycle(lambda: 0.0)
        self.said: list[Happening] = []
        self.agent = Agent(
            cast("Cloud", self.cloud),
            Deployed("1", "eu-central-1", [], {}, [READY, DRAIN], [], RULES),
            Network(64),
            replace(Settings(boot_s=0.0), **settings),
            self.lifecycle,
            "http://127.0.0.1:8070",
            folder,
            self.said.append,
        )

    async def tick(self, count: int = 1) -> None:
        for _ in range(count):
            await self.agent._tick()

    def stages(self) -> dict[str, Stage]:
        return {id_: machine.stage for id_, machine in self.agent.machines.items()}

    async def serve(self) -> FakeMachine:
        """Bring i-1 into service."""
        await self.tick(2)
        self.lifecycle.complete("ready", "i-1", goes_on=True)
        await self.tick()
        assert self.stages() == {"i-1": Stage.IN_SERVICE}
        return cast("FakeMachine", self.agent.machines["i-1"])


@pytest.fixture
def playing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Playing:
    monkeypatch.setattr(module, "Machine", FakeMachine)
    monkeypatch.setattr(module, "boot", lambda *_: {"NATIVELINK_ROLE": "worker"})
    return Playing(tmp_path)


async def test_a_machine_waits_at_its_hook_until_its_program_is_ready(playing: Playing) -> None:
    await playing.tick(4)
    assert playing.stages() == {"i-1": Stage.STARTING}
    (pending,) = playing.cloud.published
    assert (pending.name, pending.value) == ("GroupPendingInstances", 1)
    await playing.serve()


async def test_a_machine_that_gives_up_is_ended_and_its_group_replaces_it(
    playing: Playing,
) -> None:
    await playing.tick(2)
    playing.lifecycle.complete("ready", "i-1", goes_on=False)
    await playing.tick()
    assert playing.cloud.ended == ["i-1"]
    assert playing.stages() == {}


async def test_a_machine_that_is_not_wanted_any_more_gets_the_time_to_leave(
    playing: Playing,
) -> None:
    machine = await playing.serve()
    playing.cloud.groups_ = [replace(GROUP, desired=0, instances=())]
    await playing.tick(3)
    assert playing.stages() == {"i-1": Stage.LEAVING}
    (text,) = playing.cloud.sent
    assert isinstance(parse_event(text), Terminating)
    assert not machine.killed
    playing.lifecycle.complete("drain", "i-1", goes_on=True)
    await playing.tick(2)
    assert machine.killed
    assert playing.stages() == {}
    assert playing.cloud.ended == []
    assert isinstance(parse_event(playing.cloud.sent[-1]), Gone)


async def test_an_interrupted_machine_is_gone_when_its_notice_is_over(playing: Playing) -> None:
    with pytest.raises(LookupError, match="no worker is in service"):
        await playing.agent.interrupt()
    machine = await playing.serve()
    assert await playing.agent.interrupt() == "i-1"
    assert isinstance(parse_event(playing.cloud.sent[0]), Interruption)
    assert json.loads(playing.cloud.sent[0])["region"] == "eu-central-1"
    with pytest.raises(LookupError, match="no worker is in service"):
        await playing.agent.interrupt("i-1")
    await playing.tick()
    assert not machine.killed
    machine.ends_at = 0.0
    await playing.tick()
    assert machine.killed
    assert playing.cloud.ended == ["i-1"]
    assert isinstance(parse_event(playing.cloud.sent[-1]), Gone)
