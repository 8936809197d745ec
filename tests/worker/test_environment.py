"""The environment that an action sees, and the scripts and files around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.environment import Fact, FromProperty, FromValue, action_environment
from nativelink.worker.scripts import run_script
from nativelink.worker.side_channel import said_timeout
from tests.worker.processes.launching import wait_until_ended


def environment(own: list[tuple[str, str]]) -> dict[str, str]:
    return action_environment(
        {
            "A": FromProperty("cpu"),
            "B": FromProperty("absent"),
            "C": FromValue("fixed"),
            "PATH": Fact.FROM_ENVIRONMENT,
            "HOME": Fact.FROM_ENVIRONMENT,
            "T": Fact.TIMEOUT_MILLIS,
            "S": Fact.SIDE_CHANNEL_FILE,
            "D": Fact.ACTION_DIRECTORY,
        },
        own,
        properties={"cpu": "4"},
        worker_environment={"PATH": "/bin", "SECRET": "x"},
        timeout_s=1.5,
        side_channel_file=Path("/w/op/side"),
        action_directory=Path("/w/op"),
    )


def test_additions_come_from_where_the_configuration_says() -> None:
    assert environment([]) == {
        "A": "4",
        "B": "",
        "C": "fixed",
        "PATH": "/bin",
        "HOME": "",
        "T": "1500",
        "S": "/w/op/side",
        "D": "/w/op",
    }


def test_the_actions_own_variables_win() -> None:
    assert environment([("PATH", "/opt"), ("X", "")])["PATH"] == "/opt"


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(NativeLinkError, match="environment variable") as caught:
        environment([(name, "x")])
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"failure": "timeout"}', True), ("{failure: 'timeout'} // json5", True), ("{}", False)],
)
def test_the_side_channel_says_whether_it_was_a_timeout(
    tmp_path: Path, text: str, said: bool
) -> None:
    (tmp_path / "side").write_text(text)
    assert said_timeout(tmp_path / "side") is said


def test_a_side_channel_that_was_not_used_says_nothing(tmp_path: Path) -> None:
    assert said_timeout(tmp_path / "side") is False


@pytest.mark.parametrize("text", ["", "[]", '{"failure": "boredom"}', "{" * 100, "x" * 70_000])
def test_a_side_channel_that_cannot_be_understood_is_the_actions_fault(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "side").write_text(text)
    with pytest.raises(NativeLinkError, match="side channel") as caught:
        said_timeout(tmp_path / "side")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_side_channel_that_is_a_link_or_a_pipe_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(NativeLinkError, match="side channel"):
            said_timeout(tmp_path / name)


def test_a_script_gets_exactly_its_environment_and_no_input() -> None:
    said = run_script(["/bin/sh", "-c", "cat; env; exit 3"], {"ONLY": "this"}, timeout_s=30)
    assert said.exit_code == 3
    assert "ONLY=this" in said.stdout.splitlines()
    assert "HOME=" not in said.stdout


def test_a_script_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(NativeLinkError) as caught:
        run_script(["/bin/sh", "-c", f"sleep 600 & echo $! > {mark}; wait"], {}, timeout_s=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    if mark.exists() and (text := mark.read_text().strip()):
        # The kernel ends it when it comes to that.
        wait_until_ended(int(text))


def test_a_script_that_is_not_there_is_named() -> None:
    with pytest.raises(NativeLinkError, match="/no/such/script") as caught:
        run_script(["/no/such/script"], {}, timeout_s=1)
    assert caught.value.code is Code.UNAVAILABLE
