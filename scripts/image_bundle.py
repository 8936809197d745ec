#!/usr/bin/env python3
"""Write `dist/image-bundle.tar.gz`: everything that is installed in an image, and how.

Unpacked it is a folder with `install.sh`, which EC2 Image Builder, Packer and the container's
build run alike. It has the locked wheels of both architectures, so that nothing is downloaded
where an image is made but Debian's packages. The same inputs make the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / ".tools" / "image" / "wheels"
BUNDLE: Final = ROOT / "dist" / "image-bundle.tar.gz"
LOCKS: Final = ("runtime.txt", "image.txt")
ARCHITECTURES: Final = ("x86_64", "aarch64")
#: Of Debian 12: its Python, and the newest C library that wheels may ask for.
PYTHON: Final = "3.11"
#: The same as markers name it.
_IMAGE: Final = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.2",
    "sys_platform": "linux",
    "platform_system": "Linux",
}
_GLIBC: Final = (36, 35, 34, 31, 28, 27, 26, 24, 17)
#: Folders of ami/ that go along whole.
_FOLDERS: Final = ("boot", "machine", "packages", "scripts", "systemd")
#: A time that zip archives can have, and that says nothing.
_EPOCH: Final = 315619200


def run(*command: str | Path, **environment: str) -> None:
    """Run a command; its output in the error if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def wheels() -> Path:
    """The folder with the locked wheels; they are fetched when a lock changes."""
    locks = {name: of_image(ROOT / "requirements" / name) for name in LOCKS}
    key = hashlib.sha256()
    for text in locks.values():
        key.update(text.encode())
    folder = CACHE / key.hexdigest()[:16]
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, text in locks.items():
        with tempfile.TemporaryDirectory() as place:
            lock = Path(place) / name
            lock.write_text(text, encoding="utf-8")
            for architecture in ARCHITECTURES:
                fetch(lock, architecture, partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def of_image(lock: Path) -> str:
    """What of a lock is for the images' Python, without markers.

    pip asks them of the Python that runs it, which may be a newer one.
    """
    kept: list[str] = []
    for entry in re.split(r"(?m)^(?=\w)", lock.read_text(encoding="utf-8")):
        asked, _, hashes = entry.partition("\\")
        requirement = Requirement(asked) if hashes else None
        if requirement is None or requirement.marker is None:
            kept.append(entry)
        elif requirement.marker.evaluate(_IMAGE):
            kept.append(f"{asked.partition(';')[0].rstrip()} \\{hashes}")
    return "".join(kept)


def fetch(lock: Path, architecture: str, folder: Path) -> None:
    """Have pip put the wheels of a lock into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", f"--python-version={PYTHON}", f"--dest={folder}"]
    command += [f"--platform=manylinux_2_{minor}_{architecture}" for minor in _GLIBC]
    links = lock.with_name(f"{architecture}.html")
    try:
        links.write_text(addresses(lock, architecture), encoding="utf-8")
        run(*command, "--no-input", "--no-index", f"--find-links={links}", "--requirement", lock)
    except SystemExit as failure:
        print(f"{failure}\npip looks for them, which takes longer ...", file=sys.stderr)
        run(*command, "--requirement", lock)


def addresses(lock: Path, architecture: str) -> str:
    """A page with links to the wheels of a lock, which uv finds.

    Without it pip reads all that there ever was of each package, for longer than it downloads.
    """
    found = lock.with_name("pylock.toml")
    command: list[str | Path] = [ROOT / "scripts/uv.sh", "pip", "compile", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", f"--python={sys.executable}", f"--python-version={PYTHON}"]
    command += [f"--python-platform={architecture}-manylinux_2_{max(_GLIBC)}"]
    command += ["--no-python-downloads", "--format=pylock.toml", f"--output-file={found}"]
    run(*command, lock)
    packages = tomllib.loads(found.read_text(encoding="utf-8")).get("packages", ())
    wheels_of = (wheel for package in packages for wheel in package.get("wheels", ()))
    urls = [wheel["url"] for wheel in wheels_of if "url" in wheel]
    return "".join(f'<a href="{html.escape(url)}">{url.rpartition("/")[2]}</a>\n' for url in urls)


def program(folder: Path) -> Path:
    """Our own wheel, built into a folder."""
    # Of other builders it takes no file, and of the time nothing.
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target=wheel",
        f"--directory={folder}",
        SOURCE_DATE_EPOCH=str(_EPOCH),
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def files(wheel: Path) -> Iterator[tuple[str, bytes, bool]]:
    """What is in the bundle: name, content, whether it is a program."""
    ami = ROOT / "ami"
    yield "install.sh", (ami / "install.sh").read_bytes(), True
    yield "Containerfile", (ami / "Containerfile").read_bytes(), False
    for folder in _FOLDERS:
        for path in (ami / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                is_program = os.access(path, os.X_OK)
                yield path.relative_to(ami).as_posix(), path.read_bytes(), is_program
    yield "docs/roles.md", (ROOT / "docs/roles.md").read_bytes(), False
    yield "LICENSE", (ROOT / "LICENSE").read_bytes(), False
    for name in LOCKS:
        yield f"requirements/{name}", (ROOT / "requirements" / name).read_bytes(), False
    for path in wheels().iterdir():
        yield f"wheels/{path.name}", path.read_bytes(), False
    content = wheel.read_bytes()
    name, version = wheel.name.split("-")[:2]
    pin = f"{name}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"
    yield f"wheels/{wheel.name}", content, False
    yield "requirements/program.txt", pin.encode(), False


def write(path: Path) -> str:
    """Make the bundle; its SHA-256."""
    with tempfile.TemporaryDirectory() as folder:
        content = sorted(files(program(Path(folder))))
    raw = io.BytesIO()
    # Wheels are compressed already: it would take 3 seconds to save 2 of 120 MB.
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=0, mtime=_EPOCH) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, data, is_program in content:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), _EPOCH
            entry.mode = 0o755 if is_program else 0o644
            archive.addfile(entry, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(raw.getvalue())
    beside.replace(path)
    return hashlib.sha256(raw.getvalue()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=BUNDLE)
    told = parser.parse_args()
    digest = write(told.output)
    print(f"{told.output}: {told.output.stat().st_size / 1e6:.0f} MB, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
