"""What a machine's program is told on a laptop, from the user data of a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra import environment
from infra.environment import DERIVED, Role
from infra.kit import Kit
from infra.local import LocalProfile
from infra.machines import Addresses, user_data_of
from infra.settings_load import load
from infra.user_data import environment_in, script
from nativelink.testing.imds import FakeImds
from scripts.region_local.resources import Instance
from scripts.region_local.settings import Settings
from scripts.region_local.told import Place, boot, environment_of, metadata_of

MINIMAL = Path(__file__).parents[2] / "infra/examples/minimal.yaml"
KIT = Kit(load(MINIMAL), LocalProfile(endpoint="http://127.65.0.1:5000", redis="127.65.0.1:6379"))
ADDRESSES = Addresses(
    redis="127.65.0.1",
    redis_port=6379,
    redis_secret="",
    scheduler="scheduler.minimal.nativelink.internal",
    worker_api="workers.minimal.nativelink.internal",
    worker_cas="cas.minimal.nativelink.internal",
    queue_url="http://127.65.0.1:5000/111122223333/nl-minimal-drain",
    namespace="NativeLink/minimal",
    ready_hook="ready",
    drain_hook="drain",
    buckets={"cas": "nl-cas", "index": "nl-index", "ac": "nl-ac"},
)
NAMES = dict.fromkeys(
    (ADDRESSES.scheduler, ADDRESSES.worker_api, ADDRESSES.worker_cas), "127.65.1.2"
)
SETTINGS = Settings(notice_s=30.0, idle_s=15.0)


@pytest.fixture
def imds() -> Iterator[FakeImds]:
    with FakeImds() as made:
        made.said |= metadata_of(instance("worker"))
        yield made


def place(folder: Path, imds: FakeImds) -> Place:
    return Place("127.64.3.17", imds.url, "http://127.65.0.1:8070", folder, NAMES)


def instance(role: Role) -> Instance:
    pool = KIT.settings.pools[0] if role == "worker" else None
    data = user_data_of(KIT, role, ADDRESSES, pool)
    return Instance("i-1", KIT.group(role), "10.64.3.17", "c7i.2xlarge", "eu-central-1a", data)


def nobody(arn: str) -> str:
    raise AssertionError(f"nobody needs {arn}")


@pytest.mark.parametrize("role", environment.ROLES)
def test_a_machine_is_told_all_that_a_real_one_is(
    role: Role, tmp_path: Path, imds: FakeImds
) -> None:
    told = boot(instance(role), place(tmp_path, imds), SETTINGS, nobody)
    derived = {each.name for each in DERIVED if role in each.roles}
    assert environment.names(role) | derived <= told.keys()
    assert not [value for value in told.values() if "internal" in value or "0.0.0.0" in value]
    assert told["NATIVELINK_STATUS_ADDRESS"] == "127.64.3.17:50090"
    assert told["NATIVELINK_IMDS"] == imds.url
    assert told["NATIVELINK_INSTANCE_ID"] == "i-1"
    assert told["AWS_ENDPOINT_URL"] == "http://127.65.0.1:5000"


def test_a_worker_has_the_slots_of_its_type_and_a_laptops_times(
    tmp_path: Path, imds: FakeImds
) -> None:
    here = place(tmp_path, imds)
    told = boot(instance("worker"), here, SETTINGS, nobody)
    assert (told["NATIVELINK_JOBS"], told["NATIVELINK_CPU_COUNT"]) == ("8", "8")
    assert told["NATIVELINK_DISK"] == str(SETTINGS.disk_bytes)
    assert told["NATIVELINK_CAS_ENDPOINT"] == "grpc://127.65.1.2:50053"
    assert told["NATIVELINK_IDLE_AFTER_S"] == "15"
    # 20 of 120 seconds.
    assert told["NATIVELINK_NOTICE_MARGIN_S"] == "5"
    as_deployed = environment_of(instance("worker"), here, replace(SETTINGS, idle_s=None))
    expected = str(KIT.settings.pools[0].idle_after_s)
    assert as_deployed["NATIVELINK_IDLE_AFTER_S"] == expected


def test_secrets_are_fetched_and_certificates_become_files(tmp_path: Path, imds: FakeImds) -> None:
    machine = instance("cas")
    data = machine.user_data.replace(
        "NATIVELINK_SECRET_REDIS_PASSWORD=\n", "NATIVELINK_SECRET_REDIS_PASSWORD=arn:redis\n"
    ).replace("NATIVELINK_SECRET_TLS=\n", "NATIVELINK_SECRET_TLS=arn:tls\n")
    secrets = {"arn:redis": "pass", "arn:tls": json.dumps({"cert": "c", "key": "k"})}
    told = boot(
        replace(machine, user_data=data), place(tmp_path, imds), SETTINGS, secrets.__getitem__
    )
    assert told["NATIVELINK_REDIS_PASSWORD"] == "pass"
    folder = Path(told["NATIVELINK_TLS_DIRECTORY"])
    assert (folder / "tls.crt").read_text() == "c"
    assert (folder / "tls.key").read_text() == "k"


def test_user_data_is_read_as_it_is_written() -> None:
    assert environment_in(script("cas", "A=1\nB='two words'\nC=\n")) == {
        "A": "1",
        "B": "two words",
        "C": "",
    }
    with pytest.raises(ValueError, match="writes no /etc/nativelink/environment"):
        environment_in("#!/bin/bash\ntrue\n")


def test_metadata_says_who_the_machine_is() -> None:
    said = metadata_of(instance("worker"))
    assert said["instance-id"] == "i-1"
    assert said["placement/region"] == "eu-central-1"
    assert said["autoscaling/target-lifecycle-state"] == "InService"
