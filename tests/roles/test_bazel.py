"""Real Bazel builds through the three roles, as they are packaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nativelink.testing.imds import FakeImds
from nativelink.testing.reapi import ReapiClient, digest_of
from tests.clients.bazel import Bazel
from tests.clients.conftest import debian_bazel
from tests.clients.programs import CLIENT_TESTS
from tests.clients.workspace import MINIMUM_ACTIONS, make_workspace
from tests.execution.gate import wait_for
from tests.roles.region import Region, Role, open_region

pytestmark = [*CLIENT_TESTS, pytest.mark.timeout(600)]

_POOLS = json.dumps(
    [{"name": "default", "properties": {"ISA": "x86-64", "OSFamily": "Linux"}, "slots": 8}]
)


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
def worker(region: Region, scheduler: Role) -> Role:
    region.start("cas")
    started = region.start("worker", "i-0123", NATIVELINK_JOBS="8", NATIVELINK_CPU_COUNT="8")
    wait_for(scheduler.workers, "the worker joins")
    return started


@pytest.fixture(scope="module")
def bazel(
    tmp_path_factory: pytest.TempPathFactory, sources: Path, user_root: Path, region: Region
) -> Iterator[Bazel]:
    workspace = make_workspace(tmp_path_factory.mktemp("roles") / "program", sources, salt="roles")
    address = f"grpc://127.0.0.1:{region.client_port}"
    flags = [
        f"--remote_executor={address}",
        f"--remote_cache={address}",
        "--spawn_strategy=remote",
        "--remote_default_exec_properties=OSFamily=linux",
        "--jobs=16",
    ]
    made = debian_bazel(workspace, user_root, "roles", flags=flags)
    yield made
    made.stop()


def test_a_build_runs_on_the_worker_and_the_next_one_comes_from_the_cache(
    region: Region, scheduler: Role, worker: Role, bazel: Bazel
) -> None:
    first = bazel.build()
    assert first.runners.get("remote", 0) >= MINIMUM_ACTIONS
    bazel.clean()
    again = bazel.build()
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
    found = region.aws("cloudwatch").list_metrics(Namespace="NativeLink")["Metrics"]
    pools = {each["Dimensions"][0]["Value"] for each in found}
    assert pools == {"default", "none"}
    assert {each["MetricName"] for each in found} == {
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
