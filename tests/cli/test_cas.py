"""`nativelink cas` against a server."""

import json
import os
from pathlib import Path

import pytest

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.testing.reapi import digest_of
from tests.cli.farm import Blobs, CommandLine, text_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "include").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "include" / "n.h").write_text("#define N 1\n")
    (source / "large").write_bytes(bytes(range(256)) * 8192)
    (source / "nothing").touch()
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("include/n.h")
    return source


def contents(root: Path) -> dict[str, object]:
    return {
        str(path.relative_to(root)): path.readlink()
        if path.is_symlink()
        else None
        if path.is_dir()
        else (path.read_bytes(), os.access(path, os.X_OK))
        for path in root.rglob("*")
    }


def put(nativelink: CommandLine, path: Path) -> str:
    answer = nativelink("cas", "put", path)
    assert answer.code == 0, answer.err
    digest, _, name = answer.out.strip().partition("  ")
    assert name == str(path)
    return digest


def test_a_directory_that_was_put_can_be_got_again(
    nativelink: CommandLine, source: Path, tmp_path: Path
):
    digest = put(nativelink, source)
    copy = tmp_path / "copy"
    answer = nativelink("cas", "get", "-r", digest, copy)
    assert answer == (0, f"{copy}: 4 files, 2 directories, 1 symlink, 2.097 MB\n", "")
    assert contents(copy) == contents(source)
    assert put(nativelink, copy) == digest


def test_what_is_there_already_is_not_sent_again(
    nativelink: CommandLine, blobs: Blobs, source: Path
):
    (source / "include" / "n.h").write_text("#define ONLY_ONCE 1\n")
    first = json.loads(nativelink("cas", "put", "--json", source).out)[0]
    again = json.loads(nativelink("cas", "put", "--json", source).out)[0]
    assert first["sent_blobs"] > 0
    assert (again["sent_blobs"], again["sent_bytes"]) == (0, 0)
    # Three files, the empty blob, which is a file and a Directory here, and two Directories.
    assert again["blobs"] == 6
    assert again["digest"] == first["digest"]


def test_cat_writes_the_very_bytes(nativelink: CommandLine, source: Path):
    digest = put(nativelink, source / "include" / "n.h")
    assert nativelink("cas", "cat", digest) == (0, "#define N 1\n", "")
    empty = text_of(digest_of(b""))
    assert nativelink("cas", "cat", empty) == (0, "", "")


def test_a_list_names_size_digest_and_kind(nativelink: CommandLine, source: Path, tmp_path: Path):
    (source / "large").unlink()
    digest = put(nativelink, source)
    n_h, run = (text_of(digest_of(data)) for data in (b"#define N 1\n", b"#!/bin/sh\n"))
    nothing = text_of(digest_of(b""))
    include = pb.Directory(
        files=[pb.FileNode(name="n.h", digest=digest_of(b"#define N 1\n"))]
    ).SerializeToString()
    below = text_of(digest_of(include))
    assert nativelink("cas", "ls", "-R", digest).out.splitlines() == [
        f"d-   -  {nothing}   empty/",
        f"d-   -  {below}  include/",
        f"--  12  {n_h}  include/n.h",
        f"l-   -  {'':67}  link -> include/n.h",
        f"--   0  {nothing}   nothing",
        f"-x  10  {run}  run*",
    ]
    listed = json.loads(nativelink("cas", "ls", "--json", digest).out)
    assert [entry["path"] for entry in listed["entries"]] == [
        "empty", "include", "link", "nothing", "run",
    ]  # fmt: skip
    assert (listed["files"], listed["directories"], listed["symlinks"]) == (3, 2, 1)


def test_an_output_directorys_tree_is_listed_and_got_like_a_directory(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    child = pb.Directory(files=[pb.FileNode(name="f", digest=blobs.put(b"in the child"))])
    below = digest_of(child.SerializeToString())
    root = pb.Directory(directories=[pb.DirectoryNode(name="d", digest=below)])
    tree = pb.Tree(root=root, children=[child])
    digest = text_of(blobs.put(tree.SerializeToString()))
    assert nativelink("cas", "ls", "-R", digest).out.split()[-1] == "d/f"
    assert nativelink("cas", "get", "-r", digest, tmp_path / "tree").code == 0
    assert (tmp_path / "tree" / "d" / "f").read_text() == "in the child"


def test_what_is_no_directory_is_said_to_be_none(nativelink: CommandLine, blobs: Blobs):
    digest = blobs.put(b"some text")
    answer = nativelink("cas", "ls", text_of(digest))
    assert answer.code == 2
    assert answer.err == (f"nativelink: blob {digest.hash}-9 is neither a Directory nor a Tree\n")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../escaped", "/etc/escaped", "x" * 256])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_no_name_of_a_tree_leads_out_of_the_directory(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path, name: str, kind: str
):
    match kind:
        case "file":
            digest = blobs.directory({name: b"evil"})
        case "directory":
            digest = blobs.directory(directories={name: blobs.directory({"f": b"evil"})})
        case _:
            digest = blobs.directory(links={name: "/etc"})
    target = tmp_path / "deep" / "target"
    answer = nativelink("cas", "get", "-r", text_of(digest), target)
    assert answer.code == 2
    assert "a name in" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_a_link_of_the_tree(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    below = blobs.directory({"f": b"evil"})
    digest = blobs.directory(directories={"d": below}, links={"d": str(outside)})
    answer = nativelink("cas", "get", "-r", text_of(digest), tmp_path / "target")
    assert answer.code == 2
    assert "stands there twice" in answer.err
    assert list(outside.iterdir()) == []


def test_a_directory_that_is_not_empty_is_left_alone(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    (tmp_path / "mine").write_text("mine")
    digest = text_of(blobs.directory({"mine": b"theirs"}))
    answer = nativelink("cas", "get", "-r", digest, tmp_path)
    assert answer.code == 2
    assert "no empty directory" in answer.err
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_tree_with_a_file_missing_leaves_nothing_behind(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    message = pb.Directory(
        files=[
            pb.FileNode(name="here", digest=blobs.put(b"here")),
            pb.FileNode(name="lost", digest=digest_of(b"never put")),
        ]
    )
    digest = text_of(blobs.put(message.SerializeToString()))
    answer = nativelink("cas", "get", "-r", digest, tmp_path / "target")
    assert answer.code == 2
    assert answer.err.startswith("nativelink: lost: blob ")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_missing_is_listed_as_missing(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    digest = text_of(blobs.directory(directories={"lost": digest_of(b"never put either")}))
    answer = nativelink("cas", "ls", "-R", digest)
    assert answer.code == 0
    assert answer.out.endswith("  lost/  not in the CAS\n")
    refused = nativelink("cas", "get", "-r", digest, tmp_path / "target")
    assert refused.code == 2
    assert "('lost') is not in the CAS" in refused.err


def test_a_small_tree_of_a_billion_paths_is_counted_and_not_written(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    digest = blobs.directory({"f": b"x"})
    for _ in range(30):
        digest = blobs.directory(directories={"a": digest, "b": digest})
    listed = json.loads(nativelink("cas", "ls", "--json", text_of(digest)).out)
    assert listed["files"] == 2**30
    answer = nativelink("cas", "get", "-r", text_of(digest), tmp_path / "target")
    assert answer.code == 2
    assert "1000000 are allowed" in answer.err


def test_a_file_is_replaced_only_by_a_whole_one(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    target = tmp_path / "file"
    target.write_text("old")
    lost = text_of(digest_of(b"nobody put this"))
    assert nativelink("cas", "get", lost, target).code == 2
    assert target.read_text() == "old"
    answer = nativelink("cas", "get", "-x", text_of(blobs.put(b"new")), target)
    assert answer == (0, f"{target}: 3 bytes\n", "")
    assert target.read_text() == "new"
    assert os.access(target, os.X_OK)
    assert list(tmp_path.iterdir()) == [target]


def test_another_blob_than_was_asked_for_is_noticed(nativelink: CommandLine, blobs: Blobs):
    digest = text_of(blobs.put(b"named by SHA-256"))
    answer = nativelink("cas", "cat", "--digest-function", "blake3", digest)
    assert answer.code == 2
    assert "by BLAKE3" in answer.err


@pytest.mark.parametrize("kind", ["name", "pipe"])
def test_what_a_directory_cannot_describe_is_not_put(
    nativelink: CommandLine, tmp_path: Path, kind: str
):
    source = tmp_path / "source"
    source.mkdir()
    if kind == "name":
        (source / os.fsdecode(b"\xff")).touch()
    else:
        os.mkfifo(source / "pipe")
    answer = nativelink("cas", "put", source)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1


def test_a_name_cannot_talk_to_the_terminal(nativelink: CommandLine, blobs: Blobs):
    digest = blobs.directory({"a\x1b[31m\u202eb": b"x"}, links={"l": "t\x07"})
    out = nativelink("cas", "ls", text_of(digest)).out
    assert "a\\x1b[31m\\u202eb" in out
    assert "l -> t\\x07" in out
