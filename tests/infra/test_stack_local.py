"""On a laptop the stack is the same, but for the documented list."""

from __future__ import annotations

import pytest

from infra.local import MOTO_CANNOT, MOTO_FORGETS
from tests.infra.tools import EXAMPLES, Stack
from tests.infra.userdata import environment_of, script_of

pytestmark = pytest.mark.slow

REGIONS = [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))]
#: What only serves an image that is built; on a laptop there is none.
ONLY_FOR_IMAGES = ("images/", "endpoints/firewall/from-image-builder-")


@pytest.mark.parametrize("region", REGIONS)
def test_resources_differ_by_the_list_only(region: str, stacks: dict[str, Stack]) -> None:
    aws = {each.path: each.type for each in stacks[f"aws/{region}"].resources}
    local = {each.path: each.type for each in stacks[f"local/{region}"].resources}
    assert local.keys() <= aws.keys()
    missing = {
        path: kind
        for path, kind in aws.items()
        if path not in local and not path.startswith(ONLY_FOR_IMAGES)
    }
    redis = {path for path in missing if path.startswith("alarms/redis-")}
    left_out = {path: kind for path, kind in missing.items() if path not in redis}
    assert set(left_out.values()) <= MOTO_CANNOT.keys(), left_out


def test_everything_on_the_list_is_really_used(stacks: dict[str, Stack]) -> None:
    used = {each.type for region in REGIONS for each in stacks[f"aws/{region}"].resources}
    assert MOTO_CANNOT.keys() <= used


def differences(stacks: dict[str, Stack], region: str) -> set[str]:
    """`TYPE.ATTRIBUTE` of what is made in both places, and not alike."""
    local = {each.path: each.body for each in stacks[f"local/{region}"].resources}
    return {
        f"{each.type}.{key}"
        for each in stacks[f"aws/{region}"].resources
        if each.path in local
        for key in each.body.keys() | local[each.path].keys()
        if each.body.get(key) != local[each.path].get(key)
    }


#: Where addresses and images are, and what shows charts of Valkey.
EXPECTED = {
    "aws_launch_template.image_id",
    "aws_launch_template.user_data",
    "aws_cloudwatch_dashboard.dashboard_body",
}


def test_what_is_made_in_both_places_differs_by_the_other_list_only(
    stacks: dict[str, Stack],
) -> None:
    found = set().union(*(differences(stacks, region) for region in REGIONS))
    assert found - EXPECTED <= MOTO_FORGETS.keys()
    assert found >= MOTO_FORGETS.keys(), "something on the list is not needed"


@pytest.mark.parametrize("region", REGIONS)
def test_machines_are_told_the_same_but_for_addresses(
    region: str, stacks: dict[str, Stack]
) -> None:
    different = {
        "AWS_ENDPOINT_URL",
        "NATIVELINK_IMDS",
        "NATIVELINK_INSECURE_S3",
        "NATIVELINK_REDIS_HOST",
        "NATIVELINK_REDIS_SCHEME",
        "NATIVELINK_SECRET_REDIS_PASSWORD",
    }
    for machine in ("cas", "scheduler"):
        aws = environment_of(stacks[f"aws/{region}"], machine)
        local = environment_of(stacks[f"local/{region}"], machine)
        changed = {name for name in aws if aws[name] != local[name]}
        assert changed <= different
        assert aws.keys() == local.keys()


def test_user_data_is_a_script_that_the_shell_understands(stacks: dict[str, Stack]) -> None:
    import subprocess

    for region in REGIONS:
        for machine in ("cas", "scheduler"):
            script = script_of(stacks[f"aws/{region}"], machine)
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
