"""What the action left behind becomes an ActionResult, and nothing from elsewhere does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.worker.outputs import FoundOutputs, OutputFinder, TooMuchError

SHA = DigestFunction.SHA256


def find(root: Path, **command: object) -> FoundOutputs:
    return OutputFinder(root, pb.Command(**command), SHA).find()


def digest(message: pb.Digest) -> Digest:
    return Digest(message.hash, message.size_bytes)


def tree_of(found: FoundOutputs, path: str) -> pb.Tree:
    [output] = [each for each in found.result.output_directories if each.path == path]
    return pb.Tree.FromString(found.messages[digest(output.tree_digest)])


def test_files_are_hashed_with_their_executable_bit_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"bee")
    (tmp_path / "a").write_bytes(b"ay")
    (tmp_path / "a").chmod(0o744)

    found = find(tmp_path, output_paths=["b", "a", "absent"])

    assert [(each.path, each.is_executable) for each in found.result.output_files] == [
        ("a", True),
        ("b", False),
    ]
    assert found.files == {
        SHA.digest_of(b"ay"): tmp_path / "a",
        SHA.digest_of(b"bee"): tmp_path / "b",
    }
    assert found.size_bytes == 5


def test_paths_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "sub/dir").mkdir(parents=True)
    (tmp_path / "sub/dir/out").write_bytes(b"x")

    found = find(tmp_path, working_directory="sub/dir", output_paths=["out"])

    assert [each.path for each in found.result.output_files] == ["out"]


def test_the_working_directory_itself_may_be_an_output(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/out").write_bytes(b"x")

    found = find(tmp_path, working_directory="sub", output_directories=[""])

    assert [each.name for each in tree_of(found, "").root.files] == ["out"]


def test_the_older_lists_count_only_without_the_newer_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    (tmp_path / "old").write_bytes(b"y")
    (tmp_path / "dir").mkdir()

    newer = find(tmp_path, output_paths=["new"], output_files=["old"], output_directories=["dir"])
    older = find(tmp_path, output_files=["old"], output_directories=["dir"])

    assert [each.path for each in newer.result.output_files] == ["new"]
    assert not newer.result.output_directories
    assert [each.path for each in older.result.output_files] == ["old"]
    assert [each.path for each in older.result.output_directories] == ["dir"]


def test_a_tree_has_parents_before_children_each_once_whatever_the_order_on_disk(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        out = tmp_path / name / "out"
        # `shared` is met first inside `a`, and is a child of the later `b/c` as well.
        for place in (
            ("a/shared", "b/c/shared", "b/d")
            if name == "one"
            else (
                "b/d",
                "b/c/shared",
                "a/shared",
            )
        ):
            (out / place).mkdir(parents=True)
            (out / place / "file").write_bytes(b"same")
        (out / "b/d/other").write_bytes(b"other")

    first = find(tmp_path / "one", output_paths=["out"])
    second = find(tmp_path / "two", output_paths=["out"])

    assert first.messages == second.messages
    tree = tree_of(first, "out")
    assert first.result.output_directories[0].is_topologically_sorted
    digests = [SHA.digest_of(each.SerializeToString()) for each in tree.children]
    assert len(set(digests)) == len(digests)
    order = {each: number for number, each in enumerate(digests)}
    for number, directory in enumerate([tree.root, *tree.children], start=-1):
        assert [each.name for each in directory.directories] == sorted(
            each.name for each in directory.directories
        )
        for child in directory.directories:
            assert order[digest(child.digest)] > number


@pytest.mark.parametrize(
    ("wanted", "has_tree", "has_root"),
    [
        (pb.Command.TREE_ONLY, True, False),
        (pb.Command.DIRECTORY_ONLY, False, True),
        (pb.Command.TREE_AND_DIRECTORY, True, True),
    ],
)
def test_directories_come_in_the_format_that_was_asked_for(
    tmp_path: Path, wanted: pb.Command.OutputDirectoryFormat, has_tree: bool, has_root: bool
) -> None:
    (tmp_path / "out/sub").mkdir(parents=True)

    found = find(tmp_path, output_paths=["out"], output_directory_format=wanted)

    [output] = found.result.output_directories
    assert output.HasField("tree_digest") is has_tree
    assert output.HasField("root_directory_digest") is has_root
    if has_root:
        root = pb.Directory.FromString(found.messages[digest(output.root_directory_digest)])
        assert digest(root.directories[0].digest) in found.messages
    else:
        assert set(found.messages) == {digest(output.tree_digest)}


def test_relative_links_are_recorded_and_say_in_the_old_lists_where_they_lead(
    tmp_path: Path,
) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "to_dir").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "climbing").symlink_to("../../../../etc")

    result = find(tmp_path, output_paths=["to_dir", "dangling", "climbing"]).result

    assert {each.path: each.target for each in result.output_symlinks} == {
        "to_dir": "dir",
        "dangling": "nowhere",
        "climbing": "../../../../etc",
    }
    assert [each.path for each in result.output_directory_symlinks] == ["to_dir"]
    assert [each.path for each in result.output_file_symlinks] == ["climbing", "dangling"]


def test_an_absolute_link_into_the_action_becomes_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"content")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dirlink").symlink_to(tmp_path / "dir")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")

    result = find(tmp_path, output_paths=["link", "dirlink", "gone"]).result

    assert [each.path for each in result.output_files] == ["link"]
    assert [each.path for each in result.output_directories] == ["dirlink"]
    assert not result.output_symlinks


def test_an_absolute_link_to_the_host_is_recorded_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "passwd").symlink_to("/etc/passwd")

    found = find(tmp_path, output_paths=["passwd"])

    assert [each.target for each in found.result.output_symlinks] == ["/etc/passwd"]
    assert found.files == {}


def test_links_in_directories_keep_their_targets_but_for_those_into_this_very_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/file").write_bytes(b"x")
    (tmp_path / "out/sub/relative").symlink_to("../file")
    (tmp_path / "out/sub/absolute").symlink_to(tmp_path / "out/file")
    (tmp_path / "out/sub/host").symlink_to("/usr/bin/env")

    tree = tree_of(find(tmp_path, output_paths=["out"]), "out")

    [sub] = tree.children
    assert {each.name: each.target for each in sub.symlinks} == {
        "relative": "../file",
        "absolute": "../file",
        "host": "/usr/bin/env",
    }


def test_a_parent_that_became_a_link_to_the_host_gives_nothing_away(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "passwd").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "dir").symlink_to(host)

    with pytest.raises(NativeLinkError) as caught:
        find(root, output_paths=["dir/passwd"])
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert find(root, output_paths=["dir"]).files == {}


def test_a_parent_that_is_a_link_within_the_action_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/out").write_bytes(b"x")
    (tmp_path / "alias").symlink_to("real")

    found = find(tmp_path, output_paths=["alias/out"])

    assert list(found.files.values()) == [tmp_path / "real/out"]


def test_a_pipe_as_an_output_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(NativeLinkError, match="'out' is a pipe") as caught:
        find(tmp_path, output_paths=["out"])
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_pipes_inside_a_directory_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out/pipe")
    (tmp_path / "out/file").write_bytes(b"x")

    tree = tree_of(find(tmp_path, output_paths=["out"]), "out")

    assert [each.name for each in tree.root.files] == ["file"]


def test_a_name_that_is_no_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "out") + b"/\xff\xfe")).write_bytes(b"x")
    with pytest.raises(NativeLinkError, match=r"\\xff\\xfe.* not UTF-8"):
        find(tmp_path, output_paths=["out"])


def test_a_directory_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_DIRECTORY)
    os.mkdir("out", dir_fd=fd)
    for _ in range(500):
        below = os.open("out", os.O_DIRECTORY, dir_fd=fd)
        os.mkdir("out", dir_fd=below)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(NativeLinkError, match="nested more than 400 deep"):
        find(tmp_path, output_paths=["out"])


def test_requested_node_properties_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    (tmp_path / "out").chmod(0o640)
    os.utime(tmp_path / "out", ns=(5, 1_700_000_000_123_456_789))

    [output] = find(
        tmp_path, output_paths=["out"], output_node_properties=["mtime", "unix_mode"]
    ).result.output_files
    [plain] = find(tmp_path, output_paths=["out"]).result.output_files

    assert output.node_properties.mtime.seconds == 1_700_000_000
    assert output.node_properties.mtime.nanos == 123_456_789
    assert output.node_properties.unix_mode.value == 0o640
    assert not plain.HasField("node_properties")


def test_a_file_in_place_of_a_parent_directory_means_that_the_output_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "dir").write_bytes(b"a file")
    assert find(tmp_path, output_paths=["dir/out"]).files == {}


def test_more_than_was_to_be_looked_at_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    (tmp_path / "directory").mkdir()

    def finder(*paths: str) -> OutputFinder:
        command = pb.Command(output_paths=paths)
        return OutputFinder(tmp_path, command, SHA, max_bytes=50_000)

    assert len(finder("small").find().files) == 1
    for path in ("large", "directory"):
        with pytest.raises(TooMuchError):
            finder(path).find()
    with pytest.raises(TooMuchError):
        finder().stream(tmp_path / "large")


def test_a_stream_that_is_no_file_any_more_is_empty(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    finder = OutputFinder(tmp_path, pb.Command(), SHA)

    for name in ("link", "directory", "pipe", "absent"):
        assert finder.stream(tmp_path / name) == SHA.digest_of(b"")
