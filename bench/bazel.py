"""A Bazel workspace of many small actions, and how long Bazel takes to build it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.answers import WrongAnswerError

__all__ = ["Bazel", "workspace"]

ACTIONS = 200
OUTPUT_BYTES = 50_000

_BUILD = f"""
[genrule(
    name = "rule_%d" % number,
    outs = ["out_%d" % number],
    cmd = "printf %%0{OUTPUT_BYTES}d %d > $@" % number,
) for number in range({ACTIONS})]
"""


class Bazel:
    """Debian's Bazel with one output base; its server stays up from build to build.

    Args:
        folder: of the workspace, and of all that Bazel writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._builds = 0

    def build(self, *flags: str) -> float:
        """Build everything anew; seconds from the command to its end.

        Raises:
            WrongAnswerError: the build failed, or not every action was executed.
        """
        self._run("clean")
        self._builds += 1
        # No result of an earlier round has this variable's value, so none answers this one.
        salt = f"--action_env=SALT={self._builds}-{time.monotonic_ns()}"
        started = time.perf_counter()
        output = self._run(
            "build",
            "--color=no",
            "--curses=no",
            "--noshow_progress",
            "--symlink_prefix=/",
            "--incompatible_strict_action_env",
            salt,
            *flags,
            "//...",
        )
        took = time.perf_counter() - started
        remote = any(flag.startswith("--remote_executor") for flag in flags)
        if not re.search(rf"\b{ACTIONS} {'remote' if remote else 'local'}\b", output):
            raise WrongAnswerError(f"Bazel did not execute {ACTIONS} actions:\n{output}")
        made = self._folder / "base/execroot/bench/bazel-out/k8-fastbuild/bin"
        sizes = [path.stat().st_size for path in made.glob("out_*")]
        if sizes != [OUTPUT_BYTES] * ACTIONS:
            raise WrongAnswerError(f"Bazel has {len(sizes)} outputs, or some of the wrong size")
        return took

    def _run(self, *arguments: str) -> str:
        command = ["bazel", "--nohome_rc", "--max_idle_secs=300"]
        command += [f"--output_user_root={self._folder}", f"--output_base={self._folder}/base"]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self._folder / "workspace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise WrongAnswerError(f"bazel {' '.join(arguments)}:\n{done.stdout}")
        return done.stdout

    def stop(self) -> None:
        """End its server."""
        self._run("shutdown")


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Bazel]:
    """A workspace in a new folder, which is removed in the end."""
    (folder / "workspace").mkdir(parents=True)
    (folder / "workspace/WORKSPACE").write_text('workspace(name = "bench")\n')
    (folder / "workspace/BUILD").write_text(_BUILD)
    bazel = Bazel(folder)
    try:
        yield bazel
    finally:
        with contextlib.suppress(WrongAnswerError):
            bazel.stop()
        remove: Sequence[str] = ("chmod", "-R", "u+w", str(folder))
        subprocess.run(remove, check=False)
        shutil.rmtree(folder, ignore_errors=True)
