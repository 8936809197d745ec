"""The entry point: `nativelink CONFIG.json5`, and the commands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from nativelink import __version__

__all__ = ["main"]


_RUN: Final = "Run"
_LOOK_INSIDE: Final = "Look inside a running system"

#: Groups of commands by name, with the panel of the help where they stand. Each is the `app` of the
#: module of its name, imported when it is asked for: the server starts without them.
_GROUPS: Final[Mapping[str, str]] = {
    "config": _RUN,
    "builds": _LOOK_INSIDE,
    "ops": _LOOK_INSIDE,
    "workers": _LOOK_INSIDE,
    "action": _LOOK_INSIDE,
    "ac": _LOOK_INSIDE,
    "cas": _LOOK_INSIDE,
    "asset": _LOOK_INSIDE,
}


class _Commands(TyperGroup):
    """Takes a first argument that is no command for the file of `serve`, as NativeLink does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        panel = _GROUPS.get(cmd_name)
        if panel is None:
            return super().get_command(ctx, cmd_name)
        group: typer.Typer = import_module(f"nativelink.cli.{cmd_name}").app
        command = typer.main.get_command(group)
        command.name = cmd_name
        command.rich_help_panel = panel  # type: ignore[attr-defined]
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


@app.command(rich_help_panel=_RUN)
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
