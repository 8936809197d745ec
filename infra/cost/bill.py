"""A month's bill: a region's settings and a team's usage, at given prices.

Every line can be checked by hand: a quantity, what one of it costs, and their product. What has no
line is below a few dollars (SQS, EventBridge, SNS, SSM), or free (gateway endpoint, IAM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from infra import retention
from infra.capacity import processors, slots_of
from infra.cost.prices import Prices
from infra.cost.usage import HOURS, Usage
from infra.settings import (
    MutualTls,
    Nat,
    NoTls,
    PoolSettings,
    RegionSettings,
    ServerTls,
    StorageProfile,
)

__all__ = ["Item", "bill"]

#: Processors of a worker in the simulator, whose hours the usage is given in.
_SIMULATED: Final = 8
#: Of gp3 disks, as `launch_template` asks for them; the first 125 cost nothing.
_PAID_MBPS: Final = 250 - 125
_DAYS: Final = 365 / 12
#: Interface endpoints: `endpoints` makes so many, and three more for shells.
_ENDPOINTS: Final = 5
_SHELL_ENDPOINTS: Final = 3
_KEYS: Final = 4
#: Of each pool, every 10 s; `none` is one more pool. And those of calls.
_POOL_METRICS: Final = 6
_CALL_METRICS: Final = 5
#: S3's request metrics of one bucket, of three buckets.
_BUCKET_METRICS: Final = 16
_BUCKETS_MEASURED: Final = 3
#: Metrics that alarms look at: machines down and unhealthy, connections that are cut, calls, pools
#: together, the drain queue; of each pool; of each node of Valkey; of the buckets.
_ALARMS: Final = 2 + 5 + 1 + 5 + 2 + 2
_POOL_ALARMS: Final = 3
_NODE_ALARMS: Final = 2
_BUCKET_ALARMS: Final = 2 * (1 + 2)
#: A flow log record in Parquet is about so much for each GB that flows.
_FLOW_GB: Final = 0.0005


@dataclass(frozen=True)
class Item:
    """A line.

    Attributes:
        part: heading that it is summed up under.
        what: what it is.
        quantity: how much of it.
        unit: what a quantity of 1 is.
        price: US dollars for that.
    """

    part: str
    what: str
    quantity: float
    unit: str
    price: float

    @property
    def dollars(self) -> float:
        """US dollars a month."""
        return self.quantity * self.price


def bill(settings: RegionSettings, usage: Usage, developers: float, prices: Prices) -> list[Item]:
    """What a region with so many developers costs in a month; with none, what it costs idle.

    Raises:
        NativeLinkError: NOT_FOUND, the table has no price of a type in the settings.
    """
    month = _Month(settings, usage, developers, prices)
    return [item for item in month.items() if item.quantity]


class _Month:
    def __init__(
        self, settings: RegionSettings, usage: Usage, developers: float, prices: Prices
    ) -> None:
        self._settings, self._usage, self._prices = settings, usage, prices
        days = developers * usage.working_days
        self._worker_hours = days * usage.worker_hours
        self._actions = days * usage.actions
        self._new_gb = self._actions * usage.new_mb / 1000
        self._new_blobs = self._actions * usage.new_blobs
        self._client_gb = days * usage.client_gb
        self._worker_gb = days * usage.worker_gb
        self._log_gb = days * usage.log_mb / 1000
        network = settings.network
        self._zones = len(network.zone_names) or network.zones

    def items(self) -> Iterator[Item]:
        yield from self._servers()
        yield from self._valkey()
        for pool in self._settings.pools:
            yield from self._pool(pool)
        yield from self._network()
        yield from self._storage()
        yield from self._watching()
        yield from self._rest()

    # -- machines ------------------------------------------------------------------------------

    def _servers(self) -> Iterator[Item]:
        prices, cas, scheduler = self._prices, self._settings.cas, self._settings.scheduler
        for name, each, count in (("cas", cas, cas.count), ("scheduler", scheduler, 1)):
            yield Item(
                "Servers",
                f"{name}: {count} x {each.instance_type}",
                count * HOURS,
                "hour",
                prices.of_instance(each.instance_type),
            )
            yield Item(
                "Servers",
                f"{name}: disks and detailed monitoring",
                count,
                "month",
                self._disk(each.disk_gb) + prices.monitored_instance_month,
            )

    def _disk(self, gigabytes: float) -> float:
        prices = self._prices
        return gigabytes * prices.disk_gb_month + _PAID_MBPS * prices.disk_mbps_month

    def _valkey(self) -> Iterator[Item]:
        redis = self._settings.redis
        nodes = redis.replicas + 1
        price = self._prices.of_node(redis.node_type)
        what = f"Valkey: {nodes} x {redis.node_type}"
        yield Item("Valkey", what, nodes * HOURS, "hour", price)

    def _pool(self, pool: PoolSettings) -> Iterator[Item]:
        """Work is divided equally among pools; what is always there is paid even without any."""
        prices = self._prices
        size = processors(pool.types[0]) if pool.slots == 0 else slots_of(pool)
        asked = self._worker_hours * _SIMULATED / size / len(self._settings.pools)
        hours = max(asked, pool.min * HOURS)
        always = min(pool.on_demand_base, pool.min) * HOURS
        on_demand = always + (hours - always) * pool.on_demand_percent / 100
        price = prices.worker_processor_hour[pool.isa]
        part = "Workers"
        yield Item(
            part,
            f"{pool.name}: spot, {size} processors",
            hours - on_demand,
            "hour",
            size * price.spot,
        )
        yield Item(
            part,
            f"{pool.name}: on demand, {size} processors",
            on_demand,
            "hour",
            size * price.on_demand,
        )
        yield Item(
            part,
            f"{pool.name}: disks and detailed monitoring",
            hours / HOURS,
            "month",
            self._disk(pool.disk_gb) + prices.monitored_instance_month,
        )

    # -- network -------------------------------------------------------------------------------

    def _network(self) -> Iterator[Item]:
        prices, network = self._prices, self._settings.network
        part = "Network"
        yield Item(part, "2 network load balancers", 2 * HOURS, "hour", prices.balancer_hour)
        carried = self._client_gb + self._worker_gb + 2 * self._new_gb
        yield Item(part, "what they carry", carried, "GB", prices.balancer_unit_hour)
        endpoints = _ENDPOINTS + (_SHELL_ENDPOINTS if network.shell else 0)
        yield Item(
            part,
            f"{endpoints} interface endpoints in {network.endpoint_zones} of {self._zones} zones",
            endpoints * network.endpoint_zones * HOURS,
            "hour",
            prices.endpoint_hour,
        )
        # Balancers and machines are where they are: all but one zone of n is another one.
        crossing = carried * (self._zones - 1) / self._zones
        yield Item(part, "between zones", crossing, "GB", prices.between_zones_gb)
        gateways = {Nat.NONE: 0, Nat.SINGLE: 1, Nat.PER_ZONE: self._zones}[network.nat]
        yield Item(part, "NAT gateways", gateways * HOURS, "hour", prices.nat_hour)
        public = gateways + (self._zones if self._settings.public else 0)
        yield Item(part, "public addresses", public * HOURS, "hour", prices.public_address_hour)
        if self._settings.public:
            yield Item(
                part, "downloads to the internet", self._client_gb, "GB", prices.to_internet_gb
            )

    # -- storage -------------------------------------------------------------------------------

    def _storage(self) -> Iterator[Item]:
        """After as many days as blobs are kept, as much is deleted each day as comes."""
        prices, usage = self._prices, self._usage
        part = "S3"
        lasting = retention.of_cas(self._settings.storage)
        daily_gb = self._new_gb / _DAYS
        large_gb = daily_gb * usage.large_bytes_percent / 100
        warm_days, cold_days, archive_days = self._ages(lasting.expire_days)
        standard = (daily_gb - large_gb) * lasting.expire_days + large_gb * warm_days
        yield Item(part, "STANDARD", standard, "GB", prices.standard_gb_month)
        yield Item(
            part,
            "after a month without use",
            large_gb * cold_days,
            "GB",
            prices.infrequent_gb_month,
        )
        yield Item(
            part,
            "after three months without use",
            large_gb * archive_days,
            "GB",
            prices.archive_gb_month,
        )
        # An action result for each action; uploads of blobs.
        written = (self._new_blobs + self._actions) / 1000
        yield Item(part, "uploads", written, "1,000", prices.put_1000)
        reads_gb = (self._client_gb + self._worker_gb) * usage.bucket_reads_percent / 100
        blob_gb = usage.new_mb / usage.new_blobs / 1000
        yield Item(
            part, "downloads", reads_gb / blob_gb / 1000 if reads_gb else 0, "1,000",
            prices.get_1000,
        )  # fmt: skip
        large_blobs = self._new_blobs * usage.large_blobs_percent / 100
        yield from self._classes(large_blobs, reads_gb * usage.old_reads_percent / 100, lasting)

    def _ages(self, expire_days: int) -> tuple[int, int, int]:
        """Days that a large blob spends in each class."""
        storage = self._settings.storage
        match storage.profile:
            case StorageProfile.LIFECYCLE:
                first, second = storage.infrequent_after_days, storage.archive_after_days
            case StorageProfile.INTELLIGENT_TIERING:
                first, second = 30, 90
            case StorageProfile.SHORT:
                first = second = expire_days
        first, second = min(first, expire_days), min(second, expire_days)
        return first, second - first, expire_days - second

    def _classes(
        self, large_blobs: float, old_gb: float, lasting: retention.Retention
    ) -> Iterator[Item]:
        """What it costs to move objects between classes, and to read them there."""
        prices, part = self._prices, "S3"
        match self._settings.storage.profile:
            case StorageProfile.LIFECYCLE:
                moved = large_blobs / 1000
                yield Item(part, "moves to STANDARD_IA", moved, "1,000", prices.to_infrequent_1000)
                yield Item(part, "moves to GLACIER_IR", moved, "1,000", prices.to_archive_1000)
                yield Item(
                    part, "reads of old blobs", old_gb, "GB",
                    (prices.infrequent_read_gb + prices.archive_read_gb) / 2,
                )  # fmt: skip
            case StorageProfile.INTELLIGENT_TIERING:
                kept = large_blobs / _DAYS * lasting.expire_days / 1000
                yield Item(
                    part, "tiering of objects", kept, "1,000", prices.tiering_objects_1000_month
                )
            case StorageProfile.SHORT:
                pass

    # -- the rest ------------------------------------------------------------------------------

    def _watching(self) -> Iterator[Item]:
        prices, settings = self._prices, self._settings
        part = "CloudWatch"
        pools = len(settings.pools)
        yield Item(
            part,
            "metrics of pools (each 10 s) and of calls",
            _POOL_METRICS * (pools + 1) + pools + _CALL_METRICS,
            "metric",
            prices.metric_month,
        )
        yield Item(
            part,
            "publications every 10 s",
            HOURS * 360 / 1000,
            "1,000",
            prices.metric_requests_1000,
        )
        if settings.alarms.paid_metrics:
            yield Item(
                part,
                "S3's request metrics",
                _BUCKET_METRICS * _BUCKETS_MEASURED,
                "metric",
                prices.metric_month,
            )
        nodes = settings.redis.replicas + 1
        alarms = _ALARMS + _POOL_ALARMS * pools + _NODE_ALARMS * nodes
        alarms += _BUCKET_ALARMS if settings.alarms.paid_metrics else 0
        tls = settings.tls
        alarms += isinstance(tls, ServerTls) and tls.certificate_arn is None
        alarms += isinstance(tls, MutualTls)
        alarms -= 0 if settings.alarms.hit_percent else 2
        yield Item(part, "alarms, by metrics", alarms, "metric", prices.alarm_month)
        # From nothing: two metrics; target tracking makes one by itself.
        yield Item(
            part, "alarms every 10 s, by metrics", 3 * pools, "metric", prices.fast_alarm_month
        )
        yield Item(part, "service down", 1, "alarm", prices.composite_alarm_month)
        yield Item(part, "dashboard", 1, "dashboard", prices.dashboard_month)
        yield Item(part, "logs", self._log_gb, "GB", prices.log_gb)
        flowed = self._client_gb + self._worker_gb + 2 * self._new_gb
        yield Item(part, "flow logs", flowed * _FLOW_GB, "GB", prices.flow_log_gb)

    def _rest(self) -> Iterator[Item]:
        prices, tls = self._prices, self._settings.tls
        part = "Keys, secrets, names"
        yield Item(part, "KMS keys", _KEYS, "key", prices.key_month)
        # A bucket key serves many objects: one request in a hundred asks KMS.
        requests = (self._new_blobs + self._actions) / 100 / 10_000
        yield Item(part, "KMS requests", requests, "10,000", prices.key_requests_10000)
        secrets = 1 + isinstance(tls, MutualTls)
        yield Item(part, "secrets", secrets, "secret", prices.secret_month)
        zones = 1 + (not isinstance(tls, NoTls) and tls.zone_id is not None)
        yield Item(part, "hosted zones", zones, "zone", prices.zone_month)
