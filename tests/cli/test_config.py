import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nativelink.cli.main import app

WRONG = Path(__file__).parents[1] / "config" / "wrong" / "04-misspelled-key.json5"


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.json5"
    path.write_text(
        """{
  stores: [{ name: "CAS", memory: { eviction_policy: { max_bytes: "1gb" } } }],
  servers: [{
    listener: { http: { socket_address: "127.0.0.1:50051" } },
    services: { cas: [{ cas_store: "CAS" }], bytestream: [{ cas_store: "CAS" }],
      capabilities: [{}] },
  }],
}""",
        encoding="utf-8",
    )
    return path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["config", *map(str, arguments)], **options)


def test_check_of_a_good_file_says_so_and_exits_with_0(good):
    result = run("check", good)
    assert result.exit_code == 0
    assert result.output == f"{good}: valid, 0 errors, 0 warnings\n"


def test_check_of_a_wrong_file_reports_all_and_exits_with_1():
    result = run("check", WRONG)
    assert result.exit_code == 1
    expected = WRONG.with_suffix(".txt").read_text(encoding="utf-8").replace(WRONG.name, str(WRONG))
    assert result.output == f"{expected}\n{WRONG}: not valid, 2 errors, 0 warnings\n"


def test_check_is_in_colour_on_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in run("check", WRONG).output


def test_a_long_line_is_cut_around_its_caret_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    path = tmp_path / "long.json5"
    for before, after in ((0, 100), (100, 0), (50, 50), (0, 0)):
        path.write_text(f"{{ /*{'-' * before}*/ stores: oops, servers: [] /*{'-' * after}*/ }}")
        lines = re.sub(r"\x1b\[[0-9;]*m", "", run("check", path).output).splitlines()
        (at,) = (index for index, line in enumerate(lines) if line.strip() == "^")
        assert lines[at - 1][lines[at].index("^") :].startswith("oops")
        assert len(lines[at - 1]) <= 40


def test_warnings_alone_do_not_fail_the_check(good):
    good.write_text(good.read_text().replace('max_bytes: "1gb"', ""))
    result = run("check", good)
    assert result.exit_code == 0
    assert "warning: stores.CAS.memory.eviction_policy: nothing is ever evicted" in result.output
    assert result.output.endswith("valid, 0 errors, 1 warning\n")


def test_a_valid_file_that_this_version_cannot_start_is_said_to_be_so(good):
    good.write_text(
        """{
  stores: [{ name: "A", redis_store: { addresses: ["redis://127.0.0.1:1"] } }],
  schedulers: [{ name: "M", simple: { experimental_backend: { redis: { redis_store: "A" } } } }],
  servers: [{ listener: { http: { socket_address: "127.0.0.1:50061" } },
              services: { worker_api: { scheduler: "M" } } }],
}"""
    )
    result = run("check", good)
    assert result.exit_code == 3, result.output
    said, _, verdict = result.output.partition("\n\n")
    assert said == (
        "note: schedulers/M/experimental_backend: a scheduler's state in Redis is not available "
        "in this version"
    )
    assert "valid, but this version cannot start it, 0 errors" in verdict


def test_a_valid_file_that_names_files_that_are_not_here_cannot_be_started_here(good):
    text = good.read_text().replace(
        '"127.0.0.1:50051"',
        '"127.0.0.1:50051", tls: { cert_file: "/no/server.crt", key_file: "/no/server.key" }',
    )
    good.write_text(text)
    result = run("check", good)
    assert result.exit_code == 3, result.output
    where = "here: servers[0].listener.http.tls"
    assert f"{where}.cert_file: there is no file /no/server.crt\n" in result.output
    assert f"{where}.key_file: there is no file /no/server.key\n" in result.output
    assert result.output.endswith(
        "valid, but this machine is not ready for it, 0 errors, 0 warnings\n"
    )
    good.write_text(text.replace("capabilities:", "fetch: 1, capabilities:"))
    assert run("check", good).exit_code == 1


def test_what_this_version_cannot_start_is_not_said_of_a_wrong_file(good):
    text = good.read_text().replace('cas_store: "CAS"', 'cas_store: "SAC"')
    good.write_text(text.replace("capabilities:", "fetch: {}, capabilities:"))
    result = run("check", good)
    assert result.exit_code == 1
    assert "note:" not in result.output
    assert "cannot start" not in result.output


def test_a_file_that_cannot_be_read_exits_with_2(tmp_path):
    result = run("check", tmp_path / "absent.json5")
    assert result.exit_code == 2
    assert "cannot be read" in result.output


def test_explain_draws_the_tree(good):
    result = run("explain", good)
    assert result.exit_code == 0
    assert "cas -> CAS" in result.output
    assert "memory  eviction_policy.max_bytes 1 GB" in result.output


def test_explain_of_a_wrong_file_reports_its_errors():
    result = run("explain", WRONG)
    assert result.exit_code == 1
    assert 'did you mean "eviction_policy"?' in result.output


def test_schema_prints_a_schema():
    result = run("schema")
    assert result.exit_code == 0
    assert json.loads(result.output)["$schema"].endswith("2020-12/schema")


def test_a_tree_that_goes_to_a_file_has_a_line_for_each_node(good, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = run("explain", good).output.splitlines()
    assert all("─ " in line for line in lines[1:])
    assert any(len(line) > 40 for line in lines)
