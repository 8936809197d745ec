import re
import subprocess
import sys
from pathlib import Path

import pytest

from nativelink.config.load import examine
from nativelink.config.manual import manual
from nativelink.config.shape import Keyed, ListOf, MapOf, Object, Tagged, shape_of
from nativelink.config.specs import Config

ROOT = Path(__file__).parents[2]


def every_object():
    waiting, seen = [shape_of(Config)], []
    while waiting:
        shape = waiting.pop()
        if shape in seen:
            continue
        seen.append(shape)
        match shape:
            case Object():
                waiting += [key.shape for key in shape.keys.values()]
                waiting += [shape.beside] if shape.beside else []
            case ListOf():
                waiting.append(shape.item)
            case MapOf():
                waiting.append(shape.value)
            case Keyed() | Tagged():
                waiting += shape.variants.values()
    return [shape for shape in seen if isinstance(shape, Object)]


@pytest.mark.slow
def test_the_page_in_the_documentation_is_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_config_docs.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_key_is_described_in_sentences():
    for shape in every_object():
        assert shape.model.__doc__, shape.model
        for key in shape.keys.values():
            description = key.info.description
            assert description, (shape.model, key.name)
            assert description.endswith("."), (shape.model, key.name)


def test_every_key_is_on_the_page():
    page = manual()
    for shape in every_object():
        for name in shape.keys:
            assert f"| `{name}`" in page, (shape.model, name)


def test_every_link_of_the_page_leads_to_a_heading():
    page = manual()
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    assert len(headings) == len(set(headings))
    anchors = {
        "".join(c for c in heading.lower() if c.isalnum() or c in " -_").replace(" ", "-")
        for heading in headings
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors


@pytest.mark.parametrize("block", re.findall(r"```json5\n(.*?)```", manual(), re.DOTALL))
def test_the_examples_of_the_page_load_without_a_finding(block):
    assert examine(block, "page", {"HOME": "/home/me"}).findings == ()
