"""Digests as people paste them."""

import pytest

from nativelink.client.digests import digest_text, parse_digest
from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        f"{HASH}-12",
        f"{HASH}/12",
        f"{HASH}:12",
        f" {HASH}/12\n",
        f"{HASH.upper()}/12",
        f"blobs/{HASH}/12",
        f"main/blobs/blake3/{HASH}/12",
        f"bytestream://farm.example:8980/some/instance/blobs/{HASH}/12",
        f"main/uploads/11111111-1111-1111-1111-111111111111/blobs/{HASH}/12",
        f"compressed-blobs/zstd/{HASH}/12",
    ],
)
def test_every_form_is_understood(text: str):
    assert parse_digest(text) == Digest(HASH, 12)
    assert parse_digest(digest_text(parse_digest(text))) == Digest(HASH, 12)


@pytest.mark.parametrize(
    "text",
    [
        "", HASH, f"{HASH[:-1]}/12", f"{HASH}0/12", f"{HASH}/", f"{HASH}/-1", f"{HASH}/1.5",
        f"{HASH}/{2**63}", f"{HASH}/12/13", f"other/{HASH}/12", f"blobs/md5/{HASH}/12",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str):
    with pytest.raises(NativeLinkError) as refused:
        parse_digest(text)
    assert refused.value.code is Code.INVALID_ARGUMENT
