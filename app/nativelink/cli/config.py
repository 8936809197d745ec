"""`nativelink config check|explain|schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from nativelink.cli.output import console_of, count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from nativelink.config.explain import Node
    from nativelink.config.load import Finding, Report

__all__ = ["app"]

app = typer.Typer(
    help="Look at a configuration without starting it.", no_args_is_help=True, add_completion=False
)

_File = Annotated[Path, typer.Argument(help="A JSON5 configuration file.", metavar="FILE")]

_LONGEST_LINE: Final = 10_000
#: Colours of the tree, by `explain.Role`.
_STYLES = {"heading": "bold", "name": "bold cyan", "kind": "green", "reference": "magenta"}


#: Exit codes of `check`, beside 0 and that of a file that cannot be read.
_NOT_VALID, _NOT_HERE = 1, 3


@app.command()
def check(file: _File) -> None:
    """Report everything that is wrong with FILE.

    The exit code is 1 if it is not valid, and 2 if it cannot be read. It is 3
    if the file is valid but cannot be started as things are: this machine
    lacks files that it names, or this version lacks what it asks for.
    """
    from nativelink.compose.available import unavailable

    report = _examine(file)
    console = console_of(sys.stdout)
    for finding in report.findings:
        _print_finding(console, finding)
    errors, here, warnings = map(len, (report.errors, report.here, report.warnings))
    notes = [] if errors or report.config is None else list(unavailable(report.config))
    for note in notes:
        console.print(
            f"note: {note}", style="yellow", soft_wrap=True, highlight=False, markup=False
        )
    if report.findings or notes:
        console.print()
    if errors:
        verdict, style = "not valid", "bold red"
    elif notes:
        verdict, style = "valid, but this version cannot start it", "bold yellow"
    elif here:
        verdict, style = "valid, but this machine is not ready for it", "bold yellow"
    else:
        verdict, style = "valid", "bold green"
    console.print(
        f"{file}: {verdict}, {count(errors, 'error')}, {count(warnings, 'warning')}",
        style=style,
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    raise typer.Exit(_NOT_VALID if errors else _NOT_HERE if notes or here else 0)


@app.command()
def explain(file: _File) -> None:
    """Draw what FILE describes: listeners, services, and who uses which store."""
    from nativelink.config.explain import explain as roots_of

    report = _examine(file)
    if report.config is None:
        console = console_of(sys.stderr)
        for finding in report.errors:
            _print_finding(console, finding)
        raise typer.Exit(1)
    console = console_of(sys.stdout)
    if not console.is_terminal:
        # A line for each node, for those who search.
        console.width = _LONGEST_LINE
    from rich.tree import Tree

    tree = Tree(str(file), guide_style="dim", highlight=False)
    for root in roots_of(report.config):
        _add(tree, root)
    console.print(tree)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a configuration file, for editors."""
    import json

    from nativelink.config.schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _examine(file: Path) -> Report:
    from nativelink.config.load import examine_file
    from nativelink.core.errors import NativeLinkError

    try:
        return examine_file(file)
    except NativeLinkError as failure:
        print(failure, file=sys.stderr)
        raise typer.Exit(2) from failure


def _print_finding(console: Console, finding: Finding) -> None:
    """The finding as `str()` gives it, with the severity and the caret in colour."""
    from rich.text import Text

    style = "bold red" if finding.severity == "error" else "bold yellow"
    headline, *excerpt = str(finding).split("\n")
    if console.is_terminal:
        excerpt = _around_caret(excerpt, console.width)
    text = Text(headline)
    text.highlight_words([f" {finding.severity}: "], style=style)
    if finding.where:
        text.highlight_words([f"{finding.where}:"], style="bold")
    for line in excerpt[:-1]:
        text.append(f"\n{line}", style="dim")
    if excerpt:
        text.append(f"\n{excerpt[-1]}", style=style)
    console.print(text, soft_wrap=not console.is_terminal)


def _around_caret(excerpt: list[str], width: int) -> list[str]:
    """A line and the line with its caret, cut so that neither wraps: the caret stays below."""
    if not excerpt or len(excerpt[0]) < width:
        return excerpt
    source, caret = excerpt
    begin = max(0, min(len(caret) - width // 2, len(source) - width + 1))
    end = begin + width - 1
    shown = f"{'…' if begin else ''}{source[begin + (begin > 0) : end - 1]}"
    shown += source[end - 1 : end] if end >= len(source) else "…"
    return [shown, caret[begin:]]


def _add(tree: Tree, node: Node) -> None:
    branch = tree.add(_line(node))
    for child in node.children:
        _add(branch, child)


def _line(node: Node) -> Text:
    from rich.text import Text

    text = Text(node.label, style=_STYLES[node.role])
    if node.details:
        text.append(f"  {', '.join(node.details)}", style="not bold default")
    return text
