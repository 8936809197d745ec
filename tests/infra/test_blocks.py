"""Nested blocks are typed structs: CDKTF drops mistyped keys of dictionaries without a word."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"
#: Arguments that are maps in Terraform: their keys are the user's or AWS'.
MAPS = {"ami_tags", "conditions", "dimensions", "resource_tags", "tag_map", "tags"}
MODULES = sorted([*INFRA.glob("modules/*.py"), *INFRA.glob("stacks/*.py"), INFRA / "provider.py"])


def constructs(tree: ast.Module) -> set[str]:
    """Names that a module imports from the one that names CDKTF's packages."""
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "infra._cdk"
        for alias in node.names
    }


def dictionaries(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = constructs(tree)
    found = []
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            continue
        if call.func.id not in known:
            continue
        for keyword in call.keywords:
            inside: list[ast.AST] = [keyword.value]
            if isinstance(keyword.value, ast.List):
                inside += keyword.value.elts
            if isinstance(keyword.value, ast.ListComp):
                inside.append(keyword.value.elt)
            literal = any(isinstance(each, ast.Dict | ast.DictComp) for each in inside)
            if literal and keyword.arg not in MAPS:
                found.append(f"{path.name}:{keyword.value.lineno}: {call.func.id}.{keyword.arg}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_block_is_a_dictionary(path: Path) -> None:
    assert dictionaries(path) == []


def test_a_dictionary_as_a_block_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "from infra._cdk import Lb\nLb(self, 'x', access_logs={'bucket': 'b'}, tags={'a': 'b'},"
        " subnet_mapping=[{'subnet_id': 'x'}])\n"
    )
    assert dictionaries(path) == ["bad.py:2: Lb.access_logs", "bad.py:2: Lb.subnet_mapping"]


def test_one_module_names_the_packages() -> None:
    naming: set[str] = set()
    for path in INFRA.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [getattr(node, "module", None) or "", *(each.name for each in node.names)]
                if any(name.startswith(("cdktf", "cdktn")) for name in names):
                    naming.add(path.name)
    assert naming == {"_cdk.py"}
