#!/usr/bin/env python3
"""Make `*_pb2.py` and `*_pb2.pyi` from the `.proto` files of app/nativelink/proto.

    scripts/generate_protos.py           write them
    scripts/generate_protos.py --check   fail, with a summary, if what is there is not what would
                                         be written

The compiler is grpcio-tools, whose version the lock decides. Its output is changed in two ways:
imports name modules under `nativelink.proto`, and descriptors go to the pool of
`nativelink.proto._pool` instead of protobuf's default pool. That needs copies of the well-known
types, which are compiled along with ours.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "app" / "nativelink" / "proto"
PACKAGE = "nativelink.proto"
WELL_KNOWN = ("any", "duration", "empty", "timestamp", "wrappers")
#: Lines of a diff shown for each stale file.
SHOWN = 12

_POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_POOL_USE = "_descriptor_pool.Default()"
_MODULE_NAME = re.compile(r"(BuildTopDescriptorsAndMessages\(DESCRIPTOR, ')")
_IMPORT = re.compile(
    r"^from ((?:build|com|google|grpc|nativelink)[\w.]*) import (\w+_pb2)\b", re.MULTILINE
)


def relocate(text: str) -> str:
    """The compiler's output with our imports and our pool."""
    text = text.replace(_POOL_IMPORT, f"from {PACKAGE} import _pool as _descriptor_pool\n")
    text = text.replace(_POOL_USE, "_descriptor_pool.POOL")
    if "DescriptorPool" in text or "descriptor_pool.Default" in text:
        raise SystemExit("grpcio-tools writes another kind of code now: look at relocate()")
    text = _MODULE_NAME.sub(rf"\1{PACKAGE}.", text)
    return _IMPORT.sub(rf"from {PACKAGE}.\1 import \2", text)


def generate() -> dict[str, str]:
    """Every generated file: its path below `PROTO`, and its text."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    sources += [f"google/protobuf/{name}.proto" for name in WELL_KNOWN]
    with (
        as_file(files("grpc_tools") / "_proto") as well_known,
        tempfile.TemporaryDirectory() as out,
    ):
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTO}",
                f"--proto_path={well_known}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                *sources,
            ]
        )
        if status:
            raise SystemExit(status)
        made = {
            str(path.relative_to(out)): relocate(path.read_text(encoding="utf-8"))
            for path in sorted(Path(out).rglob("*_pb2.py*"))
        }
    packages = {parent for name in made for parent in Path(name).parents if parent != Path()}
    return made | {str(package / "__init__.py"): "" for package in packages}


def present() -> dict[str, str]:
    """The generated files that are there."""
    found = {*PROTO.rglob("*_pb2.py"), *PROTO.rglob("*_pb2.pyi"), *PROTO.glob("*/**/__init__.py")}
    return {str(path.relative_to(PROTO)): path.read_text(encoding="utf-8") for path in found}


def summary(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What differs, file by file; empty if nothing does."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        if name not in old:
            lines.append(f"missing: {name}")
        elif name not in new:
            lines.append(f"left over: {name}")
        elif old[name] != new[name]:
            lines.append(f"stale: {name}")
            diff = difflib.unified_diff(
                old[name].splitlines(),
                new[name].splitlines(),
                "there",
                "made now",
                lineterm="",
                n=0,
            )
            lines += [f"    {line[:160]}" for line in list(diff)[2 : 2 + SHOWN]]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    check = parser.parse_args().check
    old, new = present(), generate()
    changes = summary(old, new)
    if check:
        if changes:
            print("\n".join(changes), file=sys.stderr)
            raise SystemExit("the generated protocol modules are stale: scripts/generate_protos.py")
        return
    for name in old.keys() - new.keys():
        (PROTO / name).unlink()
    for name, text in new.items():
        path = PROTO / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(new)} files, {len(changes)} lines of changes" if changes else "nothing changed")


if __name__ == "__main__":
    main()
