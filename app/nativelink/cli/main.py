"""The entry point: `nativelink CONFIG.json5`, and the commands beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from nativelink import __version__
from nativelink.cli.garbage import look_in_large_lots

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
            if _is_word(args[0]):
                ctx.fail(self._unknown(ctx, args))
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def _unknown(self, ctx: Any, args: list[str]) -> str:
        """There is no such command, but perhaps one that was meant."""
        from difflib import get_close_matches

        groups = [name for name in self.list_commands(ctx) if name in _GROUPS]
        # `worker list` is `workers list`, and `drain` is `workers drain`.
        meant = get_close_matches(args[0], self.list_commands(ctx), n=1) or [
            f"{name} {args[0]}"
            for name in groups
            if args[0] in self.get_command(ctx, name).list_commands(ctx)
        ]
        hint = f"did you mean {' or '.join(map(repr, meant))}?" if meant else "see --help"
        return f"there is no command {args[0]!r}, and no such file; {hint}"

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        panel = _GROUPS.get(cmd_name)
        if panel is None:
            return super().get_command(ctx, cmd_name)
        group: typer.Typer = import_module(f"nativelink.cli.{cmd_name}").app
        command = typer.main.get_command(group)
        command.name = cmd_name
        command.rich_help_panel = panel  # type: ignore[attr-defined]  # Typer's, not click's
        return command


def _is_word(argument: str) -> bool:
    """Whether an argument is a command's name rather than a file's."""
    return argument.isidentifier() and not Path(argument).is_file()


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
    look_in_large_lots()
    if isinstance(sys.stdout, TextIOWrapper):
        # A name that the encoding of a terminal or a file lacks is an escape there, and no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
