"""Our requests, as AWS' own models and moto understand them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from nativelink.aws.auto_scaling import AutoScaling
from nativelink.aws.clients import Clients, aws_errors, open_clients
from nativelink.aws.cloudwatch import Datum, put_metric_data
from nativelink.aws.drain_queue import SqsQueue
from nativelink.core.clock import SystemClock
from nativelink.core.errors import Code, NativeLinkError
from tests.stores.cloud.servers import KEY, REGION, SECRET, Moto

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("moto")]


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    server = Moto()
    yield server
    server.close()


@pytest.fixture
def aws(moto: Moto) -> Any:
    """boto3's client of a service, to look behind ours."""

    def client(service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{moto.port}",
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    return client


@pytest.fixture
async def clients(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    async with open_clients(REGION) as opened:
        yield opened


@pytest.fixture
def group(aws: Any) -> Iterator[str]:
    """A group of one to three machines, two of them there, with a hook that holds no one."""
    ec2, client = aws("ec2"), aws("autoscaling")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    client.create_launch_configuration(
        LaunchConfigurationName="worker", ImageId=image, InstanceType="t3.small"
    )
    client.create_auto_scaling_group(
        AutoScalingGroupName="workers",
        LaunchConfigurationName="worker",
        MinSize=1,
        MaxSize=3,
        DesiredCapacity=2,
        AvailabilityZones=[f"{REGION}a"],
        NewInstancesProtectedFromScaleIn=True,
    )
    yield "workers"
    client.delete_auto_scaling_group(AutoScalingGroupName="workers", ForceDelete=True)
    client.delete_launch_configuration(LaunchConfigurationName="worker")


def machines(aws: Any) -> dict[str, bool]:
    """Those of the group, and whether each is protected."""
    (found,) = aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    return {each["InstanceId"]: each["ProtectedFromScaleIn"] for each in found["Instances"]}


async def test_values_are_in_cloudwatch_with_their_pool_and_time(
    clients: Clients, aws: Any
) -> None:
    put = await put_metric_data(clients, "NativeLink/test")
    now = SystemClock().time()
    await put(
        [Datum("LoadRatio", "x86", 75.0, "Percent", now)]
        + [Datum("QueuedActions", f"pool-{n}", n, "Count", now) for n in range(999)]
    )
    query = {
        "Id": "load",
        "MetricStat": {
            "Metric": {
                "Namespace": "NativeLink/test",
                "MetricName": "LoadRatio",
                "Dimensions": [{"Name": "Pool", "Value": "x86"}],
            },
            "Period": 10,
            "Stat": "Average",
        },
    }
    at = datetime.fromtimestamp(now, UTC)
    found = aws("cloudwatch").get_metric_data(
        MetricDataQueries=[query],
        StartTime=at - timedelta(seconds=30),
        EndTime=at + timedelta(seconds=30),
    )
    assert found["MetricDataResults"][0]["Values"] == [75.0]


async def test_interruptions_of_a_zone_are_a_metric_of_their_own(
    clients: Clients, aws: Any
) -> None:
    put = await put_metric_data(clients, "NativeLink/zones")
    now = SystemClock().time()
    zone = (("Zone", "eu-central-1a"),)
    await put(
        [
            Datum("Interruptions", "x86", 1, "Count", now, 60),
            Datum("Interruptions", "x86", 1, "Count", now, 60, more=zone),
        ]
    )
    found = aws("cloudwatch").list_metrics(Namespace="NativeLink/zones")["Metrics"]
    dimensions = [{each["Name"]: each["Value"] for each in one["Dimensions"]} for one in found]
    assert sorted(dimensions, key=len) == [
        {"Pool": "x86"},
        {"Pool": "x86", "Zone": "eu-central-1a"},
    ]


async def test_a_distribution_has_its_extremes_in_cloudwatch(clients: Clients, aws: Any) -> None:
    put = await put_metric_data(clients, "NativeLink/calls")
    now = SystemClock().time()
    counts = ((0.1, 5), (1.0, 2))
    await put([Datum("CasCallDuration", None, 0.0, "Seconds", now, 60, counts)])
    at = datetime.fromtimestamp(now, UTC)
    found = aws("cloudwatch").get_metric_statistics(
        Namespace="NativeLink/calls",
        MetricName="CasCallDuration",
        StartTime=at - timedelta(seconds=90),
        EndTime=at + timedelta(seconds=90),
        Period=60,
        Statistics=["SampleCount", "Maximum", "Minimum"],
    )
    (point,) = found["Datapoints"]
    assert (point["SampleCount"], point["Minimum"], point["Maximum"]) == (7, 0.1, 1.0)


async def test_messages_come_and_are_deleted(clients: Clients, aws: Any) -> None:
    sqs = aws("sqs")
    url = sqs.create_queue(QueueName="drain")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"detail-type": "x"}))
    queue = await SqsQueue.of(clients, url)
    (message,) = await queue.receive()
    assert json.loads(message.body) == {"detail-type": "x"}
    await queue.delete(message)
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessages"] == "0"
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "0"


async def test_a_queue_that_does_not_exist_says_so(clients: Clients, moto: Moto) -> None:
    queue = await SqsQueue.of(clients, f"http://127.0.0.1:{moto.port}/123456789012/missing")
    with pytest.raises(NativeLinkError, match="ReceiveMessage"):
        await queue.receive()


async def test_a_machine_is_protected_and_ends_with_one_fewer_wanted(
    clients: Clients, aws: Any, group: str
) -> None:
    auto_scaling = await AutoScaling.of(clients)
    first, second = machines(aws)
    await auto_scaling.protect(group, first, protected=False)
    assert machines(aws) == {first: False, second: True}
    await auto_scaling.terminate(first)
    assert machines(aws) == {second: True}
    (found,) = aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert found["DesiredCapacity"] == 1


async def test_an_answer_of_no_form_at_all_is_unavailable(clients: Clients) -> None:
    """moto breaks down over machines that it does not know, and answers with a page."""
    auto_scaling = await AutoScaling.of(clients)
    with pytest.raises(NativeLinkError, match="TerminateInstanceInAutoScalingGroup") as raised:
        await auto_scaling.terminate("i-00000000000000000")
    assert raised.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("ValidationError", Code.FAILED_PRECONDITION),
        ("AccessDenied", Code.PERMISSION_DENIED),
        ("Throttling", Code.RESOURCE_EXHAUSTED),
        ("ResourceContention", Code.UNAVAILABLE),
    ],
)
def test_what_a_service_answers_becomes_one_of_our_codes(said: str, code: Code) -> None:
    with pytest.raises(NativeLinkError, match=f"asked: {said}: why") as raised, aws_errors("asked"):
        raise ClientError({"Error": {"Code": said, "Message": "why"}}, "Ask")
    assert raised.value.code is code


async def test_an_endpoint_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    async with open_clients(REGION) as clients:
        put = await put_metric_data(clients, "NativeLink/test")
        with pytest.raises(NativeLinkError, match="PutMetricData") as raised:
            await put([Datum("LoadRatio", "x86", 75.0, "Percent", 1.0)])
    assert raised.value.code is Code.UNAVAILABLE
