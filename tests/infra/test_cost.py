"""The bill, against sums made by hand, and the page that shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra.cost.bill import Item, bill
from infra.cost.prices import SHIPPED, load_prices
from infra.cost.report import page
from infra.cost.usage import Usage
from infra.settings import RegionSettings
from infra.settings_load import load
from nativelink.core.errors import NativeLinkError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "infra/examples"
PRICES = load_prices()
#: One developer, one day, round numbers.
USAGE = Usage(
    worker_hours=10,
    actions=1000,
    new_blobs=2,
    new_mb=1.0,
    large_blobs_percent=50,
    large_bytes_percent=80,
    client_gb=10,
    worker_gb=88,
    bucket_reads_percent=10,
    old_reads_percent=50,
    log_mb=1000,
    working_days=1,
)


def settings(name: str) -> RegionSettings:
    return load(EXAMPLES / f"{name}.yaml")


def items(name: str, developers: float = 0, usage: Usage = USAGE) -> dict[str, Item]:
    return {each.what: each for each in bill(settings(name), usage, developers, PRICES)}


def part(found: dict[str, Item], name: str) -> float:
    return sum(each.dollars for each in found.values() if each.part == name)


def test_an_idle_region_costs_its_servers_balancers_endpoints_and_watching() -> None:
    found = items("minimal")
    # m7gd.large and t4g.small; disks of 100 and 30 GB with 125 MB/s above what is free.
    assert part(found, "Servers") == pytest.approx(
        730 * 0.1068 + (8.00 + 5.00 + 2.10) + 730 * 0.0168 + (2.40 + 5.00 + 2.10)
    )
    assert part(found, "Valkey") == pytest.approx(730 * 0.0256)
    assert part(found, "Network") == pytest.approx(2 * 730 * 0.0225 + 8 * 730 * 0.01)
    assert part(found, "Keys, secrets, names") == pytest.approx(4 * 1 + 0.40 + 0.50)
    assert {"Workers", "S3"}.isdisjoint(each.part for each in found.values())


def test_workers_are_paid_by_their_hours_disks_and_metrics() -> None:
    found = items("minimal", 2)
    # 20 hours of 8 spot processors; a disk and seven metrics for 20 of 730 hours.
    assert part(found, "Workers") == pytest.approx(20 * 8 * 0.0225 + 20 / 730 * 15.10)


def test_work_is_divided_among_pools_and_what_is_always_there_is_paid_without_any() -> None:
    found = items("arm-and-x86-pools", 3)
    # 30 hours for three pools; `gates` has one on-demand machine all the time.
    assert found["x86: spot, 8 processors"].dollars == pytest.approx(10 * 8 * 0.0225)
    assert found["arm: spot, 8 processors"].dollars == pytest.approx(10 * 8 * 0.0160)
    assert found["gates: on demand, 8 processors"].dollars == pytest.approx(730 * 8 * 0.0425)
    assert "gates: spot, 8 processors" not in found


def test_what_balancers_carry_crosses_zones_two_times_in_three() -> None:
    found = items("minimal", 1)
    # 10 GB to the client, 88 to workers, and a GB of outputs that goes in and through.
    assert found["what they carry"].dollars == pytest.approx(100 * 0.006)
    assert found["between zones"].dollars == pytest.approx(100 * 2 / 3 * 0.02)


def test_s3_is_paid_by_age_by_request_and_by_move() -> None:
    found = items("minimal", 365 / 12)
    # A GB a day for 180 days: 0.2 of it small and in STANDARD for all of them, 0.8 large.
    assert found["STANDARD"].quantity == pytest.approx(0.2 * 180 + 0.8 * 30)
    assert found["after a month without use"].quantity == pytest.approx(0.8 * 60)
    assert found["after three months without use"].quantity == pytest.approx(0.8 * 90)
    days = 365 / 12
    assert found["uploads"].dollars == pytest.approx(days * 3000 / 1000 * 0.005)
    # A tenth of 98 GB a day from S3, in blobs of half a MB.
    assert found["downloads"].dollars == pytest.approx(days * 9.8 / 0.0005 / 1000 * 0.0004)
    assert found["moves to GLACIER_IR"].dollars == pytest.approx(days * 1000 / 1000 * 0.02)
    assert found["reads of old blobs"].dollars == pytest.approx(days * 4.9 * 0.02)


def test_other_storage_profiles_are_billed_as_they_are() -> None:
    short = items("mtls", 365 / 12)
    assert short["STANDARD"].quantity == pytest.approx(1 * 21)
    assert {"moves to GLACIER_IR", "after a month without use"}.isdisjoint(short)
    tiered = items("multi-az-production", 365 / 12)
    # A thousand large objects a day, kept for a year.
    assert tiered["tiering of objects"].dollars == pytest.approx(365 * 0.0025)
    assert tiered["NAT gateways"].dollars == pytest.approx(3 * 730 * 0.045)
    assert tiered["downloads to the internet"].dollars == pytest.approx(365 / 12 * 10 * 0.09)


def test_high_resolution_alarms_cost_three_times_as_much() -> None:
    found = items("team")
    assert found["alarms every 10 s, by metrics"].dollars == pytest.approx(3 * 0.30)
    assert found["metrics of pools (each 10 s) and of calls"].quantity == 6 * 2 + 1 + 5


@pytest.mark.parametrize("example", sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
def test_every_example_has_a_price_and_more_developers_cost_more(example: str) -> None:
    sums = [
        sum(each.dollars for each in items(example, count, Usage()).values())
        for count in (0, 50, 500)
    ]
    assert 100 < sums[0] < sums[1] < sums[2]


def test_the_assumed_day_is_the_simulators() -> None:
    text = (ROOT / "docs/fleet-simulation.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| working-day |"))
    dollars = float(row.split("|")[5])
    price = float(re.findall(r"\$([0-9.]+) an hour", text)[0])
    actions = re.findall(r"3,031 builds, ([0-9,]+) actions", text)[0].replace(",", "")
    assert Usage().worker_hours == pytest.approx(dollars / price / 60, abs=0.01)
    assert Usage().actions == pytest.approx(int(actions) / 60, abs=1)


def test_a_type_without_a_price_says_where_to_write_one() -> None:
    expensive = settings("minimal").model_copy(
        update={"cas": settings("minimal").cas.model_copy(update={"instance_type": "m7gd.metal"})}
    )
    with pytest.raises(NativeLinkError, match=r"no price of m7gd\.metal.*--prices"):
        bill(expensive, USAGE, 0, PRICES)


def test_a_wrong_table_of_prices_is_told_by_key(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8").replace("nat_hour: 0.045", "nat: 0.045")
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(NativeLinkError, match=r"nat_hour: Field required.*nat: Extra inputs"):
        load_prices(path)


def test_the_page_shows_what_the_bill_says_now() -> None:
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    assert page(EXAMPLES) in text, "run scripts/cost.py --write"


@pytest.mark.slow
def test_the_script_prints_sums_and_assumptions_and_takes_others() -> None:
    def cost(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "scripts/cost.py", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    example = str(EXAMPLES / "minimal.yaml")
    done = cost(example, "--developers", "0", "10", "--set", "working_days=0")
    (line,) = re.findall(r"^together +([0-9,]+) +([0-9,]+)$", done.stdout, re.MULTILINE)
    assert line[0] == line[1]
    assert "working_days                  0  working days of a month" in done.stdout
    wrong = cost(example, "--set", "worker_hour=5")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "no assumption 'worker_hour'; there are actions," in wrong.stderr


def test_an_assumption_that_is_twice_as_much_doubles_what_follows_from_it() -> None:
    more = replace(USAGE, worker_hours=20)
    assert items("minimal", 1, more)["x86: spot, 8 processors"].dollars == pytest.approx(
        2 * items("minimal", 1)["x86: spot, 8 processors"].dollars
    )
