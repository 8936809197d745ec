"""Real Bazel builds through the three roles, as they are packaged, also while they die."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from nativelink.testing.imds import FakeImds
from nativelink.testing.reapi import ReapiClient, digest_of
from tests.clients.bazel import Bazel
from tests.clients.programs import CLIENT_TESTS
from tests.clients.stages import STAGE_ACTIONS, STAGES, Stages
from tests.clients.workspace import MINIMUM_ACTIONS
from tests.execution.gate import wait_for
from tests.roles.region import Region, Role, open_region

pytestmark = CLIENT_TESTS

_POOLS = json.dumps(
    [{"name": "default", "properties": {"ISA": "x86-64", "OSFamily": "Linux"}, "slots": 8}]
)


def flags(region: Region) -> list[str]:
    """What a user would put into .bazelrc."""
    address = f"grpc://127.0.0.1:{region.client_port}"
    return [
        f"--remote_executor={address}",
        f"--remote_cache={address}",
        "--spawn_strategy=remote",
        "--remote_default_exec_properties=OSFamily=linux",
        "--jobs=16",
        "--remote_timeout=120",
        # Enough for a role to start on a slow machine.
        "--remote_retries=30",
    ]


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    with open_region(tmp_path_factory.mktemp("region")) as opened:
        yield opened


@pytest.fixture(scope="module")
def scheduler(region: Region) -> Role:
    return region.start(
        "scheduler",
        NATIVELINK_POOLS=_POOLS,
        NATIVELINK_CLOUDWATCH="true",
        NATIVELINK_METRICS_INTERVAL_S="1",
    )


@pytest.fixture(scope="module")
def cas(region: Region) -> Role:
    return region.start("cas")


@pytest.fixture(scope="module")
def worker(region: Region, scheduler: Role, cas: Role) -> Role:
    started = region.start("worker", "i-0123", NATIVELINK_JOBS="8", NATIVELINK_CPU_COUNT="8")
    wait_for(scheduler.workers, "the worker joins")
    return started


def test_a_build_runs_on_the_worker_and_the_next_one_comes_from_the_cache(
    region: Region, scheduler: Role, worker: Role, bazel: Bazel
) -> None:
    bazel.clean()
    first = bazel.build(*flags(region))
    assert first.runners.get("remote", 0) >= MINIMUM_ACTIONS
    bazel.clean()
    again = bazel.build(*flags(region))
    assert again.executed == 0
    assert again.hits >= MINIMUM_ACTIONS

    assert scheduler.workers()[0]["worker_id"].startswith("i-0123-")
    blobs, results = region.keys("nativelink-cas"), region.keys("nativelink-ac")
    assert blobs
    assert all(key.startswith("cas/") for key in blobs)
    assert all(key.startswith("ac/") for key in results)
    assert len(results) >= MINIMUM_ACTIONS
    with region.redis.raw() as redis:
        prefixes = {key.split(b":")[0] for key in redis.scan_iter()}
    assert prefixes == {b"cas", b"ac"}


def test_the_load_of_the_pool_was_published(region: Region, worker: Role) -> None:
    def found() -> list[dict[str, Any]]:
        metrics: list[dict[str, Any]] = region.aws("cloudwatch").list_metrics(
            Namespace="NativeLink"
        )["Metrics"]
        return metrics

    # Once a second, if the machine has nothing better to do.
    wait_for(found, "the first values are published")
    pools = {each["Dimensions"][0]["Value"] for each in found()}
    assert pools == {"default", "none"}
    assert {each["MetricName"] for each in found()} == {
        "QueuedActions",
        "RunningActions",
        "OldestQueuedSeconds",
        "IdleWorkers",
        "RegisteredWorkers",
        "LoadRatio",
    }


def test_workers_find_no_action_cache_where_they_find_blobs(region: Region, worker: Role) -> None:
    with (
        ReapiClient(f"127.0.0.1:{region.worker_cas}", instance="") as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.get_action_result(digest_of(b"an action"))
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_worker_heeds_its_machines_metadata(
    region: Region, scheduler: Role, worker: Role
) -> None:
    def found() -> list[dict[str, object]]:
        return [
            each for each in scheduler.workers() if str(each["worker_id"]).startswith("i-0456-")
        ]

    with FakeImds() as imds:
        region.start(
            "worker",
            "i-0456",
            NATIVELINK_EC2="true",
            NATIVELINK_GROUP="workers",
            NATIVELINK_IMDS=imds.url,
        )
        wait_for(lambda: [each["draining"] for each in found()] == [False], "it joins")
        imds.said["events/recommendations/rebalance"] = "{}"
        wait_for(lambda: [each["draining"] for each in found()] == [True], "it drains")
        imds.said["spot/instance-action"] = "{}"
        wait_for(lambda: not found(), "it leaves")
    assert scheduler.workers()


@pytest.mark.parametrize("victim", ["cas", "scheduler", "worker"])
def test_a_role_that_is_killed_and_started_again_costs_a_build_nothing(
    victim: str,
    region: Region,
    scheduler: Role,
    cas: Role,
    worker: Role,
    bazel: Bazel,
    stages: Stages,
    tmp_path: Path,
) -> None:
    role = {"cas": cas, "scheduler": scheduler, "worker": worker}[victim]
    stages.close()
    bazel.clean()
    # What others of these tests made would be hits.
    unlike = [*flags(region), f"--action_env=VICTIM={victim}"]
    log = tmp_path / "log"
    with bazel.start(*unlike, targets=stages.targets, log=log) as build:
        for stage in range(STAGES):
            stages.wait(stage, build, log)
            # Its gate runs on the worker meanwhile; what comes next has to be asked for.
            if stage == STAGES // 2:
                role.kill()
                stages.open(stage)
                role.start()
            else:
                stages.open(stage)
        code = build.wait(240)

    output = log.read_text()
    assert code == 0, output
    # An execution that was asked for again may have ended meanwhile: then it is a hit.
    ran = re.findall(r"(\d+) remote(?: cache hit)?", output)
    assert sum(int(count) for count in ran) == STAGES * (STAGE_ACTIONS + 1), output
    assert "failed" not in output.lower(), output
