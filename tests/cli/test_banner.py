"""What a person is told when the server is up."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativelink.cli import banner
from nativelink.cli.banner import bazelrc, show_banner
from nativelink.compose.nodes import Leaf
from nativelink.compose.servers import Listener
from nativelink.compose.system import System
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.memory import MemoryStore
from nativelink.telemetry.meter import Registry
from nativelink.testing.fakes import FakeClock
from nativelink.transport.settings import TlsSettings


def listener(**changes: Any) -> Listener:
    usual: dict[str, Any] = {
        "name": "0",
        "server": None,
        "health": None,
        "address": "127.0.0.1:50051",
        "tls": None,
        "services": ("cas",),
        "instances": ("main", ""),
        "pages": ("/status",),
    }
    return Listener(**{**usual, **changes})


def system(*listeners: Listener, leaves: tuple[Leaf, ...] = ()) -> System:
    return System(listeners, leaves, Registry())


def leaf(path: str, policy: EvictionPolicy) -> Leaf:
    figures = MemoryStore(eviction=policy, clock=FakeClock()).statistics
    return Leaf(path, "memory", "memory", policy, figures, figures)


def test_the_lines_are_those_of_the_first_listener_with_a_whole_cache():
    lines = bazelrc(system(listener(instances=()), listener(address="127.0.0.1:2")))
    assert lines == [
        "build --remote_cache=grpc://127.0.0.1:2",
        "build --remote_instance_name=main",
        "build --remote_upload_local_results=true",
        "build --remote_timeout=600",
        "build --remote_retries=10",
        "build --experimental_guard_against_concurrent_changes=true",
    ]


def test_where_actions_are_executed_the_lines_ask_for_that(capsys: pytest.CaptureFixture[str]):
    worker: Any = SimpleNamespace(name="local", max_inflight_tasks=4, work_directory="/w")
    executing = listener(services=("cas", "execution"))
    whole = System((executing,), (), Registry(), (), (worker,))
    assert bazelrc(whole)[0] == "build --remote_executor=grpc://127.0.0.1:50051"
    show_banner(whole, {})
    shown = capsys.readouterr().out
    assert "runs actions\n  local  4 at a time  in /w\n" in shown
    assert "--remote_cache instead of --remote_executor" in shown


def test_where_build_events_are_taken_one_more_line_sends_them_there():
    cache = listener()
    events = listener(address="127.0.0.1:2", services=("experimental_bep",), instances=())
    line = "build --bes_backend=grpc://{}  # optional, for: nativelink builds show"
    assert bazelrc(system(cache, events))[-1] == line.format("127.0.0.1:2")
    both = listener(services=("cas", "experimental_bep"))
    assert bazelrc(system(events, both))[-1] == line.format("127.0.0.1:50051")


def test_documents_have_the_lines_that_are_printed():
    printed = bazelrc(system(listener(services=("cas", "execution", "experimental_bep"))))
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    block = readme.partition("## Your project's `.bazelrc`\n\n```\n")[2].partition("```")[0]
    assert block.splitlines() == printed[:-1]
    page = (root / "docs" / "clients.md").read_text(encoding="utf-8")
    lines = [line.removeprefix("build ").partition("  #")[0] for line in printed]
    assert re.findall(r"^\| `(--[^`]+)` \|", page, re.MULTILINE)[: len(lines)] == lines


def test_without_a_cache_there_is_nothing_to_paste():
    assert bazelrc(system(listener(instances=()))) == []


def test_the_unnamed_instance_needs_no_line():
    lines = bazelrc(system(listener(instances=("",))))
    assert lines
    assert not any("instance_name" in line for line in lines)


def test_a_listener_on_all_addresses_is_reached_by_the_machines_name(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(banner.socket, "gethostname", lambda: "builder")
    lines = bazelrc(system(listener(address="0.0.0.0:50051")))
    assert lines[0] == "build --remote_cache=grpc://builder:50051"


def test_tls_needs_the_certificate_and_mutual_tls_the_clients_own():
    tls = TlsSettings(Path("/tls/server.crt"), Path("/tls/server.key"))
    lines = bazelrc(system(listener(tls=tls)))
    assert lines[0] == "build --remote_cache=grpcs://127.0.0.1:50051"
    assert lines[-1] == "build --tls_certificate=/path/to/ca.crt"
    mutual = TlsSettings(Path("/c"), Path("/k"), client_ca_file=Path("/ca"))
    lines = bazelrc(system(listener(tls=mutual)))
    assert [line.partition("=")[0] for line in lines[-3:]] == [
        "build --tls_certificate",
        "build --tls_client_certificate",
        "build --tls_client_key",
    ]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (EvictionPolicy(), "without a limit"),
        (EvictionPolicy(max_bytes=512_000_000), "at most 512 MB"),
        (
            EvictionPolicy(max_bytes=10_500_000_000, max_count=1000),
            "at most 10.5 GB, at most 1,000",
        ),
        (EvictionPolicy(max_seconds=86_400), "unused for 86,400 s"),
        (EvictionPolicy(max_bytes=999), "at most 999 bytes"),
    ],
)
def test_limits_are_said_in_words(
    policy: EvictionPolicy, words: str, capsys: pytest.CaptureFixture[str]
):
    show_banner(system(listener(), leaves=(leaf("CAS", policy),)), {})
    assert f"  CAS  {words}" in capsys.readouterr().out


def test_pages_have_an_address_for_browsers(capsys: pytest.CaptureFixture[str]):
    tls = TlsSettings(Path("/c"), Path("/k"))
    show_banner(
        system(
            listener(pages=("/status", "/metrics")),
            listener(address="127.0.0.1:2", tls=tls),
            listener(address="127.0.0.1:3", services=()),
        ),
        {},
    )
    said = capsys.readouterr().out.splitlines()
    assert said[2:7] == [
        "  grpc://127.0.0.1:50051  cas",
        "  http://127.0.0.1:50051  /status, /metrics",
        "  grpcs://127.0.0.1:2  cas",
        "  https://127.0.0.1:2  /status",
        "  http://127.0.0.1:3  /status",
    ]


def test_every_instance_of_the_http_cache_has_its_address(capsys: pytest.CaptureFixture[str]):
    tls = TlsSettings(Path("/c"), Path("/k"))
    show_banner(
        system(
            listener(caches=("/main", "")),
            listener(address="127.0.0.1:2", tls=tls, services=(), pages=(), caches=("/tasks",)),
        ),
        {},
    )
    said = capsys.readouterr().out.splitlines()
    assert said[4:7] == [
        "  http://127.0.0.1:50051/main  /cas, /ac, /cache, /v8/artifacts",
        "  http://127.0.0.1:50051  /cas, /ac, /cache, /v8/artifacts",
        "  https://127.0.0.1:2/tasks  /cas, /ac, /cache, /v8/artifacts",
    ]


def test_with_json_logs_only_log_lines_are_written(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "nativelink")
    show_banner(system(listener()), {"NL_LOG": "json"})
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["listening on grpc://127.0.0.1:50051"]


def test_a_terminal_gets_the_same_lines_uncut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    show_banner(system(listener()), {})
    lines = capsys.readouterr().out.splitlines()
    assert "  build --experimental_guard_against_concurrent_changes=true" in lines
