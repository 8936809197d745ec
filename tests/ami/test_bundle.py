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


def test_only_what_is_locked_for_the_images_python_is_asked_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    entry = "{} \\\n    --hash=sha256:00\n    # via x\n"
    asked = [
        "old==1 ; python_full_version < '3.12'",
        "old==2 ; python_full_version >= '3.12'",
        "plain==3",
        "other==4 ; sys_platform == 'win32'",
    ]
    lock.write_text("# made by\n" + "".join(map(entry.format, asked)))
    wanted = "# made by\n" + "".join(map(entry.format, ("old==1", "plain==3")))
    assert image_bundle.of_image(lock) == wanted


@pytest.mark.parametrize("is_told", [True, False])
def test_pip_fetches_the_wheels_whether_uv_tells_where_they_are_or_not(
    is_told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock = tmp_path / "lock.txt"
    calls: list[list[str]] = []

    def run(*command: str | Path, **_: str) -> None:
        calls.append([str(part) for part in command])
        if "compile" in command:
            if not is_told:
                raise SystemExit("uv: no such index")
            (tmp_path / "pylock.toml").write_text(
                '[[packages]]\nname = "a"\nwheels = [{ url = "https://host.invalid/a&b/a.whl" }]\n'
            )

    monkeypatch.setattr(image_bundle, "run", run)
    image_bundle.fetch(lock, "aarch64", tmp_path / "wheels")
    uv, pip = calls
    assert "--python-platform=aarch64-manylinux_2_36" in uv
    assert {"--require-hashes", "--only-binary=:all:", str(lock)} <= set(pip)
    links = tmp_path / "aarch64.html"
    assert (f"--find-links={links}" in pip, "--no-index" in pip) == (is_told, is_told)
    if is_told:
        assert links.read_text() == '<a href="https://host.invalid/a&amp;b/a.whl">a.whl</a>\n'
    assert ("no such index" in capsys.readouterr().err) != is_told
