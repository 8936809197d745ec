"""`nativelink ac get`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nativelink.cli.output import clock_time, size, span
from nativelink.cli.remote import Session, asks_server
from nativelink.client.digests import digest_text, parse_digest
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
    from nativelink.proto.google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["app", "result_json", "result_lines"]

app = typer.Typer(help="Read the action cache.", no_args_is_help=True, add_completion=False)

#: Steps of an action: the field of ExecutedActionMetadata with the begin, that with the end.
_STEPS = {
    "queue": ("queued_timestamp", "worker_start_timestamp"),
    "fetch inputs": ("input_fetch_start_timestamp", "input_fetch_completed_timestamp"),
    "execute": ("execution_start_timestamp", "execution_completed_timestamp"),
    "upload outputs": ("output_upload_start_timestamp", "output_upload_completed_timestamp"),
}


@app.callback()
def _group() -> None:
    """Read the action cache."""


@asks_server(app, "get")
async def get(
    session: Session,
    digest: Annotated[
        str,
        typer.Argument(
            help="The action: HASH-SIZE, HASH/SIZE or …/blobs/HASH/SIZE.", metavar="DIGEST"
        ),
    ],
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Write only what the action wrote to its stdout.")
    ] = False,
    stderr: Annotated[
        bool, typer.Option("--stderr", help="Write only what the action wrote to its stderr.")
    ] = False,
) -> None:
    """Show the cached result of an action."""
    from nativelink.client.download import DescriptorSink
    from nativelink.client.results import get_result, write_log

    action = parse_digest(digest)
    result = await get_result(session.remote, action)
    if stdout or stderr:
        sink = DescriptorSink(sys.stdout.fileno(), "standard output")
        if stdout:
            await write_log(session.remote, result.stdout_raw, result.stdout_digest, sink)
        if stderr:
            await write_log(session.remote, result.stderr_raw, result.stderr_digest, sink)
        return
    if session.screen.json:
        session.screen.show_json({"action": digest_text(action), **result_json(result)})
        return
    for line in result_lines(result):
        session.screen.line(line)


def result_json(result: pb.ActionResult) -> dict[str, object]:
    """An ActionResult for programs."""
    metadata = result.execution_metadata
    times = {
        name: clock_time(_seconds(getattr(metadata, name)))
        for pair in _STEPS.values()
        for name in pair
        if metadata.HasField(name)
    }
    links = (*result.output_symlinks, *result.output_file_symlinks)
    return {
        "exit_code": result.exit_code,
        "output_files": [
            {
                "path": each.path,
                "digest": _digest(each.digest),
                "is_executable": each.is_executable,
            }
            for each in result.output_files
        ],
        "output_directories": [
            {
                "path": each.path,
                "tree_digest": _digest(each.tree_digest),
                "root_directory_digest": _digest(each.root_directory_digest),
            }
            for each in result.output_directories
        ],
        "output_symlinks": [
            {"path": each.path, "target": each.target}
            for each in (*links, *result.output_directory_symlinks)
        ],
        "stdout_digest": _digest(result.stdout_digest),
        "stdout_bytes": _log_size(result.stdout_raw, result.stdout_digest),
        "stderr_digest": _digest(result.stderr_digest),
        "stderr_bytes": _log_size(result.stderr_raw, result.stderr_digest),
        "worker": metadata.worker,
        "times": times,
    }


def result_lines(result: pb.ActionResult) -> list[Text]:
    """An ActionResult for people."""
    from rich.text import Text

    style = "bold green" if result.exit_code == 0 else "bold red"
    lines = [Text.assemble(("exit code  ", "bold"), (str(result.exit_code), style))]
    outputs = [
        Text(f"  {printable(each.path)}{'*' if each.is_executable else ''}").append(
            f"  {size(each.digest.size_bytes)}  {_digest(each.digest)}", style="dim"
        )
        for each in result.output_files
    ]
    outputs += [
        Text(f"  {printable(each.path)}/").append(
            f"  tree {_digest(each.tree_digest) or _digest(each.root_directory_digest)}",
            style="dim",
        )
        for each in result.output_directories
    ]
    outputs += [
        Text(f"  {printable(each.path)} -> {printable(each.target)}")
        for links in (
            result.output_symlinks,
            result.output_file_symlinks,
            result.output_directory_symlinks,
        )
        for each in links
    ]
    lines.append(Text("outputs", style="bold").append("" if outputs else "    none", "not bold"))
    lines += outputs
    logs = {
        "stdout": _log_size(result.stdout_raw, result.stdout_digest),
        "stderr": _log_size(result.stderr_raw, result.stderr_digest),
    }
    for name, log_bytes in logs.items():
        told = f"{size(log_bytes)}, shown by --{name}" if log_bytes else "empty"
        lines.append(Text.assemble((f"{name}     ", "bold"), told))
    metadata = result.execution_metadata
    if metadata.worker:
        lines.append(Text.assemble(("worker     ", "bold"), printable(metadata.worker)))
    if metadata.HasField("queued_timestamp"):
        moment = clock_time(_seconds(metadata.queued_timestamp))
        lines.append(Text.assemble(("queued     ", "bold"), moment))
    steps = [
        f"{step} {span(_seconds(getattr(metadata, end)) - _seconds(getattr(metadata, begin)))}"
        for step, (begin, end) in _STEPS.items()
        if metadata.HasField(begin) and metadata.HasField(end)
    ]
    if steps:
        lines.append(Text.assemble(("took       ", "bold"), ", ".join(steps)))
    return lines


def _digest(digest: pb.Digest) -> str | None:
    return f"{digest.hash}/{digest.size_bytes}" if digest.hash else None


def _log_size(inlined: bytes, digest: pb.Digest) -> int:
    return len(inlined) or digest.size_bytes


def _seconds(timestamp: Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9
