"""What is known of assets, in a store: from a URI and its qualifiers to a digest.

A blob's entry has NativeLink's key and bytes (v1.6.6): both programs find what either stored. That
key depends on the order of qualifiers, which the API says nothing about, so an entry is kept under
the order in which it was given, for NativeLink, and under the sorted one, for everybody. It also
puts texts together without marks between them, so that different assets may share a key: what is
read is compared with what was asked for.

What NativeLink has no field for (when, and what else is needed) is a record of its own, under a
key made of the entry's and of the contents' digest: it can only ever belong to these contents.
Directories, which NativeLink does not serve, have keys of other domains.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import blake3
from google.protobuf.message import DecodeError

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, DigestFunction, digests_of
from nativelink.core.eager import run_all
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as api
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.proto.nativelink.v1 import remote_asset_pb2 as stored
from nativelink.services.remote_asset.qualifiers import Qualifiers
from nativelink.stores.remote.messages import digest_message
from nativelink.stores.store import Store, read_bytes, write_bytes

__all__ = ["Asset", "AssetIndex", "Kind", "artifact_key"]

_log: Final = logging.getLogger(__name__)
#: Entries are read whole. Requests that make them are messages of 4 MiB at most.
_MAX_ENTRY_BYTES: Final = 16 * 1024 * 1024
_FUNCTIONS: Final = frozenset(map(int, DigestFunction))
_RECORD_DOMAIN: Final = "nativelink v1 remote asset record"


class Kind(StrEnum):
    """What an asset's digest names."""

    BLOB = "blob"
    DIRECTORY = "directory"
    #: A directory that was made of an archive. Its URI names the archive's contents, and only this
    #: program stores such.
    UNPACKED = "unpacked"


#: Of the keys of what NativeLink does not have.
_DOMAINS: Final = {
    Kind.DIRECTORY: "nativelink v1 remote asset directory",
    # The number grows with the rules for archives, so that what others allowed is not found.
    Kind.UNPACKED: "nativelink v1 remote asset unpacked 2",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """What is known under one URI.

    Attributes:
        uri: from which the contents come.
        qualifiers: as they were given when it was stored.
        digest: a blob, or a directory's root.
        function: made the digest; None if nobody said.
        expires_at: seconds since the epoch at which it is not to be used any more; None: never.
        content_time: when it was pushed, or its download began; None if NativeLink stored it.
        references_blobs: blobs that it is of no use without.
        references_directories: directories that it is of no use without.
    """

    uri: str
    qualifiers: Qualifiers
    digest: Digest
    function: DigestFunction | None = None
    expires_at: timestamp_pb2.Timestamp | None = None
    content_time: float | None = None
    references_blobs: tuple[Digest, ...] = ()
    references_directories: tuple[Digest, ...] = ()


def artifact_key(uri: str, qualifiers: Qualifiers) -> Digest:
    """NativeLink's key of a blob's entry: BLAKE3 of all texts in this order, and their length."""
    data = "".join((uri, *(text for pair in qualifiers for text in pair))).encode()
    return DigestFunction.BLAKE3.digest_of(data)


class AssetIndex:
    """The assets of one store.

    Args:
        store: where they are.
        clock: says when something is stored.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def find(self, kind: Kind, uri: str, identities: Sequence[Qualifiers]) -> Sequence[Asset]:
        """The newest that is known under a URI with each of these sets of qualifiers.

        Newer ones stand first.

        Raises:
            NativeLinkError: what the store raised, other than NOT_FOUND.
        """
        keys = dict.fromkeys(key for each in identities for key in _keys(kind, uri, each))
        wanted = {frozenset(each) for each in identities}
        found = [
            asset
            for asset in await run_all(self._read(key) for key in keys)
            if asset is not None and asset.uri == uri and frozenset(asset.qualifiers) in wanted
        ]
        # What has no record was stored by NativeLink, over what we may have stored before.
        found.sort(
            key=lambda asset: float("inf") if asset.content_time is None else asset.content_time,
            reverse=True,
        )
        newest: dict[frozenset[tuple[str, str]], Asset] = {}
        for asset in found:
            newest.setdefault(frozenset(asset.qualifiers), asset)
        return list(newest.values())

    async def store(self, kind: Kind, assets: Iterable[Asset]) -> None:
        """Store what is known; what was known under the same URI and qualifiers is forgotten.

        Raises:
            NativeLinkError: what the store raised.
        """
        for asset in assets:
            record = _record(asset, self._clock.time()).SerializeToString()
            pairs = dict(_places(kind, asset))
            # A record without its entry says nothing, so that one is stored first.
            await run_all(
                write_bytes(self._store, _record_key(key, asset.digest), record) for key in pairs
            )
            await run_all(
                write_bytes(self._store, key, _artifact(asset, each).SerializeToString())
                for key, each in pairs.items()
            )

    async def _read(self, key: Digest) -> Asset | None:
        data = await self._value(key)
        if data is None:
            return None
        try:
            artifact = stored.RemoteAssetArtifact.FromString(data)
            digest = Digest.parse(artifact.blob_digest.hash, artifact.blob_digest.size_bytes)
            record_data = await self._value(_record_key(key, digest))
            record = None
            if record_data is not None:
                record = stored.RemoteAssetRecord.FromString(record_data)
            return _asset(artifact, digest, record)
        except (DecodeError, NativeLinkError) as error:
            if isinstance(error, NativeLinkError) and error.code is not Code.INVALID_ARGUMENT:
                raise
            _log.warning("what is stored under %s is no asset: %s", key, error)
            return None

    async def _value(self, key: Digest) -> bytes | None:
        try:
            return await read_bytes(self._store, key, max_size=_MAX_ENTRY_BYTES)
        except NativeLinkError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise


def _keys(kind: Kind, uri: str, qualifiers: Qualifiers) -> Iterable[Digest]:
    """Where an asset may be."""
    ordered = _ordered(qualifiers)
    if kind is not Kind.BLOB:
        return (_own_key(kind, uri, ordered),)
    return (artifact_key(uri, qualifiers), artifact_key(uri, ordered))


def _places(kind: Kind, asset: Asset) -> Iterable[tuple[Digest, Qualifiers]]:
    """Where an asset is stored, with the qualifiers in the order in which they stand there."""
    ordered = _ordered(asset.qualifiers)
    if kind is not Kind.BLOB:
        return ((_own_key(kind, asset.uri, ordered), ordered),)
    return (
        (artifact_key(asset.uri, ordered), ordered),
        (artifact_key(asset.uri, asset.qualifiers), asset.qualifiers),
    )


def _ordered(qualifiers: Qualifiers) -> Qualifiers:
    return tuple(sorted(set(qualifiers)))


def _own_key(kind: Kind, uri: str, ordered: Qualifiers) -> Digest:
    return _domain_key(_DOMAINS[kind], uri, *(text for pair in ordered for text in pair))


def _record_key(key: Digest, contents: Digest) -> Digest:
    return _domain_key(_RECORD_DOMAIN, str(key), str(contents))


def _domain_key(domain: str, *texts: str) -> Digest:
    """A key that nothing else can have: each text follows its length."""
    data = b"".join(b"%d:%s" % (len(raw), raw) for raw in (text.encode() for text in texts))
    hasher = blake3.blake3(data, derive_key_context=domain)
    return Digest(hasher.hexdigest(), len(data))


def _artifact(asset: Asset, qualifiers: Qualifiers) -> stored.RemoteAssetArtifact:
    return stored.RemoteAssetArtifact(
        uri=asset.uri,
        qualifiers=[api.Qualifier(name=name, value=value) for name, value in qualifiers],
        blob_digest=digest_message(asset.digest),
        expire_at=asset.expires_at,
        digest_function=None if asset.function is None else asset.function.name,
    )


def _record(asset: Asset, now: float) -> stored.RemoteAssetRecord:
    at = now if asset.content_time is None else asset.content_time
    record = stored.RemoteAssetRecord(
        references_blobs=map(digest_message, asset.references_blobs),
        references_directories=map(digest_message, asset.references_directories),
    )
    record.content_time.FromNanoseconds(int(at * 1e9))
    return record


def _asset(
    artifact: stored.RemoteAssetArtifact, digest: Digest, record: stored.RemoteAssetRecord | None
) -> Asset:
    function = int(artifact.digest_function)
    return Asset(
        uri=artifact.uri,
        qualifiers=tuple((each.name, each.value) for each in artifact.qualifiers),
        digest=digest,
        function=DigestFunction(function) if function in _FUNCTIONS else None,
        expires_at=artifact.expire_at if artifact.HasField("expire_at") else None,
        content_time=None if record is None else record.content_time.ToNanoseconds() / 1e9,
        references_blobs=() if record is None else tuple(digests_of(record.references_blobs)),
        references_directories=(
            () if record is None else tuple(digests_of(record.references_directories))
        ),
    )
