"""One instance of the HTTP cache: its stores, and how what URLs name is found in them."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from nativelink.core.digest import (
    Digest,
    DigestFunction,
    StoreKey,
    digest_function,
    is_empty,
)
from nativelink.core.errors import permission_denied
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpSink
from nativelink.core.streams import BytesSink, BytesSource, Source, drain
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.action_cache import MAX_RESULT_BYTES
from nativelink.services.http.answers import Value, answer_value
from nativelink.services.http.bodies import measured, plain_body
from nativelink.services.http.known_digests import KnownDigests
from nativelink.services.http.names import HashName, raw_key, tree_key
from nativelink.services.http.refusal import RefusedError
from nativelink.stores.store import BlobFinder, Store, has_one, write_bytes

__all__ = ["HttpCacheInstance"]

_STORED = HttpResponse(200)


class HttpCacheInstance:
    """What the paths below one prefix are served from.

    Args:
        name: of the instance, for messages.
        ac: where entries are: results of actions, and whatever else clients put.
        cas: where blobs are, which refuses bytes that do not have the hash of their name; None:
            no `/cas/` here.
        ac_finder: finds digests in `ac` by their hashes, if that store can.
        cas_finder: the same of `cas`.
        read_only: refuse whatever is put.
        default_function: the digest function of URLs that name none.
    """

    def __init__(
        self,
        name: str,
        ac: Store,
        cas: Store | None = None,
        *,
        ac_finder: BlobFinder | None = None,
        cas_finder: BlobFinder | None = None,
        read_only: bool = False,
        default_function: DigestFunction = DigestFunction.SHA256,
    ) -> None:
        self._name = name
        self._ac = ac
        self._cas = cas
        self._ac_finder = ac_finder
        self._digests = KnownDigests(ac, cas_finder)
        self._read_only = read_only
        self._default_function = default_function

    # -- blobs ------------------------------------------------------------------------------

    async def get_blob(
        self, request: HttpRequest, sink: HttpSink, name: HashName
    ) -> HttpResponse | None:
        """Answer GET or HEAD below `/cas/`."""
        cas = self._blobs(name)
        what = f"blob {name.hash}"
        if name.size_bytes is None:
            digest = await self._digests.find(name.hash)
            if digest is None:
                raise RefusedError(404, f"{what} is not here")
        else:
            digest = Digest(name.hash, name.size_bytes)
        return await answer_value(request, sink, Value(cas, (digest,), what, is_blob=True))

    async def put_blob(self, request: HttpRequest, body: Source, name: HashName) -> HttpResponse:
        """Take PUT below `/cas/`: gRPC finds the blob at once.

        Raises:
            NativeLinkError: INVALID_ARGUMENT if the bytes do not have the hash, or the size.
        """
        cas = self._blobs(name)
        self._check_writable()
        source = plain_body(request, body)
        if name.size_bytes is not None and source.size is None:
            await self._put_blob(cas, Digest(name.hash, name.size_bytes), source)
            return _STORED
        async with measured(source) as known:
            assert known.size is not None
            size = known.size if name.size_bytes is None else name.size_bytes
            await self._put_blob(cas, Digest(name.hash, size), known)
        return _STORED

    async def _put_blob(self, cas: Store, digest: Digest, source: Source) -> None:
        if await has_one(cas, digest) is not None:
            # Clients of this protocol cannot ask what is missing, so most of what they send is
            # there already.
            await drain(source)
        else:
            await cas.put(digest, source)
        await self._digests.learn(digest)

    def _blobs(self, name: HashName) -> Store:
        if self._cas is None:
            raise RefusedError(404, f"instance {self._name!r} has no CAS over HTTP")
        self._use_function(name)
        return self._cas

    # -- entries ----------------------------------------------------------------------------

    async def get_entry(
        self, request: HttpRequest, sink: HttpSink, name: HashName
    ) -> HttpResponse | None:
        """Answer GET or HEAD below `/ac/`."""
        self._use_function(name)
        digest = await self._action(name)
        raw = raw_key(name.hash)
        keys: tuple[StoreKey, ...] = (raw,) if digest is None else (digest, raw)
        return await answer_value(request, sink, Value(self._ac, keys, f"entry {name.hash}"))

    async def put_entry(self, request: HttpRequest, body: Source, name: HashName) -> HttpResponse:
        """Take PUT below `/ac/`.

        What is a result of an Action whose digest is known goes where gRPC looks for it. All else
        is kept as it is, under the hash alone.
        """
        self._check_writable()
        self._use_function(name)
        source = plain_body(request, body)
        digest = await self._action(name)
        if digest is None or (source.size or 0) > MAX_RESULT_BYTES:
            await self._ac.put(raw_key(name.hash), source)
            return _STORED
        start = BytesSink()
        while start.size <= MAX_RESULT_BYTES and (chunk := await source.read()):
            await start.write(chunk)
        data = start.getvalue()
        if len(data) > MAX_RESULT_BYTES:
            await self._ac.put(raw_key(name.hash), _Resumed(data, source))
        elif _is_result(data):
            await write_bytes(self._ac, digest, data)
        else:
            await write_bytes(self._ac, raw_key(name.hash), data)
        return _STORED

    async def _action(self, name: HashName) -> Digest | None:
        """The digest of an Action: Bazel uploads it as a blob before its result."""
        found: Digest | None = None
        if name.size_bytes is not None:
            found = Digest(name.hash, name.size_bytes)
        elif self._ac_finder is not None:
            found = await self._ac_finder.find(name.hash)
        if found is None and self._cas is not None:
            found = await self._digests.find(name.hash)
        # No action is empty, and stores have nothing but the empty blob under that digest.
        return None if found is None or is_empty(found) else found

    # -- free paths -------------------------------------------------------------------------

    async def get_path(
        self,
        request: HttpRequest,
        sink: HttpSink,
        path: str,
        headers: dict[str, str] | None = None,
    ) -> HttpResponse | None:
        """Answer GET or HEAD of what was put under a path."""
        value = Value(self._ac, (tree_key(path),), f"entry {path[:200]}", headers=headers or {})
        return await answer_value(request, sink, value)

    async def put_path(self, request: HttpRequest, body: Source, path: str) -> HttpResponse:
        """Keep a body under a path."""
        self._check_writable()
        await self._ac.put(tree_key(path), plain_body(request, body))
        return _STORED

    async def size_of(self, path: str) -> int | None:
        """Bytes of what was put under a path, None if there is nothing."""
        return await has_one(self._ac, tree_key(path))

    async def read_path(self, path: str, max_bytes: int) -> bytes:
        """What was put under a path, in memory.

        Raises:
            NativeLinkError: NOT_FOUND; RESOURCE_EXHAUSTED if there is more.
        """
        sink = BytesSink(max_bytes)
        await self._ac.get(tree_key(path), sink)
        return sink.getvalue()

    async def write_path(self, path: str, data: bytes) -> None:
        """Keep bytes under a path."""
        self._check_writable()
        await self._ac.put(tree_key(path), BytesSource(data))

    def _check_writable(self) -> None:
        if self._read_only:
            raise permission_denied(f"the HTTP cache of instance {self._name!r} is read-only here")

    def _use_function(self, name: HashName) -> None:
        if name.function is not None and name.function is not self._default_function:
            digest_function.set(name.function)


class _Resumed:
    """A source whose start was read already."""

    def __init__(self, start: bytes, rest: Source) -> None:
        self.size = rest.size
        self._start = start
        self._rest = rest

    async def read(self) -> bytes | memoryview:
        start, self._start = self._start, b""
        return start or await self._rest.read()


def _is_result(data: bytes) -> bool:
    try:
        pb.ActionResult.FromString(data)
    except DecodeError:
        return False
    return bool(data)
