"""The parts of the kit that need no CDKTF: environments, retention, policies, sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from infra import environment
from infra.capacity import processors, rule_of, slots_of
from infra.environment import DERIVED, ROLES, VARIABLES, lines, names
from infra.policy import ANYBODY, Statement, account_root, document, service
from infra.retention import of_ac, of_cas
from infra.settings import ISA, PoolSettings, StorageProfile, StorageSettings
from infra.user_data import script

CONFIGS = Path(__file__).parents[2] / "app/nativelink/configs"


def example(role: environment.Role) -> dict[str, str]:
    return {each.name: each.example for each in VARIABLES if role in each.roles}


@pytest.mark.parametrize("role", ROLES)
def test_systemd_and_the_shell_read_the_same_values(role: environment.Role, tmp_path: Path) -> None:
    values = example(role)
    file = tmp_path / "environment"
    file.write_text(lines(role, values))
    program = f"set -a; . {file}; exec env -0"
    found = subprocess.run(
        ["bash", "-c", program], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True
    ).stdout.decode()
    there = dict(line.partition("=")[::2] for line in found.split("\0") if line)
    assert {name: there[name] for name in values} == values


def test_a_missing_and_a_foreign_variable_are_refused() -> None:
    values = example("cas")
    del values["NATIVELINK_CAS_BUCKET"]
    with pytest.raises(ValueError, match="cas: no value for NATIVELINK_CAS_BUCKET"):
        lines("cas", values)
    with pytest.raises(ValueError, match="NATIVELINK_POOL is not a variable of this role"):
        lines("cas", {**example("cas"), "NATIVELINK_POOL": "x86"})
    with pytest.raises(ValueError, match="NATIVELINK_REGION is empty"):
        lines("cas", {**example("cas"), "NATIVELINK_REGION": ""})
    with pytest.raises(ValueError, match="cannot be written on one line"):
        lines("cas", {**example("cas"), "NATIVELINK_REGION": "a\nb"})


def test_every_variable_is_described_and_its_example_is_valid() -> None:
    for variable in (*VARIABLES, *DERIVED):
        assert variable.meaning.endswith(".")
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", variable.name)
        assert variable.example or variable.optional


@pytest.mark.parametrize("role", ROLES)
def test_a_configuration_uses_no_variable_that_its_role_is_not_told(
    role: environment.Role,
) -> None:
    """Without a default in the file, that is."""
    path = CONFIGS / f"{role}.json5"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    used = set(re.findall(r"\$\{([A-Z][A-Z0-9_]*)\}", path.read_text(encoding="utf-8")))
    derived = {each.name for each in DERIVED} | {"NATIVELINK_REDIS_PASSWORD"}
    assert used <= names(role) | derived


def test_user_data_writes_the_file_and_starts_the_role() -> None:
    text = script("cas", lines("cas", example("cas")))
    assert text.startswith("#!/bin/bash\nset -euo pipefail\n")
    assert text.endswith("systemctl enable --now nativelink@cas.service\n")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("profile", StorageProfile)
def test_the_server_forgets_before_s3_deletes_and_renews_before_it_forgets(
    profile: StorageProfile,
) -> None:
    day = 86_400
    for days in (10, 30, 180, 3650):
        storage = StorageSettings(profile=profile, expire_after_days=days)
        for kept in (of_cas(storage), of_ac(storage)):
            assert 0 < kept.refresh_after_s < kept.expired_after_s <= (kept.expire_days - 1) * day
        assert of_ac(storage).expire_days < of_cas(storage).expire_days


def test_the_default_is_the_documents_table() -> None:
    kept = of_cas(StorageSettings())
    assert kept.expire_days == 180
    assert [(each.days, each.storage_class) for each in kept.transitions] == [
        (30, "STANDARD_IA"),
        (90, "GLACIER_IR"),
    ]
    assert of_ac(StorageSettings()).expire_days == 150


@pytest.mark.parametrize(
    ("instance_type", "count"),
    [("c7i.2xlarge", 8), ("m7g.large", 2), ("m7i.xlarge", 4), ("c6a.48xlarge", 192)],
)
def test_a_size_says_how_many_processors(instance_type: str, count: int) -> None:
    assert processors(instance_type) == count


def test_a_size_that_says_nothing_needs_slots() -> None:
    with pytest.raises(ValueError, match="set `slots`"):
        processors("m5.metal")
    pool = PoolSettings(name="a", isa=ISA.X86, instance_types=("m5.metal",), slots=90)
    assert slots_of(pool) == 90
    assert rule_of(pool).largest == pool.max


def test_a_policy_is_what_iam_reads() -> None:
    text = document(
        Statement("Read", ["s3:GetObject"], ["arn:aws:s3:::b/*"]),
        Statement(
            "Tls",
            ["s3:*"],
            ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
            principal=ANYBODY,
            effect="Deny",
            conditions={"Bool": {"aws:SecureTransport": "false"}},
        ),
    )
    assert json.loads(text) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Read",
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": "arn:aws:s3:::b/*",
            },
            {
                "Sid": "Tls",
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": ["s3:*"],
                "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ],
    }
    assert account_root("1").plain() == {"AWS": "arn:aws:iam::1:root"}
    assert service("sns").plain() == {"Service": "sns.amazonaws.com"}


def test_a_policy_that_iam_would_refuse_is_refused_here() -> None:
    one = Statement("A", ["s3:GetObject"], ["arn:aws:s3:::b/*"])
    with pytest.raises(ValueError, match="sids are not unique"):
        document(one, one)
    with pytest.raises(ValueError, match="names no action"):
        document(Statement("A", [], ["*"]))
    with pytest.raises(ValueError, match="no resource"):
        document(Statement("A", ["s3:GetObject"], []))
