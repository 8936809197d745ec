"""The page of the command line names every command, and no other."""

import re
from pathlib import Path

import pytest
import typer

from nativelink.cli import ac, action, asset, builds, cas, ops, workers

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text(encoding="utf-8")
GROUPS = {
    "ac": ac.app,
    "action": action.app,
    "asset": asset.app,
    "builds": builds.app,
    "cas": cas.app,
    "ops": ops.app,
    "workers": workers.app,
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_command_is_on_the_page_and_no_other(group: str) -> None:
    commands = {each.name for each in GROUPS[group].registered_commands}
    used = set(re.findall(rf"^nativelink {group} (\w+)", PAGE, re.MULTILINE))
    assert used == commands


def test_the_options_on_the_page_are_those_that_there_are() -> None:
    command = typer.main.get_command(cas.app).commands["cat"]
    options = {
        name: parameter.envvar
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--") and name != "--json"
    }
    rows = PAGE[PAGE.index("| option | environment |") : PAGE.index("- **Digests**")]
    assert set(re.findall(r"`(--[a-z-]+)[ `]", rows)) - {"--remote_instance_name"} == set(options)
    assert set(re.findall(r"NATIVELINK_\w+", rows)) == {each for each in options.values() if each}
