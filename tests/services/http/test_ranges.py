from __future__ import annotations

import pytest

from nativelink.services.http.ranges import Part, UnsatisfiableError, parse_range


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-0", Part(0, 1)),
        ("bytes=0-9", Part(0, 10)),
        ("bytes=3-", Part(3, 7)),
        ("bytes=3-100", Part(3, 7)),
        ("bytes=-4", Part(6, 4)),
        ("bytes=-100", Part(0, 10)),
        (" bytes=9-9 ", Part(9, 1)),
    ],
)
def test_a_range_is_cut_at_the_end(text: str, part: Part) -> None:
    assert parse_range(text, 10) == part


@pytest.mark.parametrize(
    "text",
    ["", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=--1"],
)
def test_what_is_no_single_range_is_passed_over(text: str) -> None:
    assert parse_range(text, 10) is None


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_without_a_byte_is_an_error(text: str) -> None:
    with pytest.raises(UnsatisfiableError):
        parse_range(text, 10)


def test_nothing_is_in_an_empty_value() -> None:
    with pytest.raises(UnsatisfiableError):
        parse_range("bytes=0-", 0)
