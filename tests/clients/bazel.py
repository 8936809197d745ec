"""Drives a Bazel program: builds, and what it says about them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["Bazel", "Build"]

_SUMMARY = re.compile(r"INFO: (\d+) process(?:es)?: (.*)\.")


@dataclass(frozen=True)
class Build:
    """One invocation.

    Attributes:
        code: exit code.
        output: stdout and stderr.
        runners: how many actions ran where, by Bazel's own count: `{"local": 145}`.
        spawns: the execution log, one entry per action; empty where it was not asked for.
    """

    code: int
    output: str
    runners: dict[str, int] = field(default_factory=dict)
    spawns: list[dict[str, object]] = field(default_factory=list)

    @property
    def executed(self) -> int:
        """Actions that ran here, in whatever way."""
        return sum(
            count
            for runner, count in self.runners.items()
            if runner not in ("internal", "remote cache hit")
        )

    @property
    def hits(self) -> int:
        """Actions whose result came out of the remote cache."""
        return self.runners.get("remote cache hit", 0)

    def outputs(self) -> dict[str, object]:
        """Path -> digest of every file that any action made, from the execution log."""
        found: dict[str, object] = {}
        for spawn in self.spawns:
            made = spawn["actualOutputs"]
            assert isinstance(made, list)
            found.update({entry["path"]: entry["digest"] for entry in made})
        return found


class Bazel:
    """One Bazel server: a program, a workspace, an output base.

    Args:
        program: the Bazel to run.
        workspace: its directory.
        user_root: where it unpacks itself; output bases go below.
        base: name of the output base. Another base knows nothing of this one's builds.
        startup, flags: further options before and after the command.
    """

    def __init__(
        self,
        program: Path,
        workspace: Path,
        user_root: Path,
        base: str,
        *,
        startup: Sequence[str] = (),
        flags: Sequence[str] = (),
    ) -> None:
        self.program = program
        self.workspace = workspace
        self.output_base = user_root / base
        self._log = user_root / f"{base}.log.json"
        self._startup = [
            "--nohome_rc",
            f"--output_user_root={user_root}",
            f"--output_base={self.output_base}",
            "--max_idle_secs=300",
            *startup,
        ]
        self._flags = [
            "--color=no",
            "--curses=no",
            "--noshow_progress",
            # Links into the workspace would be those of the output base that built last.
            "--symlink_prefix=/",
            # The test's own machine is the only platform, so results may be shared freely.
            "--spawn_strategy=local",
            "--incompatible_strict_action_env",
            "--jobs=4",
            *flags,
        ]

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Any command."""
        return subprocess.run(
            [str(self.program), *self._startup, *arguments],
            cwd=self.workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def build(
        self,
        *flags: str,
        targets: Sequence[str] = ("//:all",),
        log: bool = False,
        ok: bool = True,
        command: str = "build",
        timeout: float = 600,
    ) -> Build:
        """Build; fails the test if the build fails, unless `ok` is False.

        Args:
            flags: after the command.
            targets: what to build; everything of the top-level package, unless it is said.
            log: whether to read the execution log too.
            ok: whether a failure is one of the test.
            command: `build`, or `test`.
            timeout: seconds after which it fails.
        """
        logging = [f"--execution_log_json_file={self._log}"] if log else []
        arguments = (*self._flags, *logging, *flags, "--", *targets)
        done = self.run(command, *arguments, timeout=timeout)
        if ok and done.returncode:
            pytest.fail(f"bazel {command} {' '.join(flags)}: code {done.returncode}\n{done.stdout}")
        summary = _SUMMARY.search(done.stdout)
        runners = {}
        for part in summary[2].split(", ") if summary else ():
            count, _, runner = part.partition(" ")
            runners[runner] = int(count)
        spawns = list(_objects(self._log.read_text())) if log else []
        return Build(done.returncode, done.stdout, runners, spawns)

    @contextmanager
    def start(
        self, *flags: str, targets: Sequence[str], log: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A build that runs beside the test, its output in `log`; it is ended with the context."""
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [str(self.program), *self._startup, "build", *self._flags, *flags, "--", *targets],
                cwd=self.workspace,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.terminate()

    def clean(self) -> None:
        """Forget every output."""
        done = self.run("clean")
        assert done.returncode == 0, done.stdout

    def stop(self) -> None:
        """End its server process."""
        self.run("shutdown", timeout=240)

    def file(self, name: str) -> Path:
        """An output of the top-level package."""
        return self.output_base / "execroot/program/bazel-out/k8-fastbuild/bin" / name


def _objects(text: str) -> Iterator[dict[str, object]]:
    """JSON objects that follow each other."""
    decoder, at = json.JSONDecoder(), 0
    text = text.strip()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        yield value
        while at < len(text) and text[at].isspace():
            at += 1
