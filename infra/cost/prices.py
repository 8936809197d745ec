"""The table of prices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.settings import ISA
from nativelink.core.errors import invalid_argument, not_found

__all__ = ["SHIPPED", "Prices", "WorkerPrice", "load_prices"]

SHIPPED: Final = Path(__file__).with_name("prices.yaml")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkerPrice(_Table):
    """US dollars for a processor of a worker and an hour."""

    on_demand: float
    spot: float


class Prices(_Table):
    """US dollars, by what they are for; the file says what each is."""

    dated: str
    region: str
    source: str
    instance_hour: Mapping[str, float]
    worker_processor_hour: Mapping[ISA, WorkerPrice]
    node_hour: Mapping[str, float]
    monitored_instance_month: float
    disk_gb_month: float
    disk_mbps_month: float
    balancer_hour: float
    balancer_unit_hour: float
    endpoint_hour: float
    nat_hour: float
    public_address_hour: float
    between_zones_gb: float
    to_internet_gb: float
    standard_gb_month: float
    infrequent_gb_month: float
    archive_gb_month: float
    infrequent_read_gb: float
    archive_read_gb: float
    put_1000: float
    get_1000: float
    to_infrequent_1000: float
    to_archive_1000: float
    tiering_objects_1000_month: float
    key_month: float
    key_requests_10000: float
    secret_month: float
    zone_month: float
    metric_month: float
    metric_requests_1000: float
    alarm_month: float
    fast_alarm_month: float
    composite_alarm_month: float
    dashboard_month: float
    log_gb: float
    flow_log_gb: float

    def of_instance(self, instance_type: str) -> float:
        """Of an on-demand machine and an hour.

        Raises:
            NativeLinkError: NOT_FOUND, the table has no such type.
        """
        return _looked_up(self.instance_hour, instance_type, "instance_hour")

    def of_node(self, node_type: str) -> float:
        """Of a node of Valkey and an hour.

        Raises:
            NativeLinkError: NOT_FOUND, the table has no such type.
        """
        return _looked_up(self.node_hour, node_type, "node_hour")


def _looked_up(table: Mapping[str, float], name: str, where: str) -> float:
    if name not in table:
        raise not_found(
            f"no price of {name}; {where} in the table of prices has {', '.join(table)}: add it to "
            "a copy, and name that by --prices"
        )
    return table[name]


def load_prices(path: Path = SHIPPED) -> Prices:
    """The table in a file.

    Raises:
        NativeLinkError: INVALID_ARGUMENT, what is missing or unknown in it.
    """
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as failure:
        wrong = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in failure.errors())
        raise invalid_argument(f"{path}: {'; '.join(wrong)}") from None
