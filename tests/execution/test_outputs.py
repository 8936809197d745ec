"""What outputs become, and what never becomes one: seen through gRPC."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import ExecutionClient, Link
from tests.execution.farm import Farm


def made(client: ExecutionClient, script: str, *outputs: str, **action: object) -> re.ActionResult:
    response = client.run("sh", "-c", script, outputs=outputs, **action)
    assert response.status.code == Code.OK, response.status
    assert response.result.exit_code == 0, client.stderr(response.result)
    return response.result


def links(result: re.ActionResult) -> dict[str, str]:
    return {each.path: each.target for each in result.output_symlinks}


def test_outputs_come_back_with_bytes_and_modes_and_what_was_not_made_is_left_out(
    client: ExecutionClient,
) -> None:
    script = "echo a > plain; cp /bin/true run; chmod 111 run; : > empty; mkdir none; echo > other"

    result = made(client, script, "plain", "run", "empty", "none", "never", "deep/never")

    assert [(each.path, each.is_executable) for each in result.output_files] == [
        ("empty", False),
        ("plain", False),
        ("run", True),
    ]
    outputs = client.outputs(result)
    assert outputs["plain"] == b"a\n"
    assert outputs["empty"] == b""
    assert outputs["run"] == Path("/bin/true").read_bytes()
    (directory,) = result.output_directories
    assert directory.path == "none"
    assert client.tree(directory) == re.Tree(root=re.Directory())


def test_parents_of_outputs_are_there_before_the_command_runs(client: ExecutionClient) -> None:
    result = made(client, "echo x > a/b/c; test ! -e a/d", "a/b/c", "a/d")

    assert client.outputs(result) == {"a/b/c": b"x\n"}


def test_an_output_may_stand_beside_the_working_directory(client: ExecutionClient) -> None:
    # BuildStream's commands leave their result so.
    path = "../../made/out"

    result = made(client, f"echo x > {path}", path, working_directory="w/d")

    assert client.outputs(result) == {path: b"x\n"}


def test_an_output_beside_a_directory_that_became_a_link_is_the_one_in_the_inputs(
    client: ExecutionClient, farm: Farm
) -> None:
    # By its text the path is `stdout`; by the link it would be the worker's own file of that name.
    response = client.run(
        "sh", "-c", "echo x; rmdir d; ln -s . d", outputs=["d/keep", "d/../stdout"]
    )

    assert response.status.code in (Code.OK, Code.INVALID_ARGUMENT)
    assert list(response.result.output_files) == []


def test_older_clients_name_files_and_directories_apart(client: ExecutionClient) -> None:
    response = client.run(
        "sh",
        "-c",
        "echo x > f; mkdir d; echo y > d/g",
        output_files=["f", "no"],
        output_directories=["d"],
    )

    assert client.outputs(response.result) == {"f": b"x\n"}
    assert [each.path for each in response.result.output_directories] == ["d"]


def test_what_an_action_made_unreadable_is_an_output_all_the_same(client: ExecutionClient) -> None:
    script = "mkdir d; echo x > d/f; chmod 0 d/f; chmod 0 d; echo y > g; chmod 0 g"

    result = made(client, script, "d", "g")

    assert client.outputs(result) == {"g": b"y\n"}
    tree = client.tree(result.output_directories[0])
    assert client.read(tree.root.files[0].digest) == b"x\n"


def test_an_output_directory_is_the_same_tree_however_it_was_made(client: ExecutionClient) -> None:
    forth = "for n in 1 2 3 a B é; do mkdir -p d/$n/same; echo x > d/$n/same/f; done"
    back = "for n in é B a 3 2 1; do mkdir -p d/$n/same; echo x > d/$n/same/f; done; touch d"

    one, two = (made(client, script, "d").output_directories[0] for script in (forth, back))

    assert one.tree_digest == two.tree_digest
    tree = client.tree(one)
    names = [each.name for each in tree.root.directories]
    assert names == sorted(names, key=str.encode)
    # Two different directories stand below the root; each is in the tree once.
    assert len(tree.children) == 2
    assert one.is_topologically_sorted


def test_links_are_recorded_as_they_are(client: ExecutionClient) -> None:
    script = (
        "echo x > file; mkdir dir; echo y > dir/f; ln -s file to-file; ln -s dir to-dir; "
        "ln -s nowhere to-nothing; ln -s ../dir/f dir/inside"
    )

    result = made(client, script, "file", "dir", "to-file", "to-dir", "to-nothing")

    assert links(result) == {"to-dir": "dir", "to-file": "file", "to-nothing": "nowhere"}
    assert {each.path for each in result.output_directory_symlinks} == {"to-dir"}
    assert {each.path for each in result.output_file_symlinks} == {"to-file", "to-nothing"}
    tree = client.tree(result.output_directories[0])
    assert [(each.name, each.target) for each in tree.root.symlinks] == [("inside", "../dir/f")]


def test_an_absolute_link_into_the_inputs_is_followed_and_one_to_the_host_is_not(
    client: ExecutionClient,
) -> None:
    script = 'echo x > file; ln -s "$PWD/file" here; ln -s /etc/hostname there'

    result = made(client, script, "here", "there")

    assert client.outputs(result) == {"here": b"x\n"}
    assert links(result) == {"there": "/etc/hostname"}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory of this machine with something in it."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "secret").write_text("nothing for clients")
    (folder / "secret").chmod(0o600)
    return folder


def test_a_directory_that_became_a_link_to_the_host_uploads_nothing_of_it(
    client: ExecutionClient, secret: Path
) -> None:
    response = client.run("sh", "-c", f"rmdir out; ln -s {secret} out", outputs=["out", "out/x"])

    # The parent of the second output was made a link, which leads out.
    assert response.status.code in (Code.OK, Code.INVALID_ARGUMENT)
    assert list(response.result.output_files) == []
    assert list(response.result.output_directories) == []
    assert (secret / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("target", ["absolute", "climbing"])
def test_an_output_below_a_link_to_the_host_is_neither_read_nor_moved(
    client: ExecutionClient, farm: Farm, secret: Path, target: str
) -> None:
    up = "/".join([".."] * 30)
    link = str(secret) if target == "absolute" else f"{up}{secret}"

    response = client.run(
        "sh", "-c", f"rmdir d; ln -s {link} d; ls d", outputs=["d/secret"], salt=target.encode()
    )

    assert response.status.code in (Code.OK, Code.INVALID_ARGUMENT)
    assert list(response.result.output_files) == []
    assert (secret / "secret").read_text() == "nothing for clients"


@pytest.mark.parametrize("where", ["link/made/out", "link/out"])
def test_no_parent_of_an_output_is_made_through_an_input_link(
    client: ExecutionClient, secret: Path, where: str
) -> None:
    tree = {"link": Link(str(secret))}

    response = client.run("true", inputs=tree, outputs=[where])

    assert response.status.code == Code.INVALID_ARGUMENT, response
    assert [each.name for each in secret.iterdir()] == ["secret"]


def test_a_directory_swapped_for_a_link_while_the_action_ran_moves_no_host_file(
    client: ExecutionClient, secret: Path
) -> None:
    script = f"mkdir d/e; echo x > d/e/secret; rm -r d/e; ln -s {secret} d/e"

    result = made(client, f"mkdir -p d; {script}", "d")

    tree = client.tree(result.output_directories[0])
    assert [(each.name, each.target) for each in tree.root.symlinks] == [("e", str(secret))]
    assert (secret / "secret").exists()


@pytest.mark.parametrize(
    "path", ["../out", "/tmp/out", "a/../../out", "..", "a/..//../out", "nul\0byte"]
)
@pytest.mark.parametrize("field", ["output_paths", "output_files", "output_directories"])
def test_an_output_path_that_leads_out_is_refused(
    client: ExecutionClient, path: str, field: str
) -> None:
    fields = {field: [path]} if field != "output_paths" else {"outputs": [path]}

    response = client.run("true", **fields)

    assert response.status.code == Code.INVALID_ARGUMENT, response


@pytest.mark.parametrize("make", ["mkfifo out", "mknod out c 1 3"])
def test_a_pipe_or_device_is_no_output_and_nothing_waits_for_it(
    client: ExecutionClient, make: str
) -> None:
    response = client.run("sh", "-c", make, outputs=["out"])

    assert response.status.code == Code.INVALID_ARGUMENT
    assert "'out'" in response.status.message


def test_special_files_in_an_output_directory_are_left_out(client: ExecutionClient) -> None:
    result = made(client, "mkdir d; mkfifo d/p; echo x > d/f", "d")

    assert [each.name for each in client.tree(result.output_directories[0]).root.files] == ["f"]


def test_an_output_that_is_a_hard_link_of_an_input_is_no_danger_to_it(
    client: ExecutionClient,
) -> None:
    tree = {"input": "linked by the action"}

    result = made(client, "ln input out", "out", inputs=tree)

    assert client.outputs(result) == {"out": b"linked by the action"}
    again = client.run("cat", "input", inputs=tree)
    assert client.stdout(again.result) == b"linked by the action"


def test_an_output_still_written_to_by_a_child_left_behind_is_whole(
    client: ExecutionClient,
) -> None:
    # Whatever the child wrote until the command ended: digest and blob agree.
    script = "sh -c 'while :; do echo more; done' > out & while [ ! -s out ]; do :; done"

    result = made(client, script, "out")

    data = client.outputs(result)["out"]
    assert len(data) == result.output_files[0].digest.size_bytes > 0
    assert set(data.split(b"\n")) <= {b"more", b"", b"mor", b"mo", b"m"}


@pytest.mark.slow
def test_5000_outputs_are_stored_and_found(client: ExecutionClient) -> None:
    names = [f"d{number % 50}/out{number}" for number in range(5000)]
    script = "for n in $(seq 0 4999); do echo $n > d$((n % 50))/out$n; done"

    began = time.process_time()
    result = made(client, script, *names)

    assert len(result.output_files) == 5000
    assert [each.path for each in result.output_files] == sorted(names)
    assert client.find_missing([each.digest for each in result.output_files]) == []
    # Worker, scheduler and cache are in this process.
    assert time.process_time() - began < 60


def test_outputs_that_no_message_could_list_are_refused_and_not_cached(
    client: ExecutionClient,
) -> None:
    # gRPC peers take 4 MiB; a worker that sent more would lose its connection again and again.
    parent = "/".join(["d" * 200] * 9)
    outputs = [f"{parent}/{number}" for number in range(2400)]
    script = f"cd {parent} && seq 0 2399 | xargs touch"

    for _ in range(2):
        response = client.run("sh", "-c", script, outputs=outputs)

        assert response.status.code == Code.INVALID_ARGUMENT
        assert "2400 output files" in response.status.message
        assert not response.cached_result
    assert client.run("sh", "-c", script, outputs=outputs[:10]).status.code == Code.OK


@pytest.mark.parametrize("path", ["link", "d"])
def test_a_link_whose_target_is_not_utf_8_is_the_actions_mistake(
    client: ExecutionClient, path: str
) -> None:
    script = "mkdir d; ln -s $(printf '\\377') d/in; ln -s $(printf '\\377') link"

    response = client.run("sh", "-c", script, outputs=[path])

    assert response.status.code == Code.INVALID_ARGUMENT
    assert "UTF-8" in response.status.message


@pytest.mark.parametrize("what", ["ln -s SECRET work", "echo > work", "true"])
def test_an_action_that_replaces_its_input_root_uploads_nothing_of_the_host(
    client: ExecutionClient, secret: Path, what: str
) -> None:
    script = f"cd ..; rm -rf work; {what.replace('SECRET', str(secret))}"

    response = client.run("sh", "-c", script, outputs=["secret", "work"])

    assert response.status.code == Code.OK, response.status
    assert client.outputs(response.result) == {}
    assert (secret / "secret").read_text() == "nothing for clients"


def test_an_action_that_replaces_its_own_directory_uploads_nothing_of_the_host(
    client: ExecutionClient, secret: Path
) -> None:
    (secret / "work").mkdir()
    (secret / "work" / "secret").write_text("nothing for clients")
    script = f'own=$(dirname "$PWD"); cd /; rm -rf "$own"; ln -s {secret} "$own"'

    response = client.run("sh", "-c", script, outputs=["secret"])

    assert response.status.code == Code.INVALID_ARGUMENT
    assert (secret / "work" / "secret").read_text() == "nothing for clients"
    assert (secret / "secret").exists()
