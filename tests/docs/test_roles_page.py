"""docs/roles.md names every variable that the roles read, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROLES = ("cas", "scheduler", "worker")
#: Read by AWS' libraries, not by the files.
OF_AWS = {"AWS_ENDPOINT_URL"}


def read_by(role: str) -> set[str]:
    text = (ROOT / f"app/nativelink/configs/{role}.json5").read_text(encoding="utf-8")
    return set(re.findall(r"\$\{(\w+)", text))


def documented(role: str) -> set[str]:
    page = (ROOT / "docs/roles.md").read_text(encoding="utf-8")
    found: set[str] = set()
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (cells[1] == "all" or role in cells[1].split(", ")):
            found |= set(re.findall(r"`((?:NATIVELINK|AWS)_\w+)`", cells[0]))
    return found - OF_AWS


def test_each_role_has_exactly_the_variables_of_the_page() -> None:
    assert {role: documented(role) for role in ROLES} == {role: read_by(role) for role in ROLES}


def test_infrastructure_tells_machines_what_the_files_read() -> None:
    listed = (ROOT / "infra/environment.py").read_text(encoding="utf-8")
    # Defaults that nobody needs to change from outside, what a secret becomes, and what the unit
    # of workers says.
    own = {
        "NATIVELINK_OPERATOR_ADDRESS",
        "NATIVELINK_REDIS_PASSWORD",
        "NATIVELINK_TLS_DIRECTORY",
        "NATIVELINK_ACTION_GROUP",
    }
    missing = {name for role in ROLES for name in read_by(role) if f'"{name}"' not in listed}
    assert missing <= own
