"""`nativelink cas cat|ls|get|put`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nativelink.cli.output import count, size
from nativelink.cli.remote import Session, asks_server
from nativelink.client.digests import digest_text, parse_digest
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from nativelink.client.trees import Entry, Totals

__all__ = ["app"]

app = typer.Typer(
    help="Read and write blobs of the content-addressable storage.",
    no_args_is_help=True,
    add_completion=False,
)

_Digest = Annotated[
    str,
    typer.Argument(help="HASH-SIZE, HASH/SIZE or …/blobs/HASH/SIZE.", metavar="DIGEST"),
]


@asks_server(app, "cat")
async def cat(session: Session, digest: _Digest) -> None:
    """Write a blob to standard output."""
    from nativelink.client.download import DescriptorSink, download_blob

    sink = DescriptorSink(sys.stdout.fileno(), "standard output")
    await download_blob(session.remote, parse_digest(digest), sink)


@asks_server(app, "ls")
async def ls(
    session: Session,
    digest: _Digest,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="What is in the directories, too.")
    ] = False,
) -> None:
    """List a Directory, or a Tree (an output directory's)."""
    from nativelink.client.trees import fetch_tree

    tree = await fetch_tree(session.remote.cas, parse_digest(digest), session.remote.function)
    entries = list(tree.walk() if recursive else tree.children("", tree.root))
    if session.screen.json:
        session.screen.show_json(
            {
                "root": digest_text(tree.root),
                **totals_json(tree.totals),
                "entries": [
                    entry_json(entry, missing=tree.is_missing(entry.digest)) for entry in entries
                ],
            }
        )
        return
    widths = [
        max((len(cell(entry)) for entry in entries), default=0) for cell in (_size_of, _digest_of)
    ]
    for entry in entries:
        session.screen.line(_ls_line(entry, *widths, missing=tree.is_missing(entry.digest)))
    if session.screen.console.is_terminal:
        session.screen.line(totals_text(tree.totals), style="dim")


@asks_server(app, "get")
async def get(
    session: Session,
    digest: _Digest,
    path: Annotated[Path, typer.Argument(help="The file or directory to make.", metavar="PATH")],
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", help="DIGEST is a Directory or Tree: get all of it."),
    ] = False,
    executable: Annotated[
        bool, typer.Option("--executable", "-x", help="Make the file executable.")
    ] = False,
) -> None:
    """Save a blob as a file, or a whole tree as a directory that is not there yet, or empty."""
    from nativelink.client.download import download_file, download_tree

    wanted = parse_digest(digest)
    if recursive:
        totals = await download_tree(session.remote, wanted, path)
        if session.screen.json:
            session.screen.show_json({"path": str(path), **totals_json(totals)})
        else:
            session.screen.line(f"{path}: {totals_text(totals)}")
        return
    await download_file(session.remote, wanted, path, is_executable=executable)
    if session.screen.json:
        session.screen.show_json({"path": str(path), "size_bytes": wanted.size_bytes})
    else:
        session.screen.line(f"{path}: {size(wanted.size_bytes)}")


@asks_server(app, "put")
async def put(
    session: Session,
    paths: Annotated[list[Path], typer.Argument(help="Files and directories.", metavar="PATH")],
) -> None:
    """Store files and directories, and print their digests; what is there already is not sent."""
    from nativelink.client.upload import upload

    answer: list[dict[str, object]] = []
    for path in paths:
        uploaded = await upload(session.remote, path)
        if session.screen.json:
            answer.append(
                {
                    "path": str(path),
                    "kind": uploaded.kind,
                    "digest": digest_text(uploaded.digest),
                    "blobs": uploaded.blobs,
                    "size_bytes": uploaded.size_bytes,
                    "sent_blobs": uploaded.sent_blobs,
                    "sent_bytes": uploaded.sent_bytes,
                }
            )
            continue
        session.screen.line(f"{digest_text(uploaded.digest)}  {printable(str(path))}")
        if session.screen.console.is_terminal:
            sent = "nothing to send, all of it was there"
            if uploaded.sent_blobs:
                sent = f"sent {count(uploaded.sent_blobs, 'blob')} ({size(uploaded.sent_bytes)})"
                if uploaded.sent_blobs < uploaded.blobs:
                    sent += f", {uploaded.blobs - uploaded.sent_blobs:,} were there"
            session.screen.line(f"  {sent}", style="dim")
    if session.screen.json:
        session.screen.show_json(answer)


def entry_json(entry: Entry, *, missing: bool) -> dict[str, object]:
    """An entry of a directory for programs."""
    answer: dict[str, object] = {"path": entry.path, "kind": entry.kind}
    if entry.digest is not None:
        answer["digest"] = digest_text(entry.digest)
    if entry.target:
        answer["target"] = entry.target
    if entry.is_executable:
        answer["is_executable"] = True
    if entry.mode is not None:
        answer["unix_mode"] = entry.mode
    if missing:
        answer["missing"] = True
    return answer


def totals_json(totals: Totals) -> dict[str, object]:
    """What is in a tree, for programs."""
    return {
        "files": totals.files,
        "directories": totals.directories,
        "symlinks": totals.symlinks,
        "size_bytes": totals.size_bytes,
        "missing_directories": totals.missing,
    }


def totals_text(totals: Totals) -> str:
    """What is in a tree, for people."""
    words = [count(totals.files, "file")]
    if totals.directories:
        words.append(count(totals.directories, "directory"))
    if totals.symlinks:
        words.append(count(totals.symlinks, "symlink"))
    words.append(size(totals.size_bytes))
    if totals.missing:
        verb = "is" if totals.missing == 1 else "are"
        words.append(f"{count(totals.missing, 'directory')} {verb} not in the CAS")
    return ", ".join(words)


def name_text(entry: Entry, name: str) -> Text:
    """A name as `ls -F` shows it: `directory/`, `program*`, `link -> target`."""
    from rich.text import Text

    from nativelink.client.trees import Kind

    shown = printable(name)
    if entry.kind is Kind.DIRECTORY:
        return Text(f"{shown}/", style="bold blue")
    if entry.kind is Kind.SYMLINK:
        return Text(shown, style="cyan").append(
            f" -> {printable(entry.target)}", style="not bold default"
        )
    return Text(f"{shown}*", style="bold green") if entry.is_executable else Text(shown)


def _ls_line(entry: Entry, size_width: int, digest_width: int, *, missing: bool) -> Text:
    from rich.text import Text

    from nativelink.client.trees import Kind

    letter = {Kind.FILE: "-", Kind.DIRECTORY: "d", Kind.SYMLINK: "l"}[entry.kind]
    executable = "x" if entry.is_executable else "-"
    line = Text(f"{letter}{executable}  {_size_of(entry):>{size_width}}  ")
    line.append(f"{_digest_of(entry):{digest_width}}", style="dim")
    line.append("  ").append_text(name_text(entry, entry.path))
    if missing:
        line.append("  not in the CAS", style="red")
    return line


def _digest_of(entry: Entry) -> str:
    return "" if entry.digest is None else digest_text(entry.digest)


def _size_of(entry: Entry) -> str:
    from nativelink.client.trees import Kind

    if entry.digest is None or entry.kind is not Kind.FILE:
        return "-"
    return f"{entry.digest.size_bytes:,}"
