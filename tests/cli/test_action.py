"""`nativelink action` against a server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.protobuf.duration_pb2 import Duration
from nativelink.testing.reapi import digest_of
from tests.cli.farm import Blobs, CommandLine, environment, platform, text_of


def command(**changes: object) -> pb.Command:
    return pb.Command(
        **{
            "arguments": ["tools/cc", "-c", "main.c", "-DNAME='a b'"],
            "environment_variables": environment(PATH="/bin:/usr/bin", EMPTY=""),
            "output_paths": ["out/main.o", "out/main.d"],
            "working_directory": "src",
            **changes,
        }
    )


def sources(blobs: Blobs, header: bytes = b"#define N 1\n") -> pb.Digest:
    return blobs.directory(
        {"main.c": b"int main(void) { return N; }\n"},
        {
            "include": blobs.directory({"n.h": header, "same.h": b"\n"}),
            "tools": blobs.directory({"cc": b"#!/bin/sh\n"}, executables=("cc",)),
        },
        {"current": "include/n.h"},
    )


def test_an_action_is_shown_with_all_that_reproduces_it(nativelink: CommandLine, blobs: Blobs):
    root = sources(blobs)
    action = blobs.action(
        root,
        command(),
        platform=platform(OSFamily="linux", cpu_count="2"),
        timeout=Duration(seconds=90),
        do_not_cache=True,
    )
    digest = text_of(digest_of(command().SerializeToString()))
    assert nativelink("action", "show", action) == (
        0,
        f"""\
action     {action}
command    {digest}
inputs     {text_of(root)}
platform   OSFamily=linux, cpu_count=2
timeout    90 s
caching    do_not_cache: every request runs it again
outputs    out/main.o
           out/main.d

# from the root of the inputs
cd src &&
mkdir -p out &&
env -i \\
  PATH=/bin:/usr/bin \\
  EMPTY= \\
  tools/cc -c main.c '-DNAME='\\''a b'\\'''

inputs  4 files, 2 directories, 1 symlink, 52 bytes
├── current -> include/n.h
├── include/
│   ├── n.h  12 bytes
│   └── same.h  1 byte
├── main.c  29 bytes
└── tools/
    └── cc*  10 bytes
""",
        "",
    )


def test_the_script_runs_the_command_whatever_is_in_it(
    nativelink: CommandLine, blobs: Blobs, tmp_path: Path
):
    arguments = [
        "a b",
        "'",
        '"$HOME"',
        "new\nline",
        "\x1b[31m",
        "\\",
        "$'x'",
        "ü",
        "",
        "*",
        "a\\'\n",
    ]
    print_all = ["/usr/bin/env", "printf", "%s\\0", *arguments, "$V", "end"]
    action = blobs.action(
        digest_of(b""),
        command(
            arguments=print_all,
            working_directory="",
            environment_variables=environment(PATH="/bin:/usr/bin", V="v\x07 w"),
        ),
    )
    script = json.loads(nativelink("action", "show", "--json", action).out)["script"]
    assert "\x1b" not in script
    ran = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd=tmp_path)
    assert (tmp_path / "out").is_dir()
    assert ran.stdout.decode().split("\0") == [*arguments, "$V", "end", ""]


def test_of_many_inputs_a_person_sees_some_and_a_program_all(nativelink: CommandLine, blobs: Blobs):
    root = blobs.directory({f"f{number:03}": b"x" for number in range(300)})
    action = blobs.action(root, command())
    shown = nativelink("action", "show", action, "--limit", "3")
    assert shown.out.endswith("├── f000  1 byte\n├── f001  1 byte\n└── f002  1 byte\n")
    assert shown.err == "… and 297 more; --limit 0 shows all\n"
    assert "… and 100 more" in nativelink("action", "show", action).err
    document = json.loads(nativelink("action", "show", "--json", action).out)
    assert len(document["inputs"]["entries"]) == document["inputs"]["files"] == 300


def test_inputs_that_were_evicted_are_marked(nativelink: CommandLine, blobs: Blobs):
    root = blobs.directory(directories={"lost": digest_of(b"a Directory that was evicted")})
    shown = nativelink("action", "show", blobs.action(root, command()))
    assert shown.code == 0
    assert "1 directory is not in the CAS" in shown.out
    assert "└── lost/  not in the CAS\n" in shown.out


def test_what_is_missing_is_named(nativelink: CommandLine, blobs: Blobs):
    lost = digest_of(b"a Command that was evicted")
    action = text_of(blobs.put(pb.Action(command_digest=lost).SerializeToString()))
    assert nativelink("action", "show", action) == (
        2, "", f"nativelink: Command {lost.hash}-{lost.size_bytes} is not in the CAS\n",
    )  # fmt: skip
    never = text_of(digest_of(b"never put"))
    shown = nativelink("action", "show", never)
    assert shown.err == f"nativelink: Action {never.replace('/', '-')} is not in the CAS\n"


def test_a_difference_is_told_on_one_screen(nativelink: CommandLine, blobs: Blobs):
    first = blobs.action(
        sources(blobs), command(), platform=platform(cpu_count="1"), timeout=Duration(seconds=60)
    )
    second = blobs.action(
        blobs.directory(
            {"main.c": b"int main(void) { return N; }\n"},
            {
                "generated": blobs.directory({"a.h": b"aa", "b.h": b"b"}),
                "include": blobs.directory({"n.h": b"#define N 2\n", "same.h": b"\n"}),
                "tools": blobs.directory({"cc": b"#!/bin/sh\n"}),
            },
            {"current": "generated/a.h"},
        ),
        command(
            arguments=["tools/cc", "-O2", "-c", "main.c", "-DNAME='c'"],
            environment_variables=environment(PATH="/bin", LANG="C"),
            output_paths=["out/main.o"],
            working_directory="",
        ),
        platform=platform(cpu_count="2"),
        salt=b"\x01\x02",
        do_not_cache=True,
    )
    before, after = (text_of(digest_of(f"#define N {n}\n".encode())) for n in (1, 2))
    assert nativelink("action", "diff", first, second) == (
        1,
        f"""\
2 differing arguments
  + [1]  -O2
  ~ [4]
      - -DNAME='a b'
      + -DNAME='c'
environment
  - EMPTY
  + LANG  C
  ~ PATH
      - /bin:/usr/bin
      + /bin
working directory
      - src
      + none
platform
  ~ cpu_count
      - 1
      + 2
1 differing output
  - out/main.d
timeout
      - 60 s
      + none
do not cache
      - false
      + true
salt
      - none
      + 0102
4 differing inputs
  ~ current
      - link to include/n.h
      + link to generated/a.h
  + generated  directory, 2 files, 3 bytes
  ~ include/n.h
      - {before}
      + {after}
  ~ tools/cc
      - executable
      + not executable
""",
        "",
    )


def test_equal_actions_are_told_apart_by_nothing(nativelink: CommandLine, blobs: Blobs):
    action = blobs.action(sources(blobs), command())
    assert nativelink("action", "diff", action, action) == (0, "the same action\n", "")
    document = json.loads(nativelink("action", "diff", "--json", action, action).out)
    assert document == {"first": action, "second": action, "equal": True, "differences": []}


CHANGES: dict[str, tuple[Callable[[Blobs], str], dict[str, object]]] = {
    "a directory became a file": (
        lambda blobs: blobs.action(blobs.directory({"include": b"x"}), command()),
        {"what": "input", "change": "changed", "name": "include",
         "before": "directory", "after": "file"},
    ),
    "a removed directory": (
        lambda blobs: blobs.action(blobs.directory(), command()),
        {"what": "input", "change": "removed", "name": "include", "before": "directory",
         "after": "", "files": 1, "directories": 0, "symlinks": 0, "size_bytes": 12,
         "missing_directories": 0},
    ),
    "a removed argument": (
        lambda blobs: blobs.action(base(blobs), command(arguments=["tools/cc", "-c", "main.c"])),
        {"what": "argument", "change": "removed", "name": "3", "before": "-DNAME='a b'",
         "after": ""},
    ),
    "only other bytes": (
        lambda blobs: blobs.action(
            base(blobs),
            command(environment_variables=environment(EMPTY="", PATH="/bin:/usr/bin")),
        ),
        {"what": "encoding", "change": "changed", "name": "Command",
         "before": "the same content",
         "after": "in other bytes: the order of entries, or a field that is not shown here"},
    ),
}  # fmt: skip


def base(blobs: Blobs) -> pb.Digest:
    return blobs.directory(directories={"include": blobs.directory({"n.h": b"#define N 1\n"})})


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_is_told_to_programs(nativelink: CommandLine, blobs: Blobs, change: str):
    make, expected = CHANGES[change]
    answer = nativelink(
        "action", "diff", "--json", blobs.action(base(blobs), command()), make(blobs)
    )
    assert answer.code == 1
    assert json.loads(answer.out)["differences"] == [expected]


def test_directories_that_are_equal_are_not_looked_into(nativelink: CommandLine, blobs: Blobs):
    # It is in no CAS, so whoever looks into it fails.
    same = digest_of(b"a Directory that was evicted")
    first, second = (
        blobs.action(blobs.directory({"f": data}, {"same": same}), command())
        for data in (b"1", b"2")
    )
    answer = nativelink("action", "diff", first, second)
    assert answer.code == 1
    assert answer.out.startswith("1 differing input\n  ~ f\n")


def test_a_directory_that_cannot_be_compared_is_an_error(nativelink: CommandLine, blobs: Blobs):
    lost = digest_of(b"another Directory that was evicted")
    first = blobs.action(blobs.directory(directories={"d": lost}), command())
    second = blobs.action(blobs.directory(directories={"d": blobs.directory()}), command())
    answer = nativelink("action", "diff", first, second)
    assert answer.code == 2
    assert answer.err == (
        f"nativelink: input directory {lost.hash}-{lost.size_bytes} (at 'd') is not in the CAS\n"
    )


def test_many_differences_are_cut(nativelink: CommandLine, blobs: Blobs):
    first = blobs.action(blobs.directory({f"{n:03}": b"1" for n in range(150)}), command())
    second = blobs.action(blobs.directory({f"{n:03}": b"2" for n in range(150)}), command())
    answer = nativelink("action", "diff", first, second, "--limit", "2")
    assert answer.out.startswith("150 differing inputs\n  ~ 000\n")
    assert len(answer.out.splitlines()) == 7
    assert answer.err == "… and 148 more; --limit 0 shows all\n"
