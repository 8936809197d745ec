"""What is taken for a command, for a file, or for a slip."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nativelink.cli.main import app
from tests.cli.servers import command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["worker", "list"], "did you mean 'workers'?"),
        (["conifg", "check", "x.json5"], "did you mean 'config'?"),
        (["drain", "worker-1"], "did you mean 'workers drain'?"),
        (["list"], "did you mean 'builds list' or 'ops list' or 'workers list'?"),
        (["xyz"], "see --help"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(words: list[str], told: str):
    refused = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert f"there is no command {words[0]!r}, and no such file; {told}" in refused.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["absent.json5", "./workers", "no/worker"])
def test_what_looks_like_a_file_is_one(name: str):
    refused = command(name)
    assert refused.returncode == 1
    assert refused.stderr == f"{Path(name)}: cannot be read: No such file or directory\n"


@pytest.mark.slow
def test_a_file_needs_no_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "worker").write_text("nothing")
    monkeypatch.chdir(tmp_path)
    refused = command("worker")
    assert refused.returncode == 1
    assert refused.stderr.startswith("worker:1:1: error: ")
