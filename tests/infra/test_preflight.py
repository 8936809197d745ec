"""Quotas that a region needs, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.preflight import QUOTAS, examine
from infra.settings_load import load

EXAMPLES = Path(__file__).parents[2] / "infra/examples"
SPOT, ON_DEMAND, VPC, ENDPOINTS, ADDRESSES, RULES, BALANCERS = (each.code for each in QUOTAS)


def needed(example: str) -> dict[str, int]:
    settings = load(EXAMPLES / f"{example}.yaml")
    return {each.quota.code: each.needed for each in examine(settings, lambda _: None)}


def test_a_team_needs_its_largest_pool_in_spot_and_twice_its_servers() -> None:
    # 20 workers of 8 processors; 2 x 2 cas machines of 8, a scheduler of 2.
    # Two networks of clients, by two ports.
    servers = {VPC: 1, ENDPOINTS: 8, RULES: 4, BALANCERS: 2}
    assert needed("team") == {SPOT: 160, ON_DEMAND: 34, **servers}


def test_networks_of_one_ip_version_do_not_count_for_the_other() -> None:
    settings = load(EXAMPLES / "team.yaml")
    clients = ("10.0.0.0/16", "2001:db8::/32", "2001:db9::/32", "2001:dba::/32")
    both = settings.model_copy(update={"clients": clients})
    assert {each.quota.code: each.needed for each in examine(both, lambda _: None)}[RULES] == 6


def test_on_demand_workers_count_as_such() -> None:
    # x86 and arm: 30 x 8 spot each. gates: 3 x 8 on demand, beside the servers' 34.
    assert needed("arm-and-x86-pools")[SPOT] == 480
    assert needed("arm-and-x86-pools")[ON_DEMAND] == 34 + 24
    # linux: 8, and a tenth of the other 292, rounded up, are on demand; `large` are all spot.
    production = needed("multi-az-production")
    assert production[SPOT] == (300 - 8 - 30) * 8 + 40 * 32
    assert production[ADDRESSES] == 3


@pytest.mark.parametrize(
    ("allowed", "line"),
    [
        (None, "?  processors of spot instances"),
        (160.0, "ok processors of spot instances"),
        (32.0, "!! processors of spot instances"),
    ],
)
def test_a_quota_is_enough_too_small_or_unknown(allowed: float | None, line: str) -> None:
    settings = load(EXAMPLES / "team.yaml")
    first = next(examine(settings, lambda _: allowed))
    assert str(first).startswith(line)
    assert first.enough is (allowed != 32.0)


def test_what_is_too_small_comes_with_the_command_that_asks_for_more() -> None:
    settings = load(EXAMPLES / "team.yaml")
    first = next(examine(settings, lambda _: 32.0))
    assert str(first).endswith(
        "aws service-quotas request-service-quota-increase --service-code ec2 "
        "--quota-code L-34B43A08 --desired-value 160"
    )
