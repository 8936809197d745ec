from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.resource_name import ResourceName, parse_resource_name

H = "0123456789abcdef" * 4
DIGEST = Digest(H, 42)


def name(
    instance: str = "",
    uuid: str = "",
    compressor: str = "identity",
    function: DigestFunction | None = None,
    digest: Digest = DIGEST,
) -> ResourceName:
    return ResourceName(instance, uuid, compressor, function, digest)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"blobs/{H}/42", name()),
        (f"/blobs/{H}/42", name()),
        (f"main/blobs/{H}/42", name("main")),
        (f"a/b/c/blobs/{H}/42", name("a/b/c")),
        (f"blobs/{H.upper()}/42", name()),
        (f"blobs/{H}/0", name(digest=Digest(H, 0))),
        (f"blobs/sha256/{H}/42", name(function=DigestFunction.SHA256)),
        (f"i/blobs/blake3/{H}/42", name("i", function=DigestFunction.BLAKE3)),
        (f"uploads/u-1/blobs/{H}/42", name(uuid="u-1")),
        (f"/uploads/u-1/blobs/{H}/42", name(uuid="u-1")),
        (f"a/b/uploads/u-1/blobs/{H}/42", name("a/b", "u-1")),
        (f"uploads/u-1/blobs/blake3/{H}/42/x", name(uuid="u-1", function=DigestFunction.BLAKE3)),
        (f"i/uploads/u/blobs/{H}/42/name.txt", name("i", "u")),
        (f"i/uploads/u/blobs/{H}/42/a/blobs/b", name("i", "u")),
        (f"i/compressed-blobs/zstd/{H}/42", name("i", compressor="zstd")),
        (f"compressed-blobs/identity/{H}/42", name()),
        (f"uploads/u/compressed-blobs/zstd/blake3/{H}/42", None),
        # Instance names with our own words in them: the right-most match counts.
        (f"blobs/blobs/{H}/42", name("blobs")),
        (f"blobs/{H}/7/blobs/{H}/42", name(f"blobs/{H}/7")),
        (f"uploads/uploads/u/blobs/{H}/42", name("uploads", "u")),
        (f"uploads/x/uploads/u/blobs/{H}/42", name("uploads/x", "u")),
        (f"uploads/blobs/{H}/42", name("uploads")),
    ],
)
def test_a_resource_name_is_taken_apart(text: str, expected: ResourceName | None) -> None:
    expected = expected or name("", "u", "zstd", DigestFunction.BLAKE3)
    assert parse_resource_name(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "malformed resource name"),
        ("blobs", "malformed resource name"),
        (f"{H}/42", "malformed resource name"),
        (f"blob/{H}/42", "malformed resource name"),
        (f"blobs/{H}", "malformed resource name"),
        (f"xblobs/{H}/42", "malformed resource name"),
        (f"blobs/{H[1:]}/42", "malformed digest"),
        (f"blobs/{H}0/42", "malformed digest"),
        (f"blobs/{H}/-1", "malformed digest"),
        (f"blobs/{'g' * 64}/1", "malformed digest"),
        (f"blobs/{H}/99999999999999999999", "malformed digest"),
        (f"blobs/{H}/9999999999999999999", "malformed digest size"),
        (f"blobs/{H}/4x", "malformed resource name"),
        (f"blobs/{H}/\u0664", "malformed resource name"),
        (f"blobs/sha1/{H}/42", "'sha1' is not supported; sha256 and blake3 are"),
        (f"i/uploads//blobs/{H}/42", "empty upload UUID"),
        ("x" * 4097, "too long"),
    ],
)
def test_a_malformed_name_says_why(text: str, why: str) -> None:
    with pytest.raises(NativeLinkError, match=why) as raised:
        parse_resource_name(text)
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert len(raised.value.message) < 700


@given(st.text("abc/blobsupd-", max_size=30), st.text("abcdef-0123456789", min_size=1))
def test_any_instance_name_comes_back_from_an_uploads_name(instance: str, uuid: str) -> None:
    instance = instance.strip("/")
    prefix = f"{instance}/" if instance else ""
    assert parse_resource_name(f"{prefix}uploads/{uuid}/blobs/{H}/42") == name(instance, uuid)


@given(st.text(max_size=200))
def test_any_text_is_a_name_or_an_invalid_argument(text: str) -> None:
    try:
        parse_resource_name(text)
    except NativeLinkError as error:
        assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017 - either outcome is right
