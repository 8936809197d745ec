"""What moto does not do by itself: percentiles, and one request at a time."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 2), (75, 3), (76, 4), (99, 4), (99.9, 4), (100, 4), (1, 1)]
)
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([4, 2, 1, 3], percent) == value


@pytest.mark.slow
def test_an_alarm_on_a_percentile_is_read_back_and_has_values(tmp_path: Path) -> None:
    with (
        moto(HOST, "111122223333", tmp_path) as endpoint,
        closing(Cloud(endpoint, "eu-central-1")) as cloud,
        closing(cloud.client("cloudwatch")) as client,
    ):
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
