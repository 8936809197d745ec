"""BuildStream, through buildbox-casd, and BuildGrid's own client, executing on our workers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.buildstream import BuildStream
from tests.clients.farm import FarmProcesses, open_processes
from tests.clients.programs import CLIENT_TESTS, program, run

pytestmark = CLIENT_TESTS

#: What elements of the project run.
PROGRAMS = ("sh", "cat", "mkdir")
#: BuildStream's input roots are whole file systems, which its commands see as such.
ENTRYPOINT = """\
#!/bin/sh
root=$ACTION_DIRECTORY/work
here=${PWD#"$root"}
as_root=
[ "$(/usr/bin/id -u)" = 0 ] || as_root='/usr/bin/unshare --map-root-user'
exec $as_root /usr/sbin/chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "${here:-/}" "$@"
"""
MADE = """\
kind: manual
build-depends:
- base.bst
environment:
  PATH: /bin
config:
  install-commands:
  - mkdir -p %{install-root}/bin
  - cat /bin/cat > %{install-root}/bin/copy
  - echo made by $$ > %{install-root}/made
"""
BROKEN = """\
kind: manual
build-depends:
- base.bst
environment:
  PATH: /bin
config:
  build-commands:
  - echo it was $((40 + 2)) >&2
  - exit 7
"""


def buildstream(project: Path, folder: Path, farm: FarmProcesses) -> BuildStream:
    """One that executes on a farm."""
    service = f'{{url: "http://127.0.0.1:{farm.ports.public}", instance-name: main}}'
    return BuildStream(
        project,
        folder,
        f"remote-execution:\n"
        f"  execution-service: {service}\n"
        f"  storage-service: {service}\n"
        f"  action-cache-service: {service}\n",
    )


def checkout(stream: BuildStream, element: str, into: Path) -> Path:
    """Build an element; its result."""
    stream.tell("build", element)
    stream.tell("artifact", "checkout", "--directory", str(into), element)
    return into


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcesses]:
    folder = tmp_path_factory.mktemp("builders")
    entrypoint = folder / "entrypoint"
    entrypoint.write_text(ENTRYPOINT)
    entrypoint.chmod(0o755)
    worker = {
        "entrypoint": str(entrypoint),
        "additional_environment": {"ACTION_DIRECTORY": "action_directory"},
    }
    with open_processes(folder / "farm", worker=worker) as running:
        yield running


@pytest.fixture(scope="module")
def plain_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcesses]:
    with open_processes(tmp_path_factory.mktemp("plain"), worker={}) as running:
        yield running


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buildstream")
    (folder / "project.conf").write_text('name: p\nmin-version: "2.0"\nelement-path: elements\n')
    (folder / "elements").mkdir()
    base = "kind: import\nsources:\n- kind: local\n  path: base\n"
    for name, text in (("base", base), ("made", MADE), ("broken", BROKEN)):
        (folder / "elements" / f"{name}.bst").write_text(text)
    for name in PROGRAMS:
        file = Path(f"/bin/{name}")
        said = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
        for each in (str(file), *re.findall(r"/\S+", said)):
            copy = folder / "base" / each[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(each, copy)
    return folder


def test_buildstream_builds_on_workers_and_elsewhere_from_the_cache(
    farm: FarmProcesses, project: Path, tmp_path: Path
) -> None:
    one, two = (buildstream(project, tmp_path / name, farm) for name in ("one", "two"))
    here = checkout(one, "made.bst", tmp_path / "here")
    there = checkout(two, "made.bst", tmp_path / "there")

    assert (here / "bin" / "copy").read_bytes() == Path("/bin/cat").read_bytes()
    # The number of a process: another run would have another one.
    assert (here / "made").read_text().startswith("made by ")
    assert (there / "made").read_text() == (here / "made").read_text()


def test_buildstream_shows_why_a_command_failed(
    farm: FarmProcesses, project: Path, tmp_path: Path
) -> None:
    done = buildstream(project, tmp_path / "here", farm).run("build", "broken.bst")

    assert done.returncode != 0
    # What it printed, not the command itself, which is in the log too.
    assert "it was 42" in done.stdout
    assert "failed with exitcode 7" in done.stdout


def test_the_client_of_buildgrid_executes_and_lists(
    plain_farm: FarmProcesses, tmp_path: Path
) -> None:
    bgd = program("builders/bin/bgd", tool="builders")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "file").write_text("data")
    remote = [f"--remote=http://127.0.0.1:{plain_farm.ports.public}", "--instance-name=main"]

    script = "cat sub/file > sub/made; echo and more >> sub/made"
    options = ["--output-file", "sub/made", "--output-directory", "out"]
    asked = ["execute", *remote, "command", *options, "in", "--", "sh", "-c", script]
    run([bgd, *asked], directory=tmp_path)
    listed = run([bgd, "operation", *remote, "list"], directory=tmp_path)

    assert (tmp_path / "out" / "sub" / "made").read_text() == "dataand more\n"
    assert "main/" in listed
    assert "exit_code=0" in listed
