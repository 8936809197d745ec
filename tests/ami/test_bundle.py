"""The bundle that all images are made from; its wheels are of no interest here."""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from scripts import image_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "some-1-py3-none-any.whl").write_bytes(b"a wheel")
    monkeypatch.setattr(image_bundle, "wheels", lambda: folder)
    return folder


def test_the_same_inputs_make_the_same_bytes_and_others_do_not(
    wheels: Path, tmp_path: Path
) -> None:
    first = image_bundle.write(tmp_path / "first.tar.gz")
    (wheels / "some-1-py3-none-any.whl").touch()
    assert image_bundle.write(tmp_path / "second.tar.gz") == first
    assert hashlib.sha256((tmp_path / "second.tar.gz").read_bytes()).hexdigest() == first
    (wheels / "some-1-py3-none-any.whl").write_bytes(b"another")
    assert image_bundle.write(tmp_path / "third.tar.gz") != first


def test_it_has_all_that_is_installed_and_nothing_of_the_machine_that_made_it(
    wheels: Path, tmp_path: Path
) -> None:
    image_bundle.write(tmp_path / "bundle.tar.gz")
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
        files = {name: archive.extractfile(name) for name in entries}
        content = {name: file.read() for name, file in files.items() if file is not None}
    assert all(entry.isfile() for entry in entries.values())
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {
        (0, 0, image_bundle._EPOCH)
    }
    programs = {name for name, entry in entries.items() if entry.mode == 0o755}
    assert {"install.sh", "boot/disk.sh", "scripts/stack.sh"} <= programs
    assert "Containerfile" in entries.keys() - programs
    assert not [name for name in entries if "__pycache__" in name]

    (own,) = [name for name in entries if name.startswith("wheels/nativelink-")]
    digest = hashlib.sha256(content[own]).hexdigest()
    pin = content["requirements/program.txt"].decode()
    assert re.fullmatch(rf"nativelink==[\d.]+ --hash=sha256:{digest}\n", pin)
    for name in ("base", "stack", "container"):
        assert f"\n{name})" in content["install.sh"].decode()


def test_an_interrupted_write_leaves_the_older_bundle(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(b"older")

    def broken(_: Path) -> Path:
        raise SystemExit("no wheel")

    monkeypatch.setattr(image_bundle, "program", broken)
    with pytest.raises(SystemExit, match="no wheel"):
        image_bundle.write(path)
    assert path.read_bytes() == b"older"
