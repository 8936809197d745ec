"""The region on one page, as CloudWatch's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from infra.kit import Kit

__all__ = ["body", "name_of"]

_WIDTH: Final = 12
_HEIGHT: Final = 6
_Metric = tuple[str, ...]


def name_of(kit: Kit) -> str:
    """Of the dashboard: with AWS' region in it, as dashboards are the account's."""
    return kit.name(kit.region)


def body(kit: Kit, *, namespace: str, edge: str, redis: str | None) -> dict[str, Any]:
    """The dashboard.

    Args:
        namespace: of the region's own metrics.
        edge: the clients' balancer, as CloudWatch names it.
        redis: the replication group; None if there is none.
    """
    charts = list(_charts(kit, namespace, edge, redis))
    return {
        "start": "-PT6H",
        "widgets": [
            {
                "type": "metric",
                "x": (index % 2) * _WIDTH,
                "y": (index // 2) * _HEIGHT,
                "width": _WIDTH,
                "height": _HEIGHT,
                "properties": {"region": kit.region, "view": "timeSeries", **chart},
            }
            for index, chart in enumerate(charts)
        ],
    }


def _chart(
    title: str, metrics: Sequence[_Metric], statistic: str, period_s: int = 60
) -> dict[str, Any]:
    return {
        "title": title,
        "metrics": [list(metric) for metric in metrics],
        "stat": statistic,
        "period": period_s,
    }


def _interruptions(namespace: str, dimension: str) -> str:
    """Of all types, or zones, that there were: which ones is not known before."""
    # A namespace with anything but letters and digits has to be quoted.
    schema = f'{{"{namespace}",Pool,{dimension}}}'
    return f"SEARCH('{schema} MetricName=\"Interruptions\"', 'Sum', 3600)"


def _charts(kit: Kit, namespace: str, edge: str, redis: str | None) -> Iterator[dict[str, Any]]:
    for pool in kit.settings.pools:
        of_pool = ("Pool", pool.name)
        yield _chart(
            f"{pool.name}: actions",
            [(namespace, name, *of_pool) for name in ("QueuedActions", "RunningActions")],
            "Maximum",
            10,
        )
        group = ("AutoScalingGroupName", kit.group("worker", pool.name))
        yield _chart(
            f"{pool.name}: workers",
            [
                *((namespace, name, *of_pool) for name in ("RegisteredWorkers", "IdleWorkers")),
                *(("AWS/AutoScaling", name, *group)
                  for name in ("GroupDesiredCapacity", "GroupPendingInstances")),
            ],
            "Maximum",
        )  # fmt: skip
        yield _chart(
            f"{pool.name}: seconds that the oldest action waits",
            [(namespace, "OldestQueuedSeconds", *of_pool)],
            "Maximum",
            10,
        )
        yield _chart(
            f"{pool.name}: load of the slots in percent, interruptions",
            [(namespace, name, *of_pool) for name in ("LoadRatio", "Interruptions")],
            "Maximum",
        )
    if any(pool.uses_spot for pool in kit.settings.pools):
        yield {
            "title": "Interruptions in an hour, by instance type and by zone",
            "metrics": [
                [{"expression": _interruptions(namespace, dimension), "id": dimension.lower()}]
                for dimension in ("InstanceType", "Zone")
            ],
            "stat": "Sum",
            "period": 3600,
        }
    yield _chart(
        "Action cache: hits and misses",
        [(namespace, name) for name in ("ActionCacheHits", "ActionCacheMisses")],
        "Sum",
    )
    yield _chart("Calls, and those that failed", [(namespace, "Calls"), (namespace, "FailedCalls")],
                 "Sum")  # fmt: skip
    yield _chart(
        "CAS: seconds that 99 % of the calls of bounded size take",
        [(namespace, "CasCallDuration")],
        "p99",
    )
    balancer = ("LoadBalancer", edge)
    yield _chart(
        "Clients' connections",
        [("AWS/NetworkELB", name, *balancer) for name in ("ActiveFlowCount", "NewFlowCount")],
        "Average",
    )
    yield _chart(
        "Clients' bytes; resets by the balancer",
        [
            ("AWS/NetworkELB", name, *balancer)
            for name in ("ProcessedBytes", "TCP_ELB_Reset_Count", "TCP_Target_Reset_Count")
        ],
        "Sum",
    )
    for bucket in ("cas", "ac"):
        of_bucket = ("BucketName", kit.bucket(bucket), "FilterId", "EntireBucket")
        yield _chart(
            f"S3 {bucket}: requests and errors",
            [
                ("AWS/S3", name, *of_bucket)
                for name in ("GetRequests", "PutRequests", "HeadRequests", "4xxErrors", "5xxErrors")
            ],
            "Sum",
        )
    for role in ("cas", "scheduler"):
        yield _chart(
            f"{role}: processor",
            [("AWS/EC2", "CPUUtilization", "AutoScalingGroupName", kit.group(role))],
            "Average",
        )
    if redis is not None:
        nodes = [f"{redis}-{node:03}" for node in range(1, kit.settings.redis.replicas + 2)]
        yield _chart(
            "Valkey: processor and memory in percent",
            [
                ("AWS/ElastiCache", name, "CacheClusterId", node)
                for node in nodes
                for name in ("EngineCPUUtilization", "DatabaseMemoryUsagePercentage")
            ],
            "Average",
        )
        yield _chart(
            "Valkey: hits, misses, evictions",
            [
                ("AWS/ElastiCache", name, "CacheClusterId", node)
                for node in nodes
                for name in ("CacheHits", "CacheMisses", "Evictions")
            ],
            "Sum",
        )
