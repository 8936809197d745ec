"""What must never stand in a tracked file."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def versions(lock: Path) -> dict[str, set[str]]:
    """What a lock file pins, by name; some names have two versions, for different Pythons."""
    found: dict[str, set[str]] = {}
    text = lock.read_text(encoding="utf-8")
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_lock_files_name_no_download_address() -> None:
    locks = tracked("*requirements*/*.txt", "*lock.json", "*.lock")
    assert locks
    named = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in locks
        for match in re.finditer(r"https?://\S+", path.read_text(encoding="utf-8"))
    ]
    assert named == []


def test_every_locked_requirement_has_a_hash() -> None:
    for path in tracked("requirements/*.txt"):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        pinned = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
        assert pinned, path.name
        assert [line[:60] for line in pinned if "--hash=sha256:" not in line] == [], path.name


@pytest.mark.parametrize(
    ("one", "other"), [("dev", "runtime"), ("image", "runtime"), ("build", "dev")]
)
def test_what_is_installed_into_one_place_is_locked_to_one_version(one: str, other: str) -> None:
    """`scripts/lock.sh` gives the one the other as its constraint."""
    here, there = (versions(ROOT / "requirements" / f"{name}.txt") for name in (one, other))
    shared = here.keys() & there.keys()
    assert shared
    assert {name for name in shared if not here[name] <= there[name]} == set()


def test_modules_stay_readable_in_one_sitting() -> None:
    """Size is taste, but above 800 lines it needs an explanation: none is given so far."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("app/*.py", "infra/*.py", "scripts/*.py", "bench/*.py")
        if not path.name.endswith("_pb2.py")
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > 800
    }
    assert long == {}
