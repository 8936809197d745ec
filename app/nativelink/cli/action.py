"""`nativelink action show|diff`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from nativelink.cli.cas import entry_json, name_text, totals_json, totals_text
from nativelink.cli.output import count, size
from nativelink.cli.remote import Session, asks_server
from nativelink.client.digests import digest_text, parse_digest
from nativelink.core.printable import printable

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree as RichTree

    from nativelink.client.actions import Description
    from nativelink.client.differences import Comparison, Difference
    from nativelink.client.trees import Entry, Tree

__all__ = ["app"]

app = typer.Typer(
    help="Look at what is to be executed.", no_args_is_help=True, add_completion=False
)

_FORMS = "HASH-SIZE, HASH/SIZE or …/blobs/HASH/SIZE."
_EQUAL, _DIFFERENT = 0, 1
#: What a person scrolls through.
_INPUTS = 200


@asks_server(app, "show")
async def show(
    session: Session,
    digest: Annotated[str, typer.Argument(help=_FORMS, metavar="DIGEST")],
    limit: Annotated[
        int | None,
        typer.Option(
            help="Show so many inputs at most; 0: all. By default 200, in JSON all.",
            min=0,
            metavar="N",
        ),
    ] = None,
) -> None:
    """Show an action: the command line to reproduce it, its settings, its inputs."""
    from nativelink.client.actions import fetch_action
    from nativelink.client.trees import fetch_tree

    if limit is None:
        limit = 0 if session.screen.json else _INPUTS
    description = await fetch_action(session.remote, parse_digest(digest))
    root = description.input_root
    tree = await fetch_tree(session.remote.cas, root, session.remote.function)
    if session.screen.json:
        session.screen.show_json(_show_json(description, tree, limit))
        return
    for line in _show_lines(description):
        session.screen.line(line)
    title = f"inputs  {totals_text(tree.totals)}"
    session.screen.console.print(_rich_tree(tree, title, limit), soft_wrap=True, markup=False)
    entries = tree.totals.files + tree.totals.directories + tree.totals.symlinks
    if 0 < limit < entries:
        session.screen.left_out(f"{entries - limit:,} more")


@asks_server(app, "diff")
async def diff(
    session: Session,
    first: Annotated[str, typer.Argument(help=_FORMS, metavar="A")],
    second: Annotated[str, typer.Argument(help=_FORMS, metavar="B")],
    limit: Annotated[
        int, typer.Option(help="Show so many differences at most; 0: all.", min=0, metavar="N")
    ] = 100,
) -> int:
    """Tell what two actions differ in: why the second was no cache hit of the first.

    The exit code is 0 if they are the same, 1 if they differ.
    """
    from nativelink.client.differences import compare

    comparison = await compare(session.remote, parse_digest(first), parse_digest(second))
    if session.screen.json:
        session.screen.show_json(_diff_json(comparison))
    else:
        for line in _diff_lines(comparison, limit):
            session.screen.line(line)
        if 0 < limit < len(comparison.differences):
            session.screen.left_out(f"{len(comparison.differences) - limit:,} more")
    return _DIFFERENT if comparison.differences else _EQUAL


def _show_json(description: Description, tree: Tree, limit: int) -> dict[str, object]:
    from itertools import islice

    from nativelink.client.actions import output_paths, platform_of

    command, action = description.command, description.action
    entries = islice(tree.walk(), limit or None)
    return {
        "action": digest_text(description.digest),
        "command": digest_text(description.command_digest),
        "arguments": list(command.arguments),
        "environment": description.environment,
        "working_directory": command.working_directory,
        "platform": platform_of(action, command),
        "output_paths": list(output_paths(command)),
        "timeout_s": description.timeout_s,
        "do_not_cache": action.do_not_cache,
        "salt": action.salt.hex(),
        "script": "\n".join(description.script()),
        "inputs": {
            "root": digest_text(tree.root),
            **totals_json(tree.totals),
            "entries": [entry_json(each, missing=tree.is_missing(each.digest)) for each in entries],
        },
    }


def _show_lines(description: Description) -> Iterator[Text]:
    from rich.text import Text

    from nativelink.client.actions import output_paths, platform_of

    command, action = description.command, description.action

    def line(heading: str, text: str) -> Text:
        return Text.assemble((f"{heading:11}", "bold"), printable(text))

    yield line("action", digest_text(description.digest))
    yield line("command", digest_text(description.command_digest))
    yield line("inputs", digest_text(description.input_root))
    platform = platform_of(action, command)
    pairs = [f"{name}={value}" for name, values in platform.items() for value in values]
    yield line("platform", ", ".join(pairs) or "any")
    timeout_s = description.timeout_s
    yield line("timeout", "none" if timeout_s is None else f"{timeout_s:g} s")
    if action.do_not_cache:
        yield line("caching", "do_not_cache: every request runs it again")
    if action.salt:
        yield line("salt", action.salt.hex())
    paths = output_paths(command)
    yield line("outputs", paths[0] if paths else "none")
    for path in paths[1:]:
        yield line("", path)
    yield Text()
    yield Text("# from the root of the inputs", style="dim")
    for each in description.script():
        yield Text(each, style="green")
    yield Text()


def _rich_tree(tree: Tree, title: str, limit: int) -> RichTree:
    """The inputs as a tree, with as many entries as `limit`."""
    from rich.text import Text
    from rich.tree import Tree as RichTree

    from nativelink.client.trees import Kind

    drawn = RichTree(Text(title, style="bold"), guide_style="dim", highlight=False)
    branches: dict[str, RichTree] = {"": drawn}
    for number, entry in enumerate(tree.walk(), 1):
        if limit and number > limit:
            break
        parent = branches[entry.path[: -len(entry.name) - 1] if entry.path != entry.name else ""]
        branch = parent.add(_node(entry, missing=tree.is_missing(entry.digest)))
        if entry.kind is Kind.DIRECTORY:
            branches[entry.path] = branch
    return drawn


def _node(entry: Entry, *, missing: bool) -> Text:
    from nativelink.client.trees import Kind

    text = name_text(entry, entry.name)
    if missing:
        text.append("  not in the CAS", style="not bold red")
    elif entry.kind is Kind.FILE and entry.digest is not None:
        text.append(f"  {size(entry.digest.size_bytes)}", style="not bold default dim")
    return text


def _diff_json(comparison: Comparison) -> dict[str, object]:
    return {
        "first": digest_text(comparison.first),
        "second": digest_text(comparison.second),
        "equal": not comparison.differences,
        "differences": [_difference_json(each) for each in comparison.differences],
    }


def _difference_json(difference: Difference) -> dict[str, object]:
    answer: dict[str, object] = {
        "what": difference.aspect,
        "change": difference.change,
        "name": difference.name,
        "before": difference.before,
        "after": difference.after,
    }
    if difference.totals is not None:
        answer |= totals_json(difference.totals)
    return answer


def _diff_lines(comparison: Comparison, limit: int) -> Iterator[Text]:
    from rich.text import Text

    from nativelink.client.differences import Aspect

    if not comparison.differences:
        yield Text("the same action", style="bold green")
        return
    shown = comparison.differences[: limit or None]
    aspect = None
    for difference in shown:
        if difference.aspect is not aspect:
            aspect = difference.aspect
            number = sum(each.aspect is aspect for each in comparison.differences)
            heading = aspect.value.replace("_", " ")
            if aspect in {Aspect.ARGUMENT, Aspect.INPUT, Aspect.OUTPUT}:
                heading = count(number, f"differing {heading}")
            yield Text(heading, style="bold")
        yield from _difference_lines(difference)


def _difference_lines(difference: Difference) -> Iterator[Text]:
    from rich.text import Text

    from nativelink.client.differences import Aspect, Change

    name = printable(difference.name)
    if difference.aspect is Aspect.ARGUMENT:
        name = f"[{name}]"
    before, after = printable(difference.before), printable(difference.after)
    if difference.totals is not None:
        what = totals_text(difference.totals)
        before, after = (before and f"{before}, {what}"), (after and f"{after}, {what}")
    match difference.change:
        case Change.ADDED:
            yield Text(f"  + {name}", style="green").append(f"  {after}".rstrip(), "default")
        case Change.REMOVED:
            yield Text(f"  - {name}", style="red").append(f"  {before}".rstrip(), "default")
        case Change.CHANGED:
            if name:
                yield Text(f"  ~ {name}", style="yellow")
            yield Text(f"      - {before or 'none'}", style="red")
            yield Text(f"      + {after or 'none'}", style="green")
