"""A package of a workspace with what only execution is asked for: tests, failures, waiting."""

from __future__ import annotations

from pathlib import Path

from tests.execution.gate import Gate

__all__ = ["GATED", "TESTS", "add_checks", "coverage_flag"]

#: Passing tests in the package.
TESTS = 12
#: Actions that wait at the gate.
GATED = 3

_DEFS = """\
def _check_impl(ctx):
    script = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(script, "#!/bin/sh\\n" + ctx.attr.script, is_executable = True)
    return [DefaultInfo(
        executable = script,
        runfiles = ctx.runfiles(files = ctx.files.data),
    )]

check_test = rule(
    implementation = _check_impl,
    attrs = {"script": attr.string(), "data": attr.label_list(allow_files = True)},
    test = True,
)

def _shell_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        mnemonic = "Shell",
        outputs = [out],
        command = ctx.attr.script.replace("OUT", out.path),
    )
    return [DefaultInfo(files = depset([out]))]

shell = rule(implementation = _shell_impl, attrs = {"script": attr.string()})
"""


def coverage_flag(workspace: Path) -> str:
    """Lets Bazel run tests of such a workspace without downloads."""
    return f"--override_repository=remote_coverage_tools={workspace.parent / 'coverage'}"


def add_checks(workspace: Path, gate: Gate) -> None:
    """Write the package `checks` into a workspace that `make_workspace` made."""
    # What Bazel wants for every test, and would download: the collector of coverage.
    coverage = workspace.parent / "coverage"
    coverage.mkdir()
    (coverage / "WORKSPACE").touch()
    (coverage / "BUILD").write_text(
        'filegroup(name = "coverage_report_generator", visibility = ["//visibility:public"])\n'
    )
    top = workspace / "BUILD"
    # A `package` must stand before all targets, behind the load.
    head, end, targets = top.read_text().partition(")\n")
    visible = 'package(default_visibility = ["//visibility:public"])\n'
    top.write_text(head + end + visible + targets)
    package = workspace / "checks"
    package.mkdir()
    (package / "defs.bzl").write_text(_DEFS)
    build = 'load(":defs.bzl", "check_test", "shell")\n'
    for number in range(TESTS):
        script = f'test "$(./lua -e \\"print({number} * 7)\\")" = {number * 7} && echo passed'
        build += f'check_test(name = "test{number}", data = ["//:lua"], script = \'{script}\')\n'
    manual = 'tags = ["manual"]'
    build += (
        f'check_test(name = "hangs", script = "echo before the hang; sleep 600", {manual})\n'
        f'check_test(name = "fails", script = "echo the reason; exit 4", {manual})\n'
        f'shell(name = "broken", script = "echo what went wrong >&2; exit 7", {manual})\n'
    )
    for number in range(GATED):
        script = f"{gate.script}; echo through {number} > OUT"
        build += f'shell(name = "gated{number}", script = "{script}", {manual})\n'
    (package / "BUILD").write_text(build)
