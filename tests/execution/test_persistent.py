"""Processes that stay (Bazel's persistent workers): seen through gRPC."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import ExecutionClient, Tree
from tests.execution.farm import Farm, Json, Ports, farm_config, open_farm
from tests.worker.persistent import programs

TOOL = (Path(programs.__path__[0]) / "tool.py").read_text()
PROTOCOLS = ("proto", "json")


def stays(protocol: str = "proto") -> dict[str, str]:
    return {"supports-workers": "1", "requires-worker-protocol": protocol}


@pytest.fixture(scope="module", params=[{}, {"directory_cache": True}], ids=["links", "kept"])
def compilers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    """A farm whose worker has room for two actions."""
    folder, ports = tmp_path_factory.mktemp("compilers"), Ports.free()
    worker: Json = {"name": "local", "max_inflight_tasks": 2}
    if request.param:
        worker["directory_cache"] = {"cache_root": str(folder / "trees")}
    with open_farm(folder, farm_config(folder, ports, worker=worker), ports) as running:
        yield running


@pytest.fixture
def compiler(compilers: Farm) -> Iterator[ExecutionClient]:
    with compilers.client() as one:
        yield one


def compile_with(
    client: ExecutionClient,
    *requests: str,
    outputs: tuple[str, ...] = (),
    inputs: Tree | None = None,
    platform: Mapping[str, str] | None = None,
    tool: str = TOOL,
    **action: object,
) -> re.ExecuteResponse:
    platform = stays() if platform is None else platform
    extra = ("--json",) if platform.get("requires-worker-protocol") == "json" else ()
    return client.run(
        sys.executable,
        "-IS",
        "tool.py",
        *extra,
        "@params",
        inputs={
            "tool.py": tool,
            "params": "".join(f"{each}\n" for each in requests),
            **(inputs or {}),
        },
        outputs=outputs,
        platform=platform,
        do_not_cache=True,
        salt=os.urandom(8),
        **action,
    )


def said(client: ExecutionClient, response: re.ExecuteResponse) -> str:
    assert response.status.code == Code.OK, response.status
    assert response.result.exit_code == 0, client.stderr(response.result)
    return client.stderr(response.result).decode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_actions_with_the_same_tool_share_a_process_that_stays(
    compiler: ExecutionClient, protocol: str
) -> None:
    answers = [
        said(
            compiler,
            compile_with(
                compiler, "pid", "served", f"read=in{number}", f"write=out=made {number}",
                inputs={f"in{number}": f"text {number}"}, outputs=("out",),
                platform=stays(protocol), tool=f"{TOOL}# {protocol}",
            ),
        ).split(" ", 2)
        for number in (1, 2, 3)
    ]  # fmt: skip

    assert len({pid for pid, _, _ in answers}) == 1
    assert [(served, text) for _, served, text in answers] == [
        ("1", "text 1"),
        ("2", "text 2"),
        ("3", "text 3"),
    ]


def test_what_a_process_that_stays_makes_comes_back_as_outputs(compiler: ExecutionClient) -> None:
    response = compile_with(compiler, "write=d/out=bytes", outputs=("d/out",))

    said(compiler, response)
    assert compiler.outputs(response.result) == {"d/out": b"bytes"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_lists_the_inputs_as_seen_from_the_working_directory(
    compiler: ExecutionClient, protocol: str
) -> None:
    params = b"inputs\n"
    extra = ("--json",) if protocol == "json" else ()
    response = compiler.run(
        sys.executable,
        "-IS",
        "tool.py",
        *extra,
        "@params",
        inputs={"w": {"tool.py": TOOL, "params": params, "d": {"a": "in"}}, "beside": "it"},
        working_directory="w",
        platform=stays(protocol),
        do_not_cache=True,
    )

    expected = {
        "tool.py": TOOL.encode(),
        "params": params,
        "d/a": b"in",
        "../beside": b"it",
    }
    listed = eval(said(compiler, response))
    assert listed == {path: hashlib.sha256(data).hexdigest() for path, data in expected.items()}


def test_an_output_that_the_process_holds_open_does_not_change_in_the_cache(
    compiler: ExecutionClient, compilers: Farm
) -> None:
    # It writes to it again when the next request comes; the blob must be a file of its own.
    first = compile_with(compiler, "hold=out=first", outputs=("out",))
    said(compiler, first)
    second = compile_with(compiler, "held=changed")
    said(compiler, second)

    assert compiler.outputs(first.result) == {"out": b"first"}


def test_an_action_that_does_not_ask_for_it_has_a_process_of_its_own(
    compiler: ExecutionClient,
) -> None:
    response = compiler.run("cat", "@params", inputs={"@params": "as it is"})

    assert compiler.stdout(response.result) == b"as it is"


def test_a_process_that_dies_is_no_failure_of_the_action(compiler: ExecutionClient) -> None:
    # The scheduler tries again, and then the worker runs it by itself: the program finds nothing to
    # read and exits with 0.
    response = compile_with(compiler, "die", tool=f"{TOOL}# dies")

    assert said(compiler, response) == ""


def test_a_worker_that_ends_leaves_none_of_its_processes(tmp_path: Path) -> None:
    ports = Ports.free()
    config = farm_config(tmp_path, ports, worker={"max_inflight_tasks": 1})
    for _ in range(2):
        # The second start finds what the first one left.
        with open_farm(tmp_path, config, ports) as running, running.client() as client:
            pid = int(said(client, compile_with(client, "pid")))
            assert (tmp_path / "work" / "persistent").is_dir()
        assert not Path(f"/proc/{pid}").exists()
