"""Fetch: what a URI leads to (build.bazel.remote.asset.v1.Fetch).

What was pushed, or downloaded before, is found in the index; whatever it refers to must still be
in the CAS. What is not known is downloaded where the operator allows it, and a directory may be
had from an archive, or be a part of a larger one. Failures outside of this server are told in the
response's status, as the API asks; the call itself succeeds then. (Only clients that would take it
for a success get an error instead: `status_readers.py`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias, TypeVar

from nativelink.core.clock import Clock
from nativelink.core.digest import Digest, DigestFunction, digest_function
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    invalid_argument,
    resource_exhausted,
)
from nativelink.core.rpc import CallContext, Method, Reply
from nativelink.proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as pb
from nativelink.proto.google.protobuf import timestamp_pb2
from nativelink.services.digest_functions import use_digest_function
from nativelink.services.instances import Instances
from nativelink.services.methods import method, service
from nativelink.services.remote_asset.directories import (
    Directories,
    parse_path,
    part_of,
)
from nativelink.services.remote_asset.downloads import Download, Downloads, Refused
from nativelink.services.remote_asset.index import Asset, AssetIndex, Kind
from nativelink.services.remote_asset.presence import is_complete
from nativelink.services.remote_asset.qualifiers import Query, essential, parse_qualifiers
from nativelink.services.remote_asset.status_readers import code_for_call, reads_status
from nativelink.stores.remote.messages import digest_message
from nativelink.stores.store import Store
from nativelink.stores.wrap.verdicts import Verdicts

__all__ = ["FetchInstance", "FetchRecorder", "FetchService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Fetch")
#: Beginnings of URIs that a download may be tried of.
_DOWNLOADED: Final = ("http://", "https://")

_Request: TypeAlias = pb.FetchBlobRequest | pb.FetchDirectoryRequest
_Response = TypeVar("_Response", pb.FetchBlobResponse, pb.FetchDirectoryResponse)


class FetchRecorder(Protocol):
    """Hears how fetches ended."""

    def fetched(self, kind: str, result: str, /) -> None:
        """One was answered; `result` is `known`, `downloaded`, `unpacked` or the name of a code."""
        ...


@dataclass(frozen=True, slots=True)
class FetchInstance:
    """One instance.

    Attributes:
        index: what is known.
        cas: must still have what is found; None if this server does not know it.
        downloads: for blobs that are not known; None: nothing is downloaded.
        directories: for archives; None: directories are not made of any.
        trees: which directories were found with all that is in them a short while ago; None:
            they are looked at each time.
    """

    index: AssetIndex
    cas: Store | None = None
    downloads: Downloads | None = None
    directories: Directories | None = None
    trees: Verdicts | None = None


class FetchService:
    """Tells clients what URIs lead to, for several instances.

    Args:
        instances: by name.
        clock: says what has expired.
        default_function: the digest function of requests that name none.
        recorder: hears how fetches ended.
    """

    def __init__(
        self,
        instances: Mapping[str, FetchInstance],
        *,
        clock: Clock,
        default_function: DigestFunction = DigestFunction.SHA256,
        recorder: FetchRecorder | None = None,
    ) -> None:
        self._instances = Instances("fetch service", instances)
        self._clock = clock
        self._default_function = default_function
        self._recorder = recorder

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [
            method(_SERVICE, "FetchBlob", self._fetch_blob),
            method(_SERVICE, "FetchDirectory", self._fetch_directory),
        ]

    async def _fetch_blob(self, request: pb.FetchBlobRequest, context: CallContext) -> Reply:
        outcome = await self._fetch(Kind.BLOB, request)
        if isinstance(outcome, Refused) and not reads_status(context):
            raise NativeLinkError(code_for_call(outcome.code), outcome.message)
        response = self._response(pb.FetchBlobResponse(), outcome)
        if not isinstance(outcome, Refused):
            response.blob_digest.CopyFrom(digest_message(outcome.digest))
        return response

    async def _fetch_directory(
        self, request: pb.FetchDirectoryRequest, _context: CallContext
    ) -> Reply:
        outcome = await self._fetch(Kind.DIRECTORY, request)
        response = self._response(pb.FetchDirectoryResponse(), outcome)
        if not isinstance(outcome, Refused):
            response.root_directory_digest.CopyFrom(digest_message(outcome.digest))
        return response

    async def _fetch(self, kind: Kind, request: _Request) -> Asset | Refused:
        instance = self._instances.get(request.instance_name)
        use_digest_function(request.digest_function, self._default_function)
        question = _Question(
            kind,
            parse_qualifiers(request.uris, request.qualifiers),
            digest_function.get() or self._default_function,
            _seconds(request.oldest_content_accepted),
            _timeout_s(request),
        )
        outcome, result = await self._asset(instance, question)
        if isinstance(outcome, Refused):
            result = outcome.code.name.lower()
        if self._recorder is not None:
            self._recorder.fetched(kind, result)
        return outcome

    async def _asset(
        self, instance: FetchInstance, question: _Question
    ) -> tuple[Asset | Refused, str]:
        """What is asked for, and how it was had."""
        known = await self._known(instance, question)
        if known is not None:
            return known, "known"
        if question.kind is Kind.DIRECTORY and instance.cas is not None:
            return await self._directory(instance, instance.cas, question)
        return await _download(instance, question), "downloaded"

    async def _directory(
        self, instance: FetchInstance, cas: Store, question: _Question
    ) -> tuple[Asset | Refused, str]:
        """A directory that nobody pushed: an archive's, or a part of another one."""
        query = question.query
        if len(query.directories) > 1:
            raise invalid_argument("the qualifier directory was given more than once")
        names = [name for value in query.directories for name in parse_path(value)]
        whole = replace(question, query=query.whole)
        found: Asset | Refused | None = None
        made, result = None, "known"
        if query.directories:
            found = await self._known(instance, whole)
        if found is None:
            found, result = await self._unpacked(instance, whole)
            made = instance.directories
        if isinstance(found, Refused):
            return found, result
        part = await part_of(cas, found.digest, names)
        if part is None:
            missing = f"{found.uri} has no directory {query.directories[0][:200]!r}"
            return Refused(found.uri, Code.NOT_FOUND, missing), result
        # What was pushed is as somebody wanted it.
        if made is not None and names and (error := await made.escape(cas, part)) is not None:
            message = (
                f"{found.uri} can be had as a whole, but its directory "
                f"{query.directories[0][:200]!r} cannot by itself: {error.message}"
            )
            return Refused(found.uri, error.code, message), result
        return replace(found, digest=part, qualifiers=query.given), result

    async def _unpacked(
        self, instance: FetchInstance, question: _Question
    ) -> tuple[Asset | Refused, str]:
        """The directory that an archive unpacks to."""
        if instance.directories is None:
            return Refused(question.query.uris[0], Code.NOT_FOUND, _unknown(question)), ""
        started = self._clock.monotonic()
        archive, result = await self._asset(
            instance, replace(question, kind=Kind.BLOB, to_unpack=True)
        )
        if isinstance(archive, Refused):
            return archive, result
        for wanted in question.query.resource_types:
            if not await instance.directories.are_of(archive.digest, wanted):
                message = f"what {archive.uri} leads to is not of the type {wanted[:80]!r}"
                return Refused(archive.uri, Code.ABORTED, message), result
        root = await instance.directories.find(archive.digest, question.function)
        if root is not None:
            asset = replace(archive, digest=root)
            if await _is_there(instance, Kind.DIRECTORY, asset):
                return asset, result
        left = question.timeout_s
        if left is not None:
            left = max(0.0, left - (self._clock.monotonic() - started))
        outcome = await instance.directories.unpack(archive, question.function, timeout_s=left)
        if isinstance(outcome, Refused):
            return outcome, result
        asset = replace(archive, digest=outcome)
        if not await _is_there(instance, Kind.DIRECTORY, asset):
            raise resource_exhausted(
                f"what {archive.digest} unpacks to did not stay in the CAS: it is too small"
            )
        return asset, "unpacked" if result == "known" else result

    async def _known(self, instance: FetchInstance, question: _Question) -> Asset | None:
        """The first that is known, and of use, of what is asked for."""
        now = self._clock.time()
        query, function = question.query, question.function
        for uri in query.uris:
            for asset in await instance.index.find(question.kind, uri, query.identities):
                if (
                    (asset.function or self._default_function) is function
                    and (asset.expires_at is None or now < _seconds(asset.expires_at))
                    and _is_young(asset, question.oldest)
                    and not _contradicts(query, question.kind, asset.digest, function)
                    and await _is_there(instance, question.kind, asset)
                ):
                    return asset
        return None

    def _response(self, response: _Response, outcome: Asset | Refused) -> _Response:
        """What responses of both kinds have in common."""
        response.status.SetInParent()
        response.uri = outcome.uri
        if isinstance(outcome, Refused):
            response.status.code = outcome.code
            response.status.message = outcome.message
            return response
        function = digest_function.get() or self._default_function
        response.digest_function = int(function)  # type: ignore[assignment]  # its enum's number
        if outcome.expires_at is not None:
            response.expires_at.CopyFrom(outcome.expires_at)
        # Without request headers, which may be secrets, and tell nobody what the contents are.
        response.qualifiers.extend(
            pb.Qualifier(name=name, value=value) for name, value in essential(outcome.qualifiers)
        )
        return response


@dataclass(frozen=True, slots=True)
class _Question:
    """What a request asks for.

    Attributes:
        kind: of asset.
        query: URIs and qualifiers.
        function: of the digest that is wanted.
        oldest: contents of before that will not do: seconds since the epoch.
        timeout_s: for a download; None if the request does not say.
        to_unpack: whether the blob is wanted for the directory in it.
    """

    kind: Kind
    query: Query
    function: DigestFunction
    oldest: float
    timeout_s: float | None
    to_unpack: bool = False


async def _download(instance: FetchInstance, question: _Question) -> Asset | Refused:
    query = question.query
    web = [at for at, uri in enumerate(query.uris) if uri[:8].lower().startswith(_DOWNLOADED)]
    if question.kind is not Kind.BLOB or instance.downloads is None or not web:
        what = _unknown(question)
        if question.kind is Kind.BLOB and web:
            what += ", and this server downloads nothing"
        return Refused(query.uris[0], Code.NOT_FOUND, what)
    query.require_downloadable()
    headers = query.headers()
    outcome = await instance.downloads.fetch(
        Download(
            tuple((query.uris[at], headers[at]) for at in web),
            query.essential,
            query.checksums,
            question.function,
        ),
        timeout_s=question.timeout_s,
        not_before=question.oldest,
    )
    if isinstance(outcome, Refused):
        return outcome
    return Asset(outcome.uri, query.essential, outcome.digest, question.function)


def _contradicts(query: Query, kind: Kind, digest: Digest, function: DigestFunction) -> bool:
    """Whether a blob is not the one that a checksum is asked for of, as far as its name tells.

    The checksum of a directory is of the archive that it was made of.
    """
    return kind is Kind.BLOB and any(each.excludes(digest, function) for each in query.checksums)


def _unknown(question: _Question) -> str:
    """Says what is not known here, without values of qualifiers: they may be secrets."""
    query = question.query
    kind = "directory or archive" if question.to_unpack else question.kind.value
    what = f"no {kind} is known here for {query.uris[0][:500]!r}"
    if len(query.uris) > 1:
        what += f" and {len(query.uris) - 1} more"
    if query.given:
        names = dict.fromkeys(name for name, _ in query.given)
        what += f" with exactly the qualifiers {', '.join(list(names)[:8])}"
    return what


def _timeout_s(request: _Request) -> float | None:
    """How long a client wants a download to take; 0 leaves it to the server.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for less.
    """
    timeout_s = request.timeout.ToNanoseconds() / 1e9
    if timeout_s < 0:
        raise invalid_argument(f"timeout is {timeout_s:g} s; it cannot be negative")
    return timeout_s or None


def _is_young(asset: Asset, oldest: float) -> bool:
    """Whether contents are not older than a client accepts; nobody knows of NativeLink's."""
    return not oldest or (asset.content_time is not None and asset.content_time >= oldest)


async def _is_there(instance: FetchInstance, kind: Kind, asset: Asset) -> bool:
    cas = instance.cas
    if cas is None:
        return True
    directories, blobs = asset.references_directories, asset.references_blobs
    if kind is Kind.DIRECTORY:
        directories = (asset.digest, *directories)
    else:
        blobs = (asset.digest, *blobs)
    return await is_complete(cas, blobs=blobs, directories=directories, verdicts=instance.trees)


def _seconds(timestamp: timestamp_pb2.Timestamp) -> float:
    """Since the epoch; 0 for one that is not set."""
    return timestamp.ToNanoseconds() / 1e9
