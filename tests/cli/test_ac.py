"""`nativelink ac` against a server."""

import json

import pytest

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp
from nativelink.testing.reapi import digest_of
from tests.cli.farm import Blobs, CommandLine, Farm, text_of

ACTION = digest_of(b"an action")


def at(milliseconds: int) -> Timestamp:
    return Timestamp(
        seconds=1_700_000_000 + milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000
    )


@pytest.fixture
def result(asked: Farm, blobs: Blobs) -> pb.ActionResult:
    tree = blobs.put(pb.Tree(root=pb.Directory()).SerializeToString())
    result = pb.ActionResult(
        exit_code=1,
        output_files=[
            pb.OutputFile(path="out/tool", digest=blobs.put(b"tool"), is_executable=True)
        ],
        output_directories=[pb.OutputDirectory(path="out/tree", tree_digest=tree)],
        output_symlinks=[pb.OutputSymlink(path="out/link", target="tool")],
        stdout_raw=b"inlined\n",
        stderr_digest=blobs.put(b"from the CAS\n"),
        execution_metadata=pb.ExecutedActionMetadata(
            worker="worker-1",
            queued_timestamp=at(0),
            worker_start_timestamp=at(250),
            execution_start_timestamp=at(300),
            execution_completed_timestamp=at(62_300),
        ),
    )
    with asked.client() as client:
        client.update_action_result(ACTION, result)
    return result


def test_a_result_is_readable(nativelink: CommandLine, result: pb.ActionResult):
    tool = text_of(result.output_files[0].digest)
    tree = text_of(result.output_directories[0].tree_digest)
    assert nativelink("ac", "get", text_of(ACTION)) == (
        0,
        f"""\
exit code  1
outputs
  out/tool*  4 bytes  {tool}
  out/tree/  tree {tree}
  out/link -> tool
stdout     8 bytes, shown by --stdout
stderr     13 bytes, shown by --stderr
worker     worker-1
queued     2023-11-14T22:13:20.000Z
took       queue 250 ms, execute 1 min 2 s
""",
        "",
    )


def test_the_logs_are_shown_on_request(nativelink: CommandLine, result: pb.ActionResult):
    assert nativelink("ac", "get", text_of(ACTION), "--stdout").out == "inlined\n"
    assert nativelink("ac", "get", text_of(ACTION), "--stderr").out == "from the CAS\n"


def test_programs_get_all_of_it(nativelink: CommandLine, result: pb.ActionResult):
    document = json.loads(nativelink("ac", "get", "--json", text_of(ACTION)).out)
    assert document["action"] == text_of(ACTION)
    assert document["exit_code"] == 1
    assert document["stderr_bytes"] == 13
    assert document["output_symlinks"] == [{"path": "out/link", "target": "tool"}]
    assert document["times"]["execution_completed_timestamp"] == "2023-11-14T22:14:22.300Z"


def test_a_result_that_is_not_there_is_said_to_be_none(nativelink: CommandLine):
    digest = digest_of(b"another action")
    assert nativelink("ac", "get", text_of(digest)) == (
        2,
        "",
        f"nativelink: the action cache has no result of {digest.hash}-14 (instance 'main')\n",
    )
