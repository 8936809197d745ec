"""One machine: its metadata, its health, its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from scripts.region_local.machine import Machine, Stage
from scripts.region_local.resources import Instance

INSTANCE = Instance("i-1", "workers", "10.64.3.17", "c7i.2xlarge", "eu-central-1a", "")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    # Nobody else of these tests has the address.
    made = Machine(INSTANCE, "127.251.3.17", tmp_path / "i-1", {"instance-id": "i-1"}, 100.0)
    yield made
    made.kill()


def said(machine: Machine, path: str) -> str:
    """What its metadata service says."""
    ask = Request(
        f"{machine.metadata}/latest/api/token",
        method="PUT",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
    )
    with urlopen(ask) as answer:
        token = answer.read().decode()
    ask = Request(
        f"{machine.metadata}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token}
    )
    with urlopen(ask) as answer:
        found: str = answer.read().decode()
        return found


def test_its_metadata_says_who_it_is_and_what_happens_to_it(machine: Machine) -> None:
    assert said(machine, "instance-id") == "i-1"
    with pytest.raises(HTTPError, match="404") as refused:
        said(machine, "spot/instance-action")
    refused.value.close()
    machine.take_back(100.0, 20.0, 1_700_000_000.0)
    assert said(machine, "spot/instance-action") == (
        '{"action": "terminate", "time": "2023-11-14T22:13:40Z"}'
    )
    assert machine.ends_at == 120.0
    machine.leave()
    assert said(machine, "autoscaling/target-lifecycle-state") == "Terminated"


def test_one_slow_answer_does_not_take_a_machine_out_of_service(machine: Machine) -> None:
    machine.examined(well=False)
    assert not machine.healthy
    machine.examined(well=True)
    for _ in range(2):
        machine.examined(well=False)
        assert machine.healthy
    machine.examined(well=False)
    assert not machine.healthy


def test_nothing_of_a_machine_is_left_but_its_log(machine: Machine) -> None:
    machine.kill()
    assert machine.stage is Stage.GONE
    assert not machine.folder.exists()
    machine.kill()
