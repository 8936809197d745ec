"""Assets of a server: what URIs lead to, and saying what they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nativelink.client.remote import Remote
from nativelink.client.trees import Kind
from nativelink.core.digest import Digest
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.stores.remote.messages import digest_message

__all__ = ["Asset", "fetch_asset", "push_asset"]

_FETCH = "/build.bazel.remote.asset.v1.Fetch"
_PUSH = "/build.bazel.remote.asset.v1.Push"


@dataclass(frozen=True, slots=True)
class Asset:
    """What a server found.

    Attributes:
        uri: the one that it knows, or that it downloaded from.
        digest: of the blob, or of the root Directory.
        qualifiers: that it knows.
        expires_at: seconds since the epoch until which it knows it; None: it does not say.
    """

    uri: str
    digest: Digest
    qualifiers: tuple[tuple[str, str], ...]
    expires_at: int | None


async def fetch_asset(
    remote: Remote,
    kind: Kind,
    uris: Sequence[str],
    qualifiers: Sequence[tuple[str, str]],
    timeout_s: int,
) -> Asset:
    """What the first of some URIs leads to that the server knows, or can download.

    Raises:
        NativeLinkError: with the code of the response's status; what the call failed with.
    """
    request: pb.FetchBlobRequest | pb.FetchDirectoryRequest
    response: pb.FetchBlobResponse | pb.FetchDirectoryResponse
    if kind is Kind.DIRECTORY:
        request = pb.FetchDirectoryRequest(
            instance_name=remote.instance_name,
            uris=uris,
            qualifiers=_messages(qualifiers),
            digest_function=remote.function.name,
        )
        response = await remote.call(
            f"{_FETCH}/FetchDirectory", request, pb.FetchDirectoryResponse, timeout_s=timeout_s
        )
        digest = response.root_directory_digest
    else:
        request = pb.FetchBlobRequest(
            instance_name=remote.instance_name,
            uris=uris,
            qualifiers=_messages(qualifiers),
            digest_function=remote.function.name,
        )
        response = await remote.call(
            f"{_FETCH}/FetchBlob", request, pb.FetchBlobResponse, timeout_s=timeout_s
        )
        digest = response.blob_digest
    if response.status.code:
        raise NativeLinkError(Code(response.status.code), response.status.message)
    return Asset(
        response.uri,
        Digest.parse(digest.hash, digest.size_bytes),
        tuple((each.name, each.value) for each in response.qualifiers),
        response.expires_at.seconds if response.HasField("expires_at") else None,
    )


async def push_asset(
    remote: Remote,
    kind: Kind,
    digest: Digest,
    uris: Sequence[str],
    qualifiers: Sequence[tuple[str, str]],
    expire_at: int | None,
) -> None:
    """Say that URIs lead to something in the CAS.

    Raises:
        NativeLinkError: what the call failed with.
    """
    message = digest_message(digest)
    if kind is Kind.DIRECTORY:
        directory = pb.PushDirectoryRequest(
            instance_name=remote.instance_name,
            uris=uris,
            qualifiers=_messages(qualifiers),
            root_directory_digest=message,
            digest_function=remote.function.name,
        )
        if expire_at is not None:
            directory.expire_at.FromSeconds(expire_at)
        await remote.call(f"{_PUSH}/PushDirectory", directory, pb.PushDirectoryResponse)
        return
    blob = pb.PushBlobRequest(
        instance_name=remote.instance_name,
        uris=uris,
        qualifiers=_messages(qualifiers),
        blob_digest=message,
        digest_function=remote.function.name,
    )
    if expire_at is not None:
        blob.expire_at.FromSeconds(expire_at)
    await remote.call(f"{_PUSH}/PushBlob", blob, pb.PushBlobResponse)


def _messages(qualifiers: Sequence[tuple[str, str]]) -> list[pb.Qualifier]:
    return [pb.Qualifier(name=name, value=value) for name, value in qualifiers]
