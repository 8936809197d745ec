"""What moto does not do by itself: percentiles, and one request at a time."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from scripts.region_local.cloud import Cloud
from scripts.region_local.emulator import OneAtATime, percentile
from scripts.region_local.services import moto

#: Where no region is: those begin at 127.64.
HOST = "127.63.0.1"
AT = 1_700_000_040
#: By which AWS' SDKs say that they send something again, and as WSGI names it.
HEADER = "amz-sdk-invocation-id"
CALL = "HTTP_AMZ_SDK_INVOCATION_ID"


@contextmanager
def asking(service: str, folder: Path) -> Iterator[tuple[Cloud, Any]]:
    """An emulator, and a client of one of its services."""
    with (
        moto(HOST, "111122223333", folder) as endpoint,
        closing(Cloud(endpoint, "eu-central-1")) as cloud,
        closing(cloud.client(service)) as client,
    ):
        yield cloud, client


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 2), (75, 3), (76, 4), (99, 4), (99.9, 4), (100, 4), (1, 1)]
)
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([4, 2, 1, 3], percent) == value


@pytest.mark.slow
def test_only_what_is_refused_is_noted(tmp_path: Path) -> None:
    with asking("sqs", tmp_path) as (cloud, client):
        client.create_queue(QueueName="there")
        client.get_queue_url(QueueName="there")
        with pytest.raises(client.exceptions.QueueDoesNotExist):
            client.get_queue_url(QueueName="absent")
        with closing(cloud.client("s3")) as s3:
            where = {"LocationConstraint": "eu-central-1"}
            s3.create_bucket(Bucket="there", CreateBucketConfiguration=where)
            with pytest.raises(s3.exceptions.ClientError):
                s3.head_object(Bucket="there", Key="absent")
            with pytest.raises(s3.exceptions.NoSuchKey):
                s3.get_object(Bucket="there", Key="absent")
    noted = re.findall(r'"[^"]* HTTP[^"]*" (\d+)', (tmp_path / "moto.log").read_text())
    assert noted == ["400", "404"]


@pytest.mark.slow
def test_an_alarm_on_a_percentile_is_read_back_and_has_values(tmp_path: Path) -> None:
    with asking("cloudwatch", tmp_path) as (cloud, client):
        client.put_metric_alarm(
            AlarmName="slow", Namespace="N", MetricName="Duration", Period=60,
            ExtendedStatistic="p99", EvaluateLowSampleCountPercentile="ignore",
            EvaluationPeriods=5, Threshold=2.0, ComparisonOperator="GreaterThanThreshold",
        )  # fmt: skip
        client.put_metric_data(
            Namespace="N",
            MetricData=[
                {
                    "MetricName": "Duration",
                    "Timestamp": AT,
                    "Values": [0.5, 3.0, 9.0],
                    "Counts": [980.0, 15.0, 5.0],
                }
            ],
        )
        (alarm,) = cloud.alarms()
        assert (alarm.metrics[0].statistic, alarm.fewest) == ("p99", 1000)
        assert cloud.values(alarm.metrics, AT, AT + 60) == {"value": {AT: 3.0}}


def test_requests_are_answered_one_at_a_time() -> None:
    """The one within is given every chance to be joined by another."""
    within: list[int] = []
    most = 0
    joined = threading.Event()

    def application(_environ: dict[str, Any], _start: object) -> Iterable[bytes]:
        nonlocal most
        within.append(1)
        most = max(most, len(within))
        if len(within) > 1:
            joined.set()
        joined.wait(0.01)
        within.pop()
        return [b""]

    in_turns = OneAtATime(application)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: in_turns({}, None), range(8)))
    assert most == 1


def test_a_request_whose_body_is_slow_keeps_nobody_waiting() -> None:
    arrived, answered = threading.Event(), threading.Event()

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            arrived.set()
            assert answered.wait(60), "the other request is not answered"
            return super().read(size)

    def application(environ: dict[str, Any], _start: object) -> Iterable[bytes]:
        return [environ["wsgi.input"].read()]

    in_turns = OneAtATime(application)
    with ThreadPoolExecutor(1) as pool:
        environ = {"CONTENT_LENGTH": "4", "wsgi.input": Slow(b"bodyand what follows")}
        slow = pool.submit(in_turns, environ, None)
        assert arrived.wait(60)
        assert in_turns({"wsgi.input": BytesIO(b"")}, None) == [b""]
        answered.set()
        assert slow.result() == [b"body"]


def test_what_is_sent_again_is_answered_as_it_was_and_done_once() -> None:
    done: list[str] = []
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        call = environ.get(CALL, "none")
        failed = call == "failing" and call not in done
        done.append(call)
        start("400 LATER" if failed else "200 OK", [("X", str(len(done)))])
        return [b"number ", str(len(done)).encode()]

    in_turns = OneAtATime(application)

    def ask(call: str, method: str = "POST") -> tuple[str, bytes]:
        environ = {"REQUEST_METHOD": method, CALL: call}
        body = b"".join(in_turns(environ, lambda *said: started.append(said)))
        status, headers = started[-1]
        assert headers == [("X", body.split()[1].decode())]
        return status, body

    assert ask("first") == ("200 OK", b"number 1")
    assert ask("second") == ("200 OK", b"number 2")
    assert ask("first") == ("200 OK", b"number 1")
    assert ask("failing") == ("400 LATER", b"number 3")
    assert ask("failing") == ("200 OK", b"number 4")
    assert ask("failing") == ("200 OK", b"number 4")
    assert ask("first", "GET") == ("200 OK", b"number 5")
    assert ask("first", "PUT") == ("200 OK", b"number 1")
    for number in range(1100):
        ask(f"other {number}")
    assert ask("other 1099") == ("200 OK", b"number 1105")
    assert ask("first") == ("200 OK", b"number 1106")


def test_what_did_not_come_whole_is_not_done() -> None:
    def application(_environ: dict[str, Any], _start: object) -> Iterable[bytes]:
        pytest.fail("called")

    with pytest.raises(ConnectionAbortedError, match="3 of 4 bytes"):
        OneAtATime(application)({"CONTENT_LENGTH": "4", "wsgi.input": BytesIO(b"bod")}, print)


@pytest.mark.slow
def test_a_rule_that_terraform_sends_twice_is_no_duplicate(tmp_path: Path) -> None:
    """As a client does that never got the answer."""
    with asking("ec2", tmp_path) as (_, client):
        group = client.create_security_group(GroupName="g", Description="d")["GroupId"]

        def same(request: Any, **_: object) -> None:
            request.headers[HEADER] = "the same"

        client.meta.events.register("before-send.ec2.AuthorizeSecurityGroupIngress", same)
        rule = {
            "IpProtocol": "tcp",
            "FromPort": 1,
            "ToPort": 1,
            "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
        }
        one, again = (
            client.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
            for _ in range(2)
        )
        assert one["SecurityGroupRules"] == again["SecurityGroupRules"]


@pytest.mark.slow
def test_the_client_closes_its_connection_first(tmp_path: Path) -> None:
    with moto(HOST, "111122223333", tmp_path) as endpoint:
        port = int(endpoint.rpartition(":")[2])
        with socket.create_connection((HOST, port)) as connection:
            connection.settimeout(60)
            connection.sendall(b"GET /moto-api/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length, head
            while len(body) < int(length[1]):
                body += connection.recv(65536)
            # By itself moto closes after 10 ms.
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_who_waits_for_a_message_keeps_nobody_waiting() -> None:
    waits, sent = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], _start: object) -> Iterable[bytes]:
        if environ:
            waits.set()
            assert sent.wait(60), "nobody can send"
        else:
            sent.set()
        return [b""]

    in_turns = OneAtATime(application)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(in_turns, {"HTTP_X_AMZ_TARGET": "AmazonSQS.ReceiveMessage"}, None)
        assert waits.wait(60)
        assert in_turns({}, None) == [b""]
        assert received.result() == [b""]
