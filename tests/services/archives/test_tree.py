"""Nothing of an archive leads out of the directory that is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.archives.tree import Symlink, Tree, symlink
from tests.services.archives.making import (
    SHA256,
    Entry,
    folder,
    hard_link,
    link,
    tar,
    unpack,
    zipped,
)

Archive = Callable[..., bytes]
EITHER = pytest.mark.parametrize("archive", [tar, zipped], ids=["tar", "zip"])


@EITHER
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/..", "leads out"),
        ("/etc/passwd", "absolute"),
        ("//x", "absolute"),
        ("a/" * 129 + "x", "deep"),
        ("n" * 256, "more than 255"),
        ("é" * 128, "more than 255"),
        (".", "no name"),
    ],
)
async def test_a_path_that_leads_out_or_cannot_be_is_refused(
    archive: Archive, path: str, said: str
) -> None:
    error = (await unpack(archive(Entry(path, b"x")))).error

    assert error.code is Code.ABORTED
    assert said in error.message
    assert len(error.message) < 400


@EITHER
async def test_paths_may_be_written_in_several_ways(archive: Archive) -> None:
    entries = (folder("./"), Entry("./a//b", b"x"), folder("a/./"), Entry(".a/..b", b"y"))

    assert (await unpack(archive(*entries))).tree == {"a": {"b": b"x"}, ".a": {"..b": b"y"}}


@EITHER
class TestTwice:
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    async def test_the_same_twice_is_fine(self, archive: Archive) -> None:
        data = archive(Entry("a/b", b"x"), folder("a"), Entry("a/b", b"x"), folder("a"))

        assert (await unpack(data)).tree == {"a": {"b": b"x"}}

    @pytest.mark.parametrize(
        "entries",
        [
            (Entry("a", b"x"), Entry("a", b"y")),
            (Entry("a", b"x"), Entry("a", b"x", 0o755)),
            (Entry("a", b"x"), Entry("./a", b"y")),
            (Entry("a", b"x"), link("a", "b")),
            (Entry("a", b"x"), folder("a")),
            (folder("a"), Entry("a", b"x")),
            (Entry("a", b"x"), Entry("a/b", b"x")),
            # Through a symlink, files could go anywhere.
            (folder("b"), link("a", "b"), Entry("a/c", b"x")),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    async def test_different_entries_of_one_name_are_refused(
        self, archive: Archive, entries: tuple[Entry, ...]
    ) -> None:
        error = (await unpack(archive(*entries))).error

        assert error.code is Code.ABORTED
        assert "'a'" in error.message


@EITHER
class TestSymlinks:
    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("l", "/etc/passwd"),
            ("l", ".."),
            ("l", "a/../../x"),
            ("d/l", "../../x"),
            # Into a directory that lies less deep than its name says, and out from there.
            ("d/e/l", "up/../x"),
            ("l", "d/e/up/.."),
            ("l", "d/e/over/../../x"),
        ],
    )
    async def test_one_that_leads_out_is_refused(
        self, archive: Archive, path: str, target: str
    ) -> None:
        entries = (folder("d/e"), link("d/e/up", "../.."), link("d/e/over", "../../d"))

        error = (await unpack(archive(*entries, link(path, target)))).error

        assert error.code is Code.ABORTED
        assert "leads" in error.message

    @pytest.mark.parametrize(
        ("path", "target", "canonical"),
        [
            ("l", "d", "d"),
            ("l", "./d//e/.", "d/e"),
            ("l", ".", "."),
            ("d/l", "..", ".."),
            ("l", "nowhere/at/../all", "nowhere/at/../all"),
            ("l", "l", "l"),
            # Deeper than its name says, so that it may go up further.
            ("l", "down/../../x", "down/../../x"),
        ],
    )
    async def test_one_that_stays_inside_is_kept(
        self, archive: Archive, path: str, target: str, canonical: str
    ) -> None:
        entries = (folder("d/e"), link("down", "d/e"), link(path, target))

        found: Any = (await unpack(archive(*entries))).tree

        for name in path.split("/"):
            found = found[name]
        assert found == canonical

    async def test_too_many_steps_to_follow_all_of_them_are_refused(self, archive: Archive) -> None:
        entries = [folder("d"), *(link(f"l{n}", "d/../" * 800 + "d") for n in range(100))]

        error = (await unpack(archive(*entries))).error

        assert error.code is Code.RESOURCE_EXHAUSTED
        assert "too many others" in error.message


class TestSizes:
    @EITHER
    async def test_a_target_may_have_no_longer_names_than_a_path(self, archive: Archive) -> None:
        assert (await unpack(archive(link("l", "a/" + "n" * 255)))).tree == {"l": "a/" + "n" * 255}

        error = (await unpack(archive(link("l", "a/" + "é" * 128)))).error

        assert error.code is Code.ABORTED
        assert "no path" in error.message

    @pytest.mark.parametrize("is_hard", [False, True], ids=["symlinks", "hard links"])
    def test_targets_take_64_mib_at_most(self, is_hard: bool) -> None:
        tree = Tree(200_000)
        target = symlink("d" * 240 + ("/" + "d" * 240) * 15, "'l'")

        def fill() -> None:
            tree.add(["0"], target)
            for at in range(1, 64 * 1024 * 1024 // len(target.target) + 1):
                if is_hard:
                    tree.add_link([f"{at}"], ["0"])
                else:
                    tree.add([f"{at}"], target)

        with pytest.raises(NativeLinkError, match="67108864 bytes") as raised:
            fill()
        assert raised.value.code is Code.RESOURCE_EXHAUSTED

    def test_what_is_there_already_takes_nothing(self) -> None:
        tree = Tree(2)
        target = Symlink("d" * 240 + ("/" + "d" * 240) * 15)

        for _ in range(64 * 1024 * 1024 // len(target.target) + 1):
            tree.add(["d", "l"], target)

        assert len(list(tree.directories(SHA256))) == 2

    def test_one_directory_is_a_message_of_bounded_size(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nativelink.services.archives.tree._MAX_DIRECTORY_BYTES", 10_000)
        tree = Tree(200)
        for at in range(100, 190):
            tree.add(["d", f"{at}"], Symlink("t" * 100))
        assert len(list(tree.directories(SHA256))) == 2
        tree.add(["d", "190"], Symlink("t" * 250))

        with pytest.raises(NativeLinkError, match="10000 are allowed") as raised:
            list(tree.directories(SHA256))
        assert raised.value.code is Code.RESOURCE_EXHAUSTED

    def test_each_symlink_is_a_step_of_its_own(self) -> None:
        tree = Tree(200)
        for at in range(100):
            tree.add([f"{at}"], Symlink("."))

        assert len(list(tree.require_confined())) > 100


class TestHardLinks:
    async def test_one_is_another_name_of_an_earlier_file(self) -> None:
        entries = (Entry("a/b", b"x", 0o755), hard_link("c", "./a/b"), link("l", "c"))

        tree = (await unpack(tar(*entries, hard_link("m", "l")))).tree

        assert tree == {"a": {"b": (b"x",)}, "c": (b"x",), "l": "c", "m": "c"}

    @pytest.mark.parametrize("target", ["later", "folder", "absent/x", "../x", "/etc/passwd"])
    async def test_one_to_anything_else_is_refused(self, target: str) -> None:
        entries = (folder("folder"), hard_link("a", target), Entry("later", b"x"))

        assert (await unpack(tar(*entries))).error.code is Code.ABORTED
