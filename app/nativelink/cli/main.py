"""The entry point: `nativelink CONFIG.json5`, and `nativelink config …` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nativelink import __version__

__all__ = ["main"]


class _Commands(TyperGroup):
    """Takes a first argument that is no command for the file of `serve`, as NativeLink does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), "config"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != "config":
            return super().get_command(ctx, cmd_name)
        # Imported when it is asked for: the server starts without it.
        from nativelink.cli.config import app as config_app

        command = typer.main.get_command(config_app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    help="A Remote Execution API v2 cache and build farm, configured by NativeLink's JSON5 files.",
    subcommand_metavar="CONFIG.json5 | COMMAND [ARGS]...",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(help="A JSON5 configuration file.", metavar="CONFIG")],
) -> None:
    """Run what a configuration describes; `nativelink CONFIG.json5` for short."""
    from nativelink.cli.serve import serve as run

    raise typer.Exit(run(config))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nativelink {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


def main() -> None:
    """The console script."""
    app()
