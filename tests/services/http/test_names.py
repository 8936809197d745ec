from __future__ import annotations

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.http.names import HashName, parse_hash_name, tree_key

HASH = "a1" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HASH, HashName(HASH, None, None)),
        (HASH.upper(), HashName(HASH, None, None)),
        (f"{HASH}-17", HashName(HASH, 17, None)),
        (f"blake3/{HASH}", HashName(HASH, None, DigestFunction.BLAKE3)),
        (f"sha256/{HASH}-0", HashName(HASH, 0, DigestFunction.SHA256)),
    ],
)
def test_a_hash_may_come_with_its_function_and_its_size(text: str, name: HashName) -> None:
    assert parse_hash_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        HASH[:-1],
        HASH + "0",
        "g" * 64,
        f"{HASH}-",
        f"{HASH}-x",
        f"{HASH}--1",
        f"{HASH}-9223372036854775808",
        f"md5/{HASH}",
        f"../{HASH}",
        f"/{HASH}",
        f"{HASH}/",
        f"a/b/{HASH}",
        "%2e%2e/" + HASH,
    ],
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(NativeLinkError) as raised:
        parse_hash_name(text)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_each_path_has_a_key_of_its_own_that_is_a_plain_name() -> None:
    paths = ["a", "a/b", "ab", "A", "ccache/4d/12~34", "%61", "x" * 1024]
    keys = {tree_key(path) for path in paths}
    assert len(keys) == len(paths)
    assert all("/" not in key and len(key) < 100 for key in keys)


def test_slashes_in_a_row_are_one() -> None:
    assert tree_key("a//b") == tree_key("/a/b") == tree_key("a/b") != tree_key("ab")


@pytest.mark.parametrize(
    "path", ["", "/", "a/", ".", "a/./b", "a/../b", "a/.", "x" * 1025, "a b", "a\\b", "ä"]
)
def test_a_path_that_could_mean_something_else_is_refused(path: str) -> None:
    with pytest.raises(NativeLinkError) as raised:
        tree_key(path)
    assert raised.value.code is Code.INVALID_ARGUMENT
