"""Every role, started in the image's root from the packaged files as its unit starts it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.environment import ROLES, Role, names
from nativelink.testing.execution import ExecutionClient
from nativelink.testing.imds import FakeImds
from tests import plain_http
from tests.ami.machine import Process, enter, forget, prepare, start
from tests.ports import free_port
from tests.roles.region import Region
from tests.stores.cloud.servers import KEY, REGION, SECRET

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("machine")]

_LOOK = r"""
id -un; id -gn; id -G -n; grep -E '^Cap(Prm|Amb)' /proc/self/status | sort
cat /run/nativelink/instance 2>&1
cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | grep ^NATIVELINK
"""


class Machines:
    """The three roles on moto and Redis, each prepared by the boot script.

    Attributes:
        region: where clients connect.
        roles: what runs.
    """

    def __init__(self, folder: Path, lifetimes: ExitStack) -> None:
        self.region = Region(folder, lifetimes)
        self.roles: dict[str, Process] = {}
        self.environments: dict[str, dict[str, str]] = {}
        imds = lifetimes.enter_context(FakeImds())
        imds.said |= {"instance-type": "m7i.large", "placement/availability-zone": f"{REGION}a"}
        client = self.region.aws("secretsmanager")
        self._queue = self.region.aws("sqs").create_queue(QueueName="drain")["QueueUrl"]
        password = client.create_secret(Name="redis", SecretString="pass")["ARN"]
        for role in ("scheduler", "cas", "worker"):
            imds.said["instance-id"] = f"i-{role}"
            port = free_port()
            told = self._told(role, port, password)
            environment = prepare(role, told, imds)
            self.environments[role] = environment
            # As the instance's role gives them; and the test's Redis wants no password.
            environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            environment |= {"NATIVELINK_REDIS_USER": "", "NATIVELINK_REDIS_PASSWORD": ""}
            environment |= {"NATIVELINK_DISK": "1gb"}
            environment |= {"NATIVELINK_OPERATOR_ADDRESS": f"127.0.0.1:{free_port()}"}
            log = folder / f"{role}.log"
            self.roles[role] = start(role, environment, log, port, lifetimes)

    def _told(self, role: Role, port: int, password: str) -> dict[str, str]:
        """What differs from the examples: addresses, and that this is no EC2."""
        region = self.region
        pool = {"name": "x86", "properties": {"ISA": "x86-64", "OSFamily": "Linux"}, "slots": 2}
        values = {
            **region.environment,
            "NATIVELINK_STATUS_ADDRESS": f"127.0.0.1:{port}",
            "NATIVELINK_EC2": "false",
            "NATIVELINK_TLS": "off",
            "NATIVELINK_INTERNAL_TLS": "off",
            "NATIVELINK_SECRET_TLS": "",
            "NATIVELINK_SECRET_REDIS_PASSWORD": password,
            "NATIVELINK_REDIS_SCHEME": "redis",
            "NATIVELINK_REDIS_HOST": "127.0.0.1",
            "NATIVELINK_CAS_BUCKET": "nativelink-cas",
            "NATIVELINK_AC_BUCKET": "nativelink-ac",
            "NATIVELINK_CLOUDWATCH": "false",
            "NATIVELINK_DRAIN_QUEUE_URL": self._queue,
            "NATIVELINK_POOLS": json.dumps([pool]),
            "NATIVELINK_POOL": "x86",
        }
        return {name: value for name, value in values.items() if name in names(role)}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with ExitStack() as lifetimes:
        lifetimes.callback(forget)
        yield Machines(tmp_path_factory.mktemp("machines"), lifetimes)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_answers_status_from_the_packaged_files(machines: Machines, role: Role) -> None:
    assert plain_http.get(machines.roles[role].status).status_code == 200


def test_the_boot_script_found_out_what_the_roles_need(machines: Machines) -> None:
    worker, cas = machines.environments["worker"], machines.environments["cas"]
    assert worker["NATIVELINK_INSTANCE_ID"] == "i-worker"
    assert int(worker["NATIVELINK_JOBS"]) >= 1
    assert worker["NATIVELINK_DATA"] == cas["NATIVELINK_DATA"] == "/data"
    assert int(cas["NATIVELINK_MEMORY"]) > 1 << 28


def test_an_action_runs_on_the_worker_and_is_cached(machines: Machines) -> None:
    action = {"salt": b"cached", "platform": {"pool": "x86"}}
    with machines.region.client() as client:
        first = client.run("sh", "-c", "echo made > out", outputs=["out"], **action)
        assert first.result.exit_code == 0
        assert not first.cached_result
        again = client.run("sh", "-c", "echo made > out", outputs=["out"], **action)
        assert again.cached_result
    assert machines.region.keys("nativelink-ac")


def test_an_action_has_neither_the_groups_files_nor_capabilities(machines: Machines) -> None:
    with machines.region.client() as client:
        answer = client.run("sh", "-c", _LOOK, salt=b"look", platform={"pool": "x86"})
        said = client.stdout(answer.result).decode()
    user, group, groups, permitted, ambient, file, *variables = said.splitlines()
    assert (user, group, groups) == ("nativelink", "nativelink-actions", "nativelink-actions")
    assert {int(each.split()[1], 16) for each in (permitted, ambient)} == {0}
    assert file.endswith("Permission denied")
    assert variables == [], "the program's environment is in sight"


def test_terminated_roles_end_well_and_leave_no_process(machines: Machines) -> None:
    for role in ("worker", "cas", "scheduler"):
        code, left = machines.roles[role].drain()
        assert (role, code, left) == (role, 0, set())


def test_all_in_one_starts_from_the_image_too(tmp_path: Path) -> None:
    address, workers = free_port(), free_port()
    environment = {
        "XDG_CACHE_HOME": "/data/all_in_one",
        "NATIVELINK_ADDRESS": f"127.0.0.1:{address}",
        "NATIVELINK_WORKER_API": f"127.0.0.1:{workers}",
    }
    enter("install", "-d", "-o", "nativelink", "/data/all_in_one")
    with ExitStack() as lifetimes:
        lifetimes.callback(forget)
        started = start("all_in_one", environment, tmp_path / "log", address, lifetimes)
        with ExecutionClient(f"127.0.0.1:{address}", instance="main") as client:
            assert client.run("sh", "-c", "true").result.exit_code == 0
        assert started.drain() == (0, set())
