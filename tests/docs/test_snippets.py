"""The documents' snippets run: configurations load, commands exist, links lead somewhere."""

import re
import subprocess
from pathlib import Path

import json5
import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[object]:
    return [
        pytest.param(
            body, id=f"{path.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}"
        )
        for path in DOCUMENTS
        for text in [path.read_text(encoding="utf-8")]
        for found in FENCE.finditer(text)
        for language, body in [found.groups()]
        if language in languages
    ]


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.MULTILINE))


@pytest.mark.parametrize("body", blocks("json5"))
def test_a_configuration_in_a_document_loads(body: str, tmp_path: Path) -> None:
    whole = body.lstrip().startswith("{")
    tree = json5.loads(body if whole else "{" + body + "}")
    assert isinstance(tree, dict)
    if "servers" in tree:
        from nativelink.config import load_file

        path = tmp_path / "snippet.json5"
        path.write_text(body if whole else "{" + body + "}", encoding="utf-8")
        load_file(path)


@pytest.mark.parametrize("body", blocks("sh", "bash"))
def test_shell_in_a_document_is_valid_and_its_make_targets_exist(body: str) -> None:
    subprocess.run(["bash", "-n"], input=body, text=True, check=True)
    used = set(re.findall(r"^\s*(?:\$ )?make ([a-z][a-z0-9-]*)", body, re.MULTILINE))
    assert used <= make_targets()


def test_every_snippet_is_in_a_language_that_is_looked_at() -> None:
    """Or in one for which nothing here could (Prometheus' rules), or that is generated whole."""
    languages = {
        language
        for path in DOCUMENTS
        for language, _ in FENCE.findall(path.read_text(encoding="utf-8"))
    }
    assert languages - {""} <= {"json5", "mermaid", "sh", "bash", "yaml"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        if "://" not in target
        and not target.startswith("mailto:")
        and not (path.parent / target).exists()
    ]
    assert broken == []


def anchors(path: Path) -> set[str]:
    """What a link into the page may name: its headings, as forges spell them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_into_pages_lead_to_headings(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = [
        f"{page}#{heading}"
        for page, heading in re.findall(r"\]\(([^)#\s:]*\.md|)#([^)\s]+)\)", text)
        if heading not in anchors(path.parent / page if page else path)
    ]
    assert broken == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("changes/*.md")), ids=lambda path: path.name)
def test_a_news_fragment_is_one_entry_of_the_change_log(path: Path) -> None:
    """It gets its bullet there, in another folder than here, so that a link fits one of the two."""
    text = path.read_text(encoding="utf-8")
    assert re.fullmatch(r"[a-z0-9-]+\.(feature|bugfix|change)\.md", path.name)
    assert not text.startswith(("-", "#", "\n"))
    assert "](" not in text


def test_every_public_make_target_is_in_the_readme_or_the_help() -> None:
    listing = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for target in ("run", "test", "check", "bench", "docs", "clean", "help"):
        assert f"make {target}" in listing
