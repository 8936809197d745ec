"""EC2 Auto Scaling's API before the emulator's, asked as the program asks it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import parse_qsl
from urllib.request import urlopen

import boto3
import pytest
from botocore.exceptions import ClientError

from nativelink.testing.fakes import FakeClock
from scripts.region_local.cloud import Cloud
from scripts.region_local.front import Front
from scripts.region_local.lifecycle import Lifecycle, Outcome
from scripts.region_local.resources import LAUNCHING, Group, Hook

READY = Hook("workers", "ready", LAUNCHING, 300.0, goes_on=False)


class Upstream:
    """Stands for moto: answers everything with an empty result, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                asked = dict(parse_qsl(body))
                upstream.asked.append(asked)
                action = asked["Action"]
                text = f"<{action}Response><{action}Result/></{action}Response>".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def groups() -> list[Group]:
    return [Group("workers", 1, 2, 20, ("i-1", "i-2"), "", ())]


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle(FakeClock().monotonic)


@pytest.fixture
def front(upstream: Upstream, groups: list[Group], lifecycle: Lifecycle) -> Iterator[Front]:
    with Front("127.0.0.1", 0) as made:
        cloud = cast("Cloud", SimpleNamespace(groups=lambda: groups))
        made.serve(upstream.url, cloud, lifecycle)
        yield made


@pytest.fixture
def client(front: Front) -> Iterator[Any]:
    made = boto3.client(
        "autoscaling",
        endpoint_url=front.url,
        region_name="eu-central-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    yield made
    made.close()


def complete(client: Any, instance: str) -> None:
    client.complete_lifecycle_action(
        AutoScalingGroupName="workers",
        LifecycleHookName="ready",
        InstanceId=instance,
        LifecycleActionResult="CONTINUE",
    )


def test_lifecycle_actions_are_completed_here(
    client: Any, lifecycle: Lifecycle, upstream: Upstream
) -> None:
    with pytest.raises(ClientError, match=r"ValidationError.*No active Lifecycle Action"):
        complete(client, "i-1")
    lifecycle.wait_at(READY, "i-1")
    client.record_lifecycle_action_heartbeat(
        AutoScalingGroupName="workers", LifecycleHookName="ready", InstanceId="i-1"
    )
    complete(client, "i-1")
    assert lifecycle.outcome(READY, "i-1") == Outcome(by_time=False, goes_on=True)
    assert upstream.asked == []


def test_a_group_does_not_get_smaller_than_its_smallest_size(
    client: Any, groups: list[Group], upstream: Upstream
) -> None:
    def terminate(instance: str) -> None:
        client.terminate_instance_in_auto_scaling_group(
            InstanceId=instance, ShouldDecrementDesiredCapacity=True
        )

    terminate("i-1")
    assert [each["Action"] for each in upstream.asked] == ["TerminateInstanceInAutoScalingGroup"]
    groups[0] = Group("workers", 1, 1, 20, ("i-2",), "", ())
    with pytest.raises(ClientError, match=r"ValidationError.*desiredSize equals minSize"):
        terminate("i-2")
    with pytest.raises(ClientError, match=r"ValidationError.*not found"):
        terminate("i-1")
    assert len(upstream.asked) == 1


def test_everything_else_is_passed_on(client: Any, upstream: Upstream) -> None:
    client.set_instance_protection(
        AutoScalingGroupName="workers", InstanceIds=["i-1"], ProtectedFromScaleIn=True
    )
    assert upstream.asked[0]["Action"] == "SetInstanceProtection"
    assert upstream.asked[0]["AutoScalingGroupName"] == "workers"


def test_an_interruption_is_asked_for_at_the_same_port(front: Front) -> None:
    with pytest.raises(HTTPError, match="404") as refused:
        urlopen(f"{front.url}/interrupt", b"")
    refused.value.close()
    front.interrupt = lambda named: named or "i-2"
    with urlopen(f"{front.url}/interrupt", b"") as answer:
        assert answer.read() == b"i-2"
