"""Imports point one way, and nobody reaches around the layers."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "app" / "nativelink"

# Each layer with the layers that it may import. `proto` is generated and imports only itself.
ALLOWED: dict[str, set[str]] = {
    "core": {"core"},
    "proto": {"proto"},
    "config": {"config", "core"},
    "transport": {"transport", "core"},
    "stores": {"stores", "core", "proto"},
    "scheduler": {"scheduler", "core"},
    "worker": {"worker", "stores", "core", "proto"},
    # What runs on AWS; `scaling` imports nothing, as infrastructure code uses it.
    "aws": {"aws", "scheduler", "worker", "core"},
    "services": {"services", "scheduler", "stores", "core", "proto"},
    "telemetry": {"telemetry", "services", "scheduler", "stores", "core", "proto"},
    # What the command line asks servers with. It reads back what services encode, and uses stores
    # that have a server behind them.
    "client": {"client", "services", "scheduler", "transport", "stores", "core", "proto"},
    "testing": {"testing", "services", "transport", "stores", "core", "proto"},
    "compose": {
        "compose", "config", "core", "proto", "transport", "stores", "scheduler", "worker",
        "services", "telemetry", "aws",
    },
    "cli": {"cli", "client", "compose", "config", "core", "proto", "telemetry"},
}  # fmt: skip


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def modules() -> list[Path]:
    return sorted(
        path
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py" and not path.name.endswith("_pb2.py")
    )


def imported_layers(path: Path) -> set[tuple[str, int]]:
    """The layers of ours that a module imports, with the line of each."""
    found: set[tuple[str, int]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            base = node.module or ""
            names = [base] if base != "nativelink" else [f"nativelink.{a.name}" for a in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "nativelink" and len(parts) > 1 and not parts[1].startswith("_"):
                found.add((parts[1], node.lineno))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_the_layers_below_it(path: Path) -> None:
    layer = layer_of(path)
    assert layer in ALLOWED, f"{path}: layer {layer!r} has no rule; say what it may import"
    wrong = {
        f"line {line}: {target}"
        for target, line in imported_layers(path)
        if target not in ALLOWED[layer]
    }
    assert not wrong, f"{path.relative_to(PACKAGE)} may import {sorted(ALLOWED[layer])}: {wrong}"


def test_the_rules_themselves_have_no_cycle_between_layers() -> None:
    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        return any(
            target == goal or (target not in seen and reaches(target, goal, seen | {target}))
            for target in ALLOWED[start] - {start}
        )

    assert [layer for layer in ALLOWED if reaches(layer, layer, {layer})] == []
