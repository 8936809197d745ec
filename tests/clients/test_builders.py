"""BuildStream, through buildbox-casd, and BuildGrid's own client, executing on our workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.farm import FarmProcesses, open_processes
from tests.clients.programs import CLIENT_TESTS, program

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


class BuildStream:
    """A project, and a cache of its own that knows nothing of others.

    Args:
        project: its directory.
        folder: takes cache, logs and configuration.
        farm: where it executes.
    """

    def __init__(self, project: Path, folder: Path, farm: FarmProcesses) -> None:
        self._program = program("builders/bin/bst", tool="builders")
        self._project = project
        self._file = folder / "buildstream.conf"
        folder.mkdir()
        service = f'{{url: "http://127.0.0.1:{farm.ports.public}", instance-name: main}}'
        self._file.write_text(
            "".join(f"{name}: {folder}/{name}\n" for name in ("cachedir", "sourcedir", "logdir"))
            + "remote-execution:\n"
            + f"  execution-service: {service}\n"
            + f"  storage-service: {service}\n"
            + f"  action-cache-service: {service}\n"
        )
        self._environment = {**os.environ, "HOME": str(folder)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Any command."""
        return subprocess.run(
            [self._program, "--no-interactive", "--config", self._file, *arguments],
            cwd=self._project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )

    def checkout(self, element: str, into: Path) -> Path:
        """Build an element; its result."""
        for command in (
            ["build", element],
            ["artifact", "checkout", "--directory", str(into), element],
        ):
            done = self.run(*command)
            assert done.returncode == 0, done.stdout
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
    here = BuildStream(project, tmp_path / "here", farm).checkout("made.bst", tmp_path / "one")
    there = BuildStream(project, tmp_path / "there", farm).checkout("made.bst", tmp_path / "two")

    assert (here / "bin" / "copy").read_bytes() == Path("/bin/cat").read_bytes()
    # The number of a process: another run would have another one.
    assert (here / "made").read_text().startswith("made by ")
    assert (there / "made").read_text() == (here / "made").read_text()


def test_buildstream_shows_why_a_command_failed(
    farm: FarmProcesses, project: Path, tmp_path: Path
) -> None:
    done = BuildStream(project, tmp_path / "here", farm).run("build", "broken.bst")

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

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [bgd, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    script = "cat sub/file > sub/made; echo and more >> sub/made"
    options = ["--output-file", "sub/made", "--output-directory", "out"]
    run("execute", *remote, "command", *options, "in", "--", "sh", "-c", script)
    listed = run("operation", *remote, "list")

    assert (tmp_path / "out" / "sub" / "made").read_text() == "dataand more\n"
    assert "main/" in listed
    assert "exit_code=0" in listed
