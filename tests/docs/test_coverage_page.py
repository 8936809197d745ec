"""Every key of the reference is exercised by a test that the page names."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    """The generator, with nothing kept from before."""
    spec = spec_from_file_location("coverage_docs", ROOT / "scripts/generate_coverage_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def generator() -> ModuleType:
    return load()


def test_every_key_has_a_test_that_is_there(generator: ModuleType) -> None:
    assert list(generator.findings()) == []


def test_the_page_in_the_documentation_is_fresh(generator: ModuleType) -> None:
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page()


def test_what_is_not_there_yet_is_little_and_says_why(generator: ModuleType) -> None:
    waiting = [entry for entry in generator.entries() if entry.open is not None]
    assert len(waiting) <= 5
    assert all(entry.open and not entry.tests for entry in waiting)


def test_a_key_without_a_test_a_test_without_code_and_a_name_without_a_key_are_found(
    generator: ModuleType, tmp_path: Path
) -> None:
    text = generator.REGISTRY.read_text(encoding="utf-8")
    known = "tests/stores/test_eviction.py::test_an_entry_expires_once"
    assert known in text
    changed = text.replace(known, "tests/stores/test_eviction.py::test_gone_")
    head, section, rest = changed.partition('["stores.ref_store"]\n')
    assert section
    _, _, after = rest.partition("\n")
    generator.REGISTRY = tmp_path / "reference.toml"
    generator.REGISTRY.write_text(head + section + 'nmae = ["x"]\n' + after, encoding="utf-8")
    found = "\n".join(generator.findings())
    assert "stores.ref_store.name: no test shows what it does" in found
    assert "[stores.ref_store] nmae: there is no such key" in found
    assert "eviction_policy.max_seconds: there is no test" in found


def test_a_test_that_is_always_skipped_is_none(generator: ModuleType, tmp_path: Path) -> None:
    generator.ROOT = tmp_path
    (tmp_path / "test_a.py").write_text(
        "import pytest\n"
        "def test_runs(): ...\n"
        "@pytest.mark.skip(reason='x')\n"
        "def test_skipped(): ...\n"
        "@pytest.mark.xfail\n"
        "def test_fails(): ...\n"
        "@pytest.mark.skipif(True, reason='somewhere')\n"
        "def test_runs_elsewhere(): ...\n"
        "class TestA:\n    def test_inside(self): ...\n"
        "def helper(): ...\n"
    )
    assert generator.tests_of("test_a.py") == {
        "test_runs",
        "test_runs_elsewhere",
        "TestA::test_inside",
    }
