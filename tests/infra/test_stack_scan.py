"""checkov finds nothing that is not on a dated list, in what is synthesized and what is planned."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.infra.planner import Planner
from tests.infra.tools import CHECKOV, EXAMPLES, Stack, need

pytestmark = pytest.mark.slow

REGIONS = [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))]
ALLOWED = Path(__file__).with_name("allowed.yaml")
#: As synthesized, and as planned: one process reads both, and starts as long as it reads.
FORMATS = ["terraform_json", "terraform_plan"]


@dataclass(frozen=True)
class Finding:
    """A check that failed on a resource."""

    check: str
    resource: str
    where: str


def checkov(folder: Path) -> set[Finding]:
    """What fails, of what is in a folder, in any of the two formats."""
    need(CHECKOV)
    command = [CHECKOV, "--skip-download", "--compact", "--quiet", "--framework", *FORMATS]
    done = subprocess.run(
        [*map(str, command), "-d", str(folder), "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    reports = report if isinstance(report, list) else [report]
    assert sorted(each["check_type"] for each in reports) == FORMATS, done.stderr
    assert all(each["summary"]["parsing_errors"] == 0 for each in reports)
    assert all(each["summary"]["passed"] > 100 for each in reports), done.stderr
    return {
        Finding(failed["check_id"], failed["resource"].partition(".")[2], each["check_type"])
        for each in reports
        for failed in each["results"]["failed_checks"]
    }


@pytest.fixture(scope="module")
def findings(
    stacks: dict[str, Stack],
    planner: Planner,
    tmp_path_factory: pytest.TempPathFactory,
) -> set[Finding]:
    """All of them: every example as JSON, the largest also as Terraform plans it."""
    folder = tmp_path_factory.mktemp("scan")
    for name in [*REGIONS, "bootstrap"]:
        (folder / name).mkdir()
        shutil.copy(stacks[f"aws/{name}"].directory / "cdk.tf.json", folder / name)
    largest = stacks["aws/multi-az-production"]
    plan = planner.plan(largest)
    (folder / "plan").mkdir()
    file = folder / "plan" / "plan.json"
    file.write_text(planner.run(largest, "show", "-json", str(plan.file)), encoding="utf-8")
    return checkov(folder)


def allowances() -> list[dict[str, object]]:
    found: list[dict[str, object]] = yaml.safe_load(ALLOWED.read_text(encoding="utf-8"))
    return found


def covers(allowance: dict[str, object], finding: Finding) -> bool:
    return allowance["check"] == finding.check and bool(
        re.match(str(allowance["where"]), finding.resource)
    )


def test_nothing_is_found_that_is_not_accepted(findings: set[Finding]) -> None:
    left = {
        finding
        for finding in findings
        if not any(covers(allowance, finding) for allowance in allowances())
    }
    assert left == set()


def test_every_acceptance_is_needed(findings: set[Finding]) -> None:
    unused = [
        allowance["check"]
        for allowance in allowances()
        if not any(covers(allowance, finding) for finding in findings)
    ]
    assert unused == []


def test_no_acceptance_is_past_its_date() -> None:
    for allowance in allowances():
        assert allowance.keys() == {"check", "where", "why", "owner", "until"}
        until = allowance["until"]
        assert isinstance(until, datetime.date)
        assert until > datetime.datetime.now(tz=datetime.UTC).date(), allowance["check"]
