"""Commands in the runbooks exist: programs, subcommands, options, make targets, AWS operations."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import typer
from botocore import xform_name

from nativelink.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/deploy.md", *sorted((ROOT / "docs/operate").glob("*.md"))]
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: In the text: `make …`, `nativelink …`, `aws …`.
INLINE = re.compile(r"`((?:make|nativelink|aws) [^`]+)`")
#: Programs of any Debian, or that the pages say are needed.
PROGRAMS = {
    "bazel", "cat", "cp", "curl", "date", "df", "du", "export", "git", "grep", "journalctl",
    "openssl", "python3", "sed", "shred", "sort", "sudo", "systemctl", "tail", "scripts/cost.py",
}  # fmt: skip
#: Options of AWS' command line that every command has.
COMMON = {"--query", "--output", "--region", "--profile", "--max-items", "--no-cli-pager"}
#: What a line is split at: each part is a command.
SEPARATORS = {"|", "||", "&&", ";", "&", "do", "done", "then", "fi"}


def commands(text: str) -> Iterator[list[str]]:
    """Every command of a shell text, by its words; what is in `$(…)` too."""
    text = re.sub(r"\\\n\s*", " ", text)
    for inner in re.findall(r"\$\(([^()]+)\)", text):
        yield from commands(inner)
    text = re.sub(r"\$\([^()]+\)", "VALUE", text)
    lexer = shlex.shlex(text.replace("\n", " ;\n"), posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split = True
    found: list[str] = []
    for word in [*lexer, ";"]:
        if word in SEPARATORS or set(word) <= set(";|&"):
            if found:
                yield found
            found = []
        else:
            found.append(word)


def words_of(command: list[str]) -> list[str]:
    """Without variables before it, and without what goes into and out of files."""
    while command and re.fullmatch(r"\w+=.*", command[0], re.DOTALL):
        command = command[1:]
    kept: list[str] = []
    skip = False
    for word in command:
        if skip:
            skip = False
        elif re.fullmatch(r"[<>]+&?", word):
            skip = True
        elif not re.fullmatch(r"[<>&\d]+", word):
            kept.append(word)
    return kept[1:] if kept and kept[0] == "sudo" else kept


def blocks() -> list[Any]:
    return [
        pytest.param(body, id=f"{path.name}:{text[: found.start()].count(chr(10)) + 1}")
        for path in PAGES
        for text in [path.read_text(encoding="utf-8")]
        for found in FENCE.finditer(text)
        for body in found.groups()
    ]


def mentions() -> list[Any]:
    return [
        pytest.param(found, id=f"{path.name}:{found[:40]}")
        for path in PAGES
        for found in sorted(set(INLINE.findall(path.read_text(encoding="utf-8"))))
    ]


@cache
def session() -> botocore.session.Session:
    return botocore.session.get_session()


@cache
def model(service: str) -> Any:
    name = {"s3api": "s3"}.get(service, service)
    assert name in session().get_available_services(), f"aws {service}: no such service"
    return session().get_service_model(name)


def check_aws(words: list[str]) -> None:
    service, operation = words[1], words[2]
    if operation == "wait":
        return
    operations = {xform_name(each, "-"): each for each in model(service).operation_names}
    assert operation in operations, f"aws {service} {operation}: no such operation"
    shape = model(service).operation_model(operations[operation]).input_shape
    members = dict(shape.members) if shape is not None else {}
    known = {f"--{xform_name(name, '-')}" for name in members}
    known |= {
        f"--no-{xform_name(name, '-')}"
        for name, member in members.items()
        if member.type_name == "boolean"
    }
    options = {word.partition("=")[0] for word in words[3:] if word.startswith("--")}
    assert options <= known | COMMON, f"{words[:3]}: {options - known - COMMON}"
    required = {f"--{xform_name(name, '-')}" for name in getattr(shape, "required_members", [])}
    given = {option.replace("--no-", "--", 1) for option in options} | options
    assert required <= given, f"{words[:3]} lacks {required - given}"


def check_nativelink(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest:
        known = command.list_commands(None)
        assert rest[0] in known, f"nativelink {rest[0]}: there are {known}"
        command, rest = command.get_command(None, rest[0]), rest[1:]
    options = {name for parameter in command.params for name in parameter.opts}
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert used <= options, f"{words}: {used - options}"


@cache
def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.MULTILINE))


def check(words: list[str]) -> None:
    program = words[0].removeprefix("/opt/nativelink/bin/")
    match program:
        case "aws":
            check_aws(words)
        case "nativelink":
            check_nativelink(words)
        case "make":
            assert words[1] in targets(), f"make {words[1]}: no such target"
        case "for":
            pass
        case _:
            assert program in PROGRAMS, f"{program}: is it there? then add it to PROGRAMS"


@pytest.mark.parametrize("body", blocks())
def test_every_command_of_a_runbook_exists_with_its_options(body: str) -> None:
    text = "\n".join(line.split("   #")[0] for line in body.splitlines())
    found = [words_of(command) for command in commands(text)]
    assert found
    for words in filter(None, found):
        check(words)


@pytest.mark.parametrize("text", mentions())
def test_every_command_in_a_sentence_exists(text: str) -> None:
    words = text.split()
    if words[0] == "aws":
        operations = {xform_name(each, "-") for each in model(words[1]).operation_names}
        assert words[2] in operations
    else:
        check(words)


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda path: path.name)
def test_every_runbook_says_how_to_check_act_and_verify(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name in {"README.md", "alarms.md"}:
        return
    assert text.startswith("# ")
    for word in ("**Symptom.**", "**Check", "**Act.**", "**Verify.**"):
        assert word in text, f"{page.name}: no {word}"


def test_every_runbook_is_in_the_list() -> None:
    listed = (ROOT / "docs/operate/README.md").read_text(encoding="utf-8")
    for page in PAGES[2:]:
        assert f"({page.name})" in listed or page.name == "README.md"


@pytest.mark.parametrize(
    "wrong",
    [
        "aws autoscaling describe-groups",
        "aws ec2 describe-images --owner self",
        "aws sqs purge-queue",
        "nativelink workers remove x",
        "nativelink ops list --all",
        "make deploi REGION=team",
        "kubectl get pods",
    ],
)
def test_a_command_that_does_not_exist_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong.split())


def test_alarms_in_the_list_have_a_section_each_and_no_other_has_one() -> None:
    text = (ROOT / "docs/operate/alarms.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`([^`]+)`\]\(#([^)]+)\)", text, re.MULTILINE)
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(listed) > 15
    assert sorted(name for name, _ in listed) == sorted(sections)
    assert all(anchor == name.lower() for name, anchor in listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_metrics_that_runbooks_look_for_exist(page: Path) -> None:
    known = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for pattern in re.findall(r"/metrics \| grep (?:-E )?(\S+)", page.read_text(encoding="utf-8")):
        plain = re.sub(r"_\(sum\|count\)|_sum\b", "", pattern.strip("'"))
        for part in re.split(r"\|(?![^(]*\))", plain):
            assert re.search(part, known), f"{page.name}: no metric {part}"
