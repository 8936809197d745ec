"""Percentiles, which moto does not know by itself."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from scripts.region_local.cloud import Cloud
from scripts.region_local.emulator import percentile
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
