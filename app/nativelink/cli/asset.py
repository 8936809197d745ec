"""`nativelink asset fetch|push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nativelink.cli.output import clock_time, size
from nativelink.cli.remote import Session, asks_server
from nativelink.client.digests import digest_text
from nativelink.core.printable import printable

__all__ = ["app"]

app = typer.Typer(
    help="Find contents by where they come from, and say where they come from.",
    no_args_is_help=True,
    add_completion=False,
)

_Uris = Annotated[list[str], typer.Argument(help="Where they come from.", metavar="URI")]
_Qualifiers = Annotated[
    list[str] | None,
    typer.Option("--qualifier", "-q", help="checksum.sri=sha256-…, for one.", metavar="NAME=VALUE"),
]


@asks_server(app, "fetch")
async def fetch(
    session: Session,
    uris: _Uris,
    qualifier: _Qualifiers = None,
    directory: Annotated[
        bool, typer.Option("--directory", "-d", help="They lead to a directory.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Save what they lead to.", metavar="PATH"),
    ] = None,
    timeout: Annotated[
        int, typer.Option(help="Seconds to wait for a download.", metavar="SECONDS", min=1)
    ] = 600,
) -> None:
    """Print the digest that any one of some URIs leads to; the server may download it."""
    from nativelink.client.assets import fetch_asset
    from nativelink.client.download import download_file, download_tree
    from nativelink.client.trees import Kind

    kind = Kind.DIRECTORY if directory else Kind.FILE
    asset = await fetch_asset(session.remote, kind, uris, _pairs(qualifier), timeout)
    if output is not None and directory:
        await download_tree(session.remote, asset.digest, output)
    elif output is not None:
        await download_file(session.remote, asset.digest, output, is_executable=False)
    if session.screen.json:
        answer: dict[str, object] = {
            "uri": asset.uri,
            "kind": kind,
            "digest": digest_text(asset.digest),
            "qualifiers": [{"name": name, "value": value} for name, value in asset.qualifiers],
        }
        if asset.expires_at is not None:
            answer["expires_at"] = clock_time(asset.expires_at)
        if output is not None:
            answer["path"] = str(output)
        session.screen.show_json(answer)
        return
    session.screen.line(f"{digest_text(asset.digest)}  {printable(asset.uri)}")
    if session.screen.console.is_terminal:
        facts = [] if directory else [size(asset.digest.size_bytes)]
        if asset.expires_at is not None:
            facts.append(f"known until {clock_time(asset.expires_at)}")
        if output is not None:
            facts.append(f"saved as {printable(str(output))}")
        if facts:
            session.screen.line(f"  {', '.join(facts)}", style="dim")


@asks_server(app, "push")
async def push(
    session: Session,
    path: Annotated[Path, typer.Argument(help="A file or directory.", metavar="PATH")],
    uris: _Uris,
    qualifier: _Qualifiers = None,
    expire_in: Annotated[
        int | None,
        typer.Option(
            help="Seconds until it is forgotten. Default: never.", min=1, metavar="SECONDS"
        ),
    ] = None,
) -> None:
    """Store a file or directory, and say that URIs lead to it."""
    from nativelink.client.assets import push_asset
    from nativelink.client.upload import upload
    from nativelink.core.clock import SystemClock

    uploaded = await upload(session.remote, path)
    expire_at = None if expire_in is None else int(SystemClock.time()) + expire_in
    qualifiers = _pairs(qualifier)
    await push_asset(session.remote, uploaded.kind, uploaded.digest, uris, qualifiers, expire_at)
    if session.screen.json:
        session.screen.show_json(
            {
                "path": str(path),
                "kind": uploaded.kind,
                "digest": digest_text(uploaded.digest),
                "uris": uris,
                "qualifiers": [{"name": name, "value": value} for name, value in qualifiers],
            }
        )
        return
    for uri in uris:
        session.screen.line(f"{digest_text(uploaded.digest)}  {printable(uri)}")


def _pairs(qualifiers: list[str] | None) -> list[tuple[str, str]]:
    from nativelink.core.errors import invalid_argument

    pairs: list[tuple[str, str]] = []
    for each in qualifiers or ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise invalid_argument(f"--qualifier {each!r}: NAME=VALUE is expected")
        pairs.append((name, value))
    return pairs
