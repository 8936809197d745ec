"""What a persistent worker is asked, read from files that an action brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.worker.launch import Launch
from nativelink.worker.persistent.plan import expand, key_of, plan


def test_files_of_arguments_are_read_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "outer").write_text("-a\n@inner\n@@kept\n@repo//label\n")
    (tmp_path / "inner").write_text("-b\n")

    assert expand(["@outer", "--flagfile=x"], tmp_path) == [
        "-a",
        "-b",
        "@@kept",
        "@repo//label",
        "--flagfile=x",
    ]


def test_short_files_that_name_one_another_often_come_to_an_end(tmp_path: Path) -> None:
    # A hundred lines each, eight deep: 10^16 arguments.
    for level in range(8):
        (tmp_path / str(level)).write_text(f"@{level + 1}\n" * 100)
    (tmp_path / "8").write_text("-a\n")

    with pytest.raises(NativeLinkError, match="have more than") as caught:
        expand(["@0"], tmp_path)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_files_of_arguments_are_bounded_together(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * (6 << 20))

    with pytest.raises(NativeLinkError, match="have more than 16777216 bytes"):
        expand(["@large"] * 3, tmp_path)


def test_an_argument_that_no_file_can_have_as_its_name_is_left_to_the_launcher(
    tmp_path: Path,
) -> None:
    launch = Launch(
        arguments=("tool", "a\0b", "@params"),
        environment={},
        working_directory=tmp_path,
        action_directory=tmp_path,
        stdout=tmp_path / "stdout",
        stderr=tmp_path / "stderr",
    )
    planned = plan(launch, {"supports-workers": "1"})

    assert planned is not None
    assert key_of(planned) is not None
