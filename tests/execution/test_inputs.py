"""How inputs are put in place, and what cannot be one: seen through gRPC."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from nativelink.core.errors import Code
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from nativelink.testing.execution import (
    Blobs,
    ExecutionClient,
    File,
    Link,
    make_action,
    make_tree,
    missing_of,
    status_of,
)
from nativelink.testing.reapi import digest_of
from tests.execution.farm import Farm
from tests.execution.gate import wait_for


def subject(digest: re.Digest) -> str:
    return f"blobs/{digest.hash}/{digest.size_bytes}"


def lines(client: ExecutionClient, response: re.ExecuteResponse) -> list[str]:
    assert response.status.code == Code.OK, response.status
    return client.stdout(response.result).decode().splitlines()


def test_inputs_have_their_bytes_modes_and_links(client: ExecutionClient) -> None:
    tree = {
        "plain": "text",
        "empty": "",
        "run": File(b"#!/bin/sh\n", executable=True),
        "empty-run": File(b"", executable=True),
        "link": Link("d/deep"),
        "dangling": Link("nowhere"),
        "d": {"deep": "deeper", "nothing": {}},
        "name with é and \n": "odd",
    }

    response = client.run(
        "find",
        ".",
        "-mindepth",
        "1",
        "-printf",
        "%y %m %s %p %l|",
        inputs=tree,
    )

    found = sorted(client.stdout(response.result).decode().split("|")[:-1])
    files = [each for each in found if each.startswith("f")]
    assert files == [
        "f 444 0 ./empty ",
        "f 444 3 ./name with é and \n ",
        "f 444 4 ./plain ",
        "f 444 6 ./d/deep ",
        "f 555 0 ./empty-run ",
        "f 555 10 ./run ",
    ]
    links = [each.split(" ", 3)[3] for each in found if each.startswith("l")]
    assert sorted(links) == ["./dangling nowhere", "./link d/deep"]
    assert sum(each.startswith("d") for each in found) == 2


def test_node_properties_set_mode_and_time_of_a_file_and_of_no_other(
    client: ExecutionClient,
) -> None:
    tree = {
        "a": File(b"same", mtime=981173106, mode=0o640),
        "b": File(b"same"),
    }

    response = client.run("stat", "-c", "%n %a %Y", "a", "b", inputs=tree)

    first, second = lines(client, response)
    assert first == "a 640 981173106"
    assert second.startswith("b 444 ")
    assert "981173106" not in second


def test_directories_can_be_written_to(client: ExecutionClient) -> None:
    response = client.run(
        "sh", "-c", "echo new > d/new && rm d/old && ls d", inputs={"d": {"old": "old"}}
    )

    assert lines(client, response) == ["new"]


def test_actions_that_need_the_same_directories_see_nothing_of_one_another(
    client: ExecutionClient,
) -> None:
    tree = {"d": {"old": "old", "deep": {}}, "link": Link("d")}
    script = (
        "pwd; find . -printf '%y %m %p|' | tr '|' '\\n' | sort; "
        "echo $0 > out/result; echo $0 > d/note; rm d/old link; mkfifo d/deep/pipe; "
        "ln -s / out/host; test $0 -lt 10 || mkdir d/made; test $0 -lt 12 || rm -r d/deep"
    )

    def place_and_inputs(number: int) -> list[str]:
        arguments = ("sh", "-c", script, str(number))
        return lines(client, client.run(*arguments, inputs=tree, outputs=["out/result"]))

    found = [place_and_inputs(number) for number in range(14)]

    for _, *inputs in found:
        assert inputs == [
            *("d 755 .", "d 755 ./d", "d 755 ./d/deep", "d 755 ./out"),
            *("f 444 ./d/old", "l 777 ./link"),
        ]
    # Each directory of an action has a number of its own, so some were used again.
    assert len({place for place, *_ in found}) < len(found)


def run_as_bazel_does(client: ExecutionClient, *arguments: str, **action: Any) -> re.ActionResult:
    """Execute, and upload again what has gone meanwhile, as clients do by themselves."""
    for _ in range(3):
        response = client.run(*arguments, **action)
        if response.status.code != Code.FAILED_PRECONDITION:
            break
        assert missing_of(response.status)
    assert response.status.code == Code.OK, response.status
    return response.result


@pytest.mark.parametrize("executable", [False, True])
def test_an_action_that_writes_to_its_inputs_damages_no_blob(
    client: ExecutionClient, executable: bool
) -> None:
    # As root no mode holds it back.
    data = b"precious %d\n" % executable
    script = "chmod u+w input && echo damaged >> input && cp input out"
    tree = {"input": File(data, executable=executable)}

    result = run_as_bazel_does(client, "sh", "-c", script, inputs=tree, outputs=["out"])

    assert client.outputs(result) == {"out": data + b"damaged\n"}
    assert client.find_missing([digest_of(data)]) == []
    assert client.read(digest_of(data)) == data
    # Whoever has this input next sees what it was.
    next_ = client.run("cat", "input", inputs=tree)
    assert client.stdout(next_.result) == data


def test_an_action_that_writes_to_an_input_sees_no_change_of_its_twin(
    client: ExecutionClient,
) -> None:
    tree = {"a": "shared bytes", "b": "shared bytes"}

    result = run_as_bazel_does(
        client, "sh", "-c", "chmod u+w a; echo changed > a; cat b", inputs=tree
    )

    assert client.stdout(result) == b"shared bytes"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/etc/passwd", "../../escaped", "nul\0byte", "x" * 256]
)
@pytest.mark.parametrize("kind", ["files", "directories", "symlinks"])
def test_a_name_that_is_none_is_refused(
    client: ExecutionClient, farm: Farm, name: str, kind: str
) -> None:
    blobs = Blobs()
    directory = re.Directory()
    if kind == "symlinks":
        directory.symlinks.add(name=name, target="t")
    elif kind == "files":
        directory.files.add(name=name, digest=blobs.add(b"escaped"))
    else:
        directory.directories.add(name=name, digest=make_tree({"f": "escaped"}, blobs))
    root = blobs.add(directory.SerializeToString())
    action = make_action(["true"], blobs, inputs=root)
    client.upload(blobs)

    response = client.execute(action).result()

    assert response.status.code == Code.INVALID_ARGUMENT, response
    assert not (farm.folder / "escaped").exists()


@pytest.mark.parametrize("kinds", [("files", "files"), ("files", "directories")])
def test_a_name_that_stands_twice_is_refused(
    client: ExecutionClient, kinds: tuple[str, str]
) -> None:
    blobs = Blobs()
    directory = re.Directory()
    for kind in kinds:
        if kind == "files":
            directory.files.add(name="twice", digest=blobs.add(b"twice"))
        else:
            directory.directories.add(name="twice", digest=make_tree({}, blobs))
    action = make_action(["true"], blobs, inputs=blobs.add(directory.SerializeToString()))
    client.upload(blobs)

    response = client.execute(action).result()

    assert response.status.code == Code.INVALID_ARGUMENT
    assert "twice" in response.status.message


@pytest.mark.parametrize("directory", ["../..", "/tmp", "a/../../b", "link/out"])
def test_a_working_directory_that_leads_out_is_refused(
    client: ExecutionClient, directory: str
) -> None:
    response = client.run(
        "touch", "made-here", inputs={"link": Link("/tmp")}, working_directory=directory
    )

    assert response.status.code == Code.INVALID_ARGUMENT, response


def test_a_directory_that_is_no_directory_message_is_refused(client: ExecutionClient) -> None:
    blobs = Blobs()
    action = make_action(["true"], blobs, inputs=blobs.add(b"\xff\xff no message"))
    client.upload(blobs)

    response = client.execute(action).result()

    assert response.status.code == Code.INVALID_ARGUMENT, response


def test_a_missing_action_is_named(client: ExecutionClient) -> None:
    absent = digest_of(b"an action that nobody uploaded")

    with pytest.raises(grpc.RpcError) as failed:
        client.execute(absent).result()

    status = status_of(failed.value)
    assert status.code == Code.FAILED_PRECONDITION
    assert missing_of(status) == {subject(absent)}


def test_a_missing_command_and_input_root_are_named_together(client: ExecutionClient) -> None:
    command, root = digest_of(b"no command"), digest_of(b"no root")
    action = re.Action(command_digest=command, input_root_digest=root).SerializeToString()
    client.batch_update([action])

    with pytest.raises(grpc.RpcError) as failed:
        client.execute(digest_of(action)).result()

    status = status_of(failed.value)
    assert status.code == Code.FAILED_PRECONDITION
    assert missing_of(status) == {subject(command), subject(root)}


def test_all_missing_inputs_are_named_and_after_their_upload_the_action_runs(
    client: ExecutionClient,
) -> None:
    blobs = Blobs()
    tree = {
        "here": "here",
        "gone1": "gone 1",
        "d": {"gone2": "gone 2", "e": {"gone3": File(b"gone 3", executable=True)}},
        "whole": {"directory": "is missing"},
    }
    action = make_action(["cat", "here", "gone1", "d/gone2", "d/e/gone3"], blobs, inputs=tree)
    below = make_tree(tree["whole"], Blobs())
    absent = [digest_of(b"gone %d" % number) for number in (1, 2, 3)] + [below]
    held = Blobs({key: blobs.data[key] for key in (each.hash for each in absent)})
    rest = {key: data for key, data in blobs.data.items() if key not in held.data}
    client.upload(Blobs(rest))

    response = client.execute(action).result()

    assert response.status.code == Code.FAILED_PRECONDITION, response
    assert missing_of(response.status) == {subject(each) for each in absent}
    client.upload(held)
    again = client.execute(action).result()
    assert again.status.code == Code.OK, again
    assert client.stdout(again.result) == b"heregone 1gone 2gone 3"


@pytest.mark.slow
def test_a_tree_of_50000_files_is_put_in_place(client: ExecutionClient) -> None:
    tree = {
        f"d{folder}": {f"f{number}": f"{folder}/{number % 50}" for number in range(500)}
        for folder in range(100)
    }

    script = "find . -type f | wc -l; pwd; cat d99/f499"
    count, here, last = lines(client, client.run("sh", "-c", script, inputs=tree))

    assert (count, last) == ("50000", "99/49")
    wait_for(lambda: not Path(here).exists(), "the end of the action's directory")


def test_an_input_keeps_one_inode_however_many_actions_use_it(
    client: ExecutionClient, farm: Farm
) -> None:
    data = b"shared by all " + os.urandom(8).hex().encode()
    tree = {"a": data, "b": data}

    response = client.run("stat", "-c", "%i", "a", "b", inputs=tree)

    first, second = lines(client, response)
    stored = farm.content_path(hashlib.sha256(data).hexdigest()).stat().st_ino
    assert int(first) == int(second) == stored
