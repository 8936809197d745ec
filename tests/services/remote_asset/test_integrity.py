"""Checksums as Subresource Integrity writes them."""

import base64
import hashlib

import blake3
import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.remote_asset.integrity import parse_integrity


def sri(algorithm: str, data: bytes) -> str:
    raw = blake3.blake3(data).digest() if algorithm == "blake3" else None
    raw = hashlib.new(algorithm, data).digest() if raw is None else raw
    return f"{algorithm}-{base64.b64encode(raw).decode()}"


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512", "blake3"])
def test_one_hash_is_read(algorithm: str) -> None:
    integrity = parse_integrity(f"  {sri(algorithm, b'x')}?option  ")

    assert integrity.algorithm == algorithm
    assert integrity.hashes == {base64.b64decode(sri(algorithm, b"x").partition("-")[2]).hex()}


def test_the_strongest_kind_counts_and_any_hash_of_it() -> None:
    # W3C Subresource Integrity, section 3.3.4.
    text = " ".join(
        [sri("sha256", b"a"), sri("sha512", b"b"), sri("sha384", b"c"), sri("sha512", b"d")]
    )

    integrity = parse_integrity(text)

    assert integrity.algorithm == "sha512"
    assert integrity.hashes == {hashlib.sha512(data).hexdigest() for data in (b"b", b"d")}


@pytest.mark.parametrize(
    "text",
    ["", " ", "sha256", "sha256-", "md5-1B2M2Y8AsgTpgAmY7PhCfg==",
     "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha256-AAAA", "sha256-not base64", "SHA256-x",
     "sha512-" + "A" * 88 + "=",
     sri("sha256", b"x") + " future-" + "A" * 88],
)  # fmt: skip
def test_what_is_not_understood_is_no_checksum(text: str) -> None:
    with pytest.raises(NativeLinkError, match=r"checksum\.sri") as raised:
        parse_integrity(text)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_a_digest_of_the_same_function_tells_whether_it_is_another_blob() -> None:
    sha256, blake = DigestFunction.SHA256, DigestFunction.BLAKE3
    integrity = parse_integrity(sri("sha256", b"x"))

    assert not integrity.excludes(sha256.digest_of(b"x"), sha256)
    assert integrity.excludes(sha256.digest_of(b"y"), sha256)
    # Nothing is known of a blob that another function named.
    assert not integrity.excludes(blake.digest_of(b"y"), blake)
    assert parse_integrity(sri("blake3", b"x")).excludes(blake.digest_of(b"y"), blake)
