"""Actions in a group of their own: the worker's user, but not what its group may do."""

import os
import stat

import pytest

from nativelink.worker.processes.launcher import ProcessLauncher
from tests.worker.processes.launching import FOREVER_S, Yard

_GROUP = 54321

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing the group needs CAP_SETGID")

_LOOK = "id -u; id -g; id -G; grep ^CapAmb /proc/self/status"


async def test_an_action_is_in_the_group_that_it_is_given_and_in_no_other(yard: Yard) -> None:
    async with ProcessLauncher(group_id=_GROUP) as launcher:
        ended = await launcher.run(yard.shell(_LOOK), timeout_s=FOREVER_S)
    assert ended.exit_code == 0
    user, group, groups, ambient = yard.stdout.read_text().splitlines()
    assert (user, group, groups) == (str(os.geteuid()), str(_GROUP), str(_GROUP))
    assert int(ambient.split()[1], 16) == 0


async def test_its_output_belongs_to_that_group(yard: Yard) -> None:
    async with ProcessLauncher(group_id=_GROUP) as launcher:
        await launcher.run(yard.shell("echo > made"), timeout_s=FOREVER_S)
    made = (yard.directory / "made").stat()
    assert made.st_gid == _GROUP
    assert stat.S_IMODE(made.st_mode) == 0o644


async def test_without_one_it_is_in_the_workers(launcher: ProcessLauncher, yard: Yard) -> None:
    await launcher.run(yard.shell(_LOOK), timeout_s=FOREVER_S)
    assert yard.stdout.read_text().split()[1] == str(os.getegid())
