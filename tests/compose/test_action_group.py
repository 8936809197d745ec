"""What `action_group` of a worker does."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from nativelink.compose.system import open_system
from nativelink.config import Config
from nativelink.core.clock import SystemClock
from nativelink.core.errors import NativeLinkError
from tests.execution.farm import Ports, farm_config, open_farm

pytestmark = pytest.mark.slow


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the group needs CAP_SETGID")
def test_actions_are_in_the_group_that_the_key_names(tmp_path: Path):
    ports = Ports.free()
    config = farm_config(tmp_path, ports, worker={"action_group": "nogroup"})
    with open_farm(tmp_path, config, ports) as farm, farm.client() as client:
        group = grp.getgrnam("nogroup").gr_gid
        result = client.run("sh", "-c", f'test "$(id -G)" = {group}').result
    assert result.exit_code == 0


async def test_a_group_that_does_not_exist_is_refused(tmp_path: Path):
    config = farm_config(tmp_path, Ports.free(), worker={"action_group": "nobodys"})
    with pytest.raises(NativeLinkError, match=r"action_group 'nobodys' does not exist here"):
        async with open_system(
            Config.model_validate(config), version="0", environ={}, clock=SystemClock()
        ):
            raise AssertionError("it opened")
