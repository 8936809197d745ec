"""A Bazel workspace that builds real C programs, Lua and zlib, in well over a hundred actions.

The sources are the upstream parts of Debian source packages (`scripts/tools.py`), the rules are
our own. Lua is compiled twice, with and without -fPIC, and then runs scripts; other targets make
what remote caches stumble over: trees with links, empty files, long names, much output, programs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["LONG_NAME", "MINIMUM_ACTIONS", "make_workspace"]

RULES = Path(__file__).parent / "workspace" / "defs.bzl"
#: What the issue of this build asks for, and what it has at least.
MINIMUM_ACTIONS = 100
LONG_NAME = "long_" + "x" * 180 + ".txt"
_SCRIPTS = 12
_LUA_MAINS = {"lua.c", "luac.c"}

_HEAD = """\
load(
    "//:defs.bzl",
    "c_archive", "c_object", "c_program", "linked", "many", "noisy", "tree", "tree_user",
)
"""

_ODDITIES = f"""
tree(name = "tree")
tree_user(name = "tree_user", tree = ":tree")
noisy(name = "noisy")
many(name = "many", count = 40)
linked(name = "lua_link", src = ":lua_copy")
genrule(
    name = "lua_copy",
    srcs = [":lua"],
    outs = ["lua_copied"],
    cmd = "cp $< $@",
    executable = True,
)
genrule(name = "empty", outs = ["empty.txt"], cmd = ": > $@")
genrule(name = "long", outs = ["{LONG_NAME}"], cmd = "echo long > $@")
genrule(name = "odd", outs = ["with space+(plus)=é.txt"], cmd = "echo odd > \\"$@\\"")
genrule(
    name = "big",
    outs = ["big.bin"],
    cmd = "head -c 9000000 /dev/zero | tr '\\\\\\\\0' x > $@",
)
genrule(
    name = "script",
    outs = ["script.sh"],
    cmd = "printf '#!/bin/sh\\\\necho ran \\"$$1\\"\\\\n' > $@",
    executable = True,
)
genrule(name = "ran", tools = [":script"], outs = ["ran.txt"], cmd = "$(location :script) me > $@")
"""


def _objects(
    prefix: str, sources: list[Path], package: str, compiler: str, copts: list[str]
) -> tuple[str, str]:
    """Build text of one object per source, and their labels as a list."""
    text, labels = "", []
    for source in sources:
        name = f"{prefix}_{source.stem}"
        labels.append(f":{name}")
        text += (
            f'c_object(name = "{name}", src = "{package}/{source.name}", '
            f'hdrs = glob(["{package}/*.h"]), compiler = "{compiler}", copts = {copts!r})\n'
        ).replace("'", '"')
    return text, repr(labels).replace("'", '"')


def make_workspace(folder: Path, sources: Path, *, salt: str = "", compiler: str = "tcc") -> Path:
    """Write the workspace into an empty folder and return it.

    Args:
        folder: made if absent.
        sources: holds the unpacked packages `lua5.4` and `zlib`.
        salt: a define in every compilation, so that nothing of another salt's build is a hit.
        compiler: of C. What is cached does not depend on how well it is optimised, but the time of
            tests does: tcc takes a tenth of what cc takes without optimising.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lua = sorted((sources / "lua5.4/src").glob("*.c"))
    zlib = sorted((sources / "zlib").glob("*.c"))
    for package, origin in (("lua", sources / "lua5.4/src"), ("zlib", sources / "zlib")):
        (folder / package).mkdir()
        for file in [*origin.glob("*.c"), *origin.glob("*.h")]:
            shutil.copyfile(file, folder / package / file.name)
    shutil.copyfile(RULES, folder / "defs.bzl")
    (folder / "WORKSPACE").write_text('workspace(name = "program")\n')

    define = [f"-DBUILD_SALT_{salt}"] if salt else []
    library = [file for file in lua if file.name not in _LUA_MAINS]
    common = ["-O0", "-DLUA_USE_POSIX", *define]
    plain, plain_labels = _objects("lua", library, "lua", compiler, common)
    shared, shared_labels = _objects("pic", library, "lua", compiler, ["-fPIC", *common])
    programs = [file for file in lua if file.name in _LUA_MAINS]
    mains, _ = _objects("main", programs, "lua", compiler, common)
    # Debian's zlib is configured: unistd.h is there.
    quiet = ["-O0", "-w", "-DHAVE_UNISTD_H", *define]
    deflate, deflate_labels = _objects("z", zlib, "zlib", compiler, quiet)
    linked = f'compiler = "{compiler}", linkopts'
    build = _HEAD + plain + shared + mains + deflate
    build += f'c_archive(name = "lua_core", objects = {plain_labels})\n'
    build += f'c_archive(name = "z", objects = {deflate_labels})\n'
    for name in ("lua", "luac"):
        objects = f'[":main_{name}", ":lua_core"]'
        build += f'c_program(name = "{name}", objects = {objects}, {linked} = ["-lm"])\n'
    shared_object = f'name = "lua.so", objects = {shared_labels}'
    build += f'c_program({shared_object}, {linked} = ["-shared", "-lm"])\n'
    for number in range(_SCRIPTS):
        script = f"print('script', {number}, #string.rep('x', {number} * 100), _VERSION)\n"
        (folder / f"s{number}.lua").write_text(script)
        build += (
            f'genrule(name = "out{number}", srcs = ["s{number}.lua"], tools = [":lua"], '
            f'outs = ["s{number}.txt"], cmd = "$(location :lua) $< > $@")\n'
        )
    (folder / "BUILD").write_text(build + _ODDITIES)
    return folder
