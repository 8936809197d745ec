"""Push: a client says what URIs lead to (build.bazel.remote.asset.v1.Push)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nativelink.core.digest import Digest, DigestFunction, digest_function, digests_of
from nativelink.core.errors import (
    MissingBlob,
    failed_precondition,
    invalid_argument,
    permission_denied,
)
from nativelink.core.rpc import CallContext, Method, Reply
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.instances import Instances
from nativelink.services.methods import method, service
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.services.remote_asset.qualifiers import Query, parse_qualifiers
from nativelink.stores.store import Store

__all__ = ["PushInstance", "PushService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Push")
#: An error names no more than that many.
_MAX_NAMED: Final = 100

_Request: TypeAlias = pb.PushBlobRequest | pb.PushDirectoryRequest


@dataclass(frozen=True, slots=True)
class PushInstance:
    """One instance.

    Attributes:
        index: takes what is pushed.
        read_only: refuse everything.
        cas: must have what is named; None if this server does not know.
    """

    index: AssetIndex
    read_only: bool = False
    cas: Store | None = None


class PushService:
    """Takes what clients know about assets, for several instances.

    Args:
        instances: by name.
        default_function: the digest function of requests that name none.
    """

    def __init__(
        self,
        instances: Mapping[str, PushInstance],
        *,
        default_function: DigestFunction = DigestFunction.SHA256,
    ) -> None:
        self._instances = Instances("push service", instances)
        self._default_function = default_function

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "PushBlob", self._push_blob),
            method(_SERVICE, "PushDirectory", self._push_directory),
        ]

    async def _push_blob(self, request: pb.PushBlobRequest, _context: CallContext) -> Reply:
        await self._push(Kind.BLOB, request, request.blob_digest)
        return pb.PushBlobResponse()

    async def _push_directory(
        self, request: pb.PushDirectoryRequest, _context: CallContext
    ) -> Reply:
        await self._push(Kind.DIRECTORY, request, request.root_directory_digest)
        return pb.PushDirectoryResponse()

    async def _push(self, kind: Kind, request: _Request, message: reapi.Digest) -> None:
        instance = self._instances.get(request.instance_name)
        if instance.read_only:
            raise permission_denied(
                f"the assets of instance {request.instance_name!r} are read-only here"
            )
        use_digest_function(request.digest_function, self._default_function)
        function = digest_function.get() or self._default_function
        query = parse_qualifiers(request.uris, request.qualifiers)
        digest = Digest.parse(message.hash, message.size_bytes)
        if kind is Kind.BLOB:
            _check(query, digest, function)
        blobs = tuple(digests_of(request.references_blobs))
        directories = tuple(digests_of(request.references_directories))
        if instance.cas is not None:
            await _require(instance.cas, (digest, *blobs, *directories), function)
        await instance.index.store(
            kind,
            [
                Asset(
                    uri=uri,
                    qualifiers=query.given,
                    digest=digest,
                    function=function if request.digest_function else None,
                    expires_at=request.expire_at if request.HasField("expire_at") else None,
                    references_blobs=blobs,
                    references_directories=directories,
                )
                for uri in dict.fromkeys(query.uris)
            ],
        )


def _check(query: Query, digest: Digest, function: DigestFunction) -> None:
    """Refuse a checksum that the blob's own name contradicts."""
    for checksum in query.checksums:
        if checksum.excludes(digest, function):
            raise invalid_argument(
                f"blob {digest} cannot be pushed as one whose checksum.sri is {checksum}"
            )


async def _require(cas: Store, digests: Iterable[Digest], function: DigestFunction) -> None:
    """Return if the CAS has what a client says that it has stored (Push service)."""
    named = list(dict.fromkeys(digests))
    found = await cas.has(named)
    missing = [each for each, size in zip(named, found, strict=True) if size is None]
    if missing:
        raise failed_precondition(
            f"{len(missing)} of {len(named)} blobs that were named are not in the CAS, "
            f"{missing[0]} for one",
            details=[MissingBlob(each, function.segment) for each in missing[:_MAX_NAMED]],
        )
