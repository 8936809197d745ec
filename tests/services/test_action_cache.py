from __future__ import annotations

from typing import Any

import pytest

from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.core.errors import Code, NativeLinkError, missing_blob
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.action_cache import ActionCacheInstance, ActionCacheService
from nativelink.stores.store import DelegatingStore, write_bytes
from nativelink.testing.calls import Caller, digest_message
from nativelink.testing.fakes import DictStore

SHA256 = DigestFunction.SHA256
ACTION = SHA256.digest_of(b"an action")
OUT, ERR, FILE, OTHER = b"standard output", b"standard error", b"a file", b"another file"


class Server:
    """A service with a CAS of its own, and a read-only one without."""

    def __init__(self, **settings: int) -> None:
        self.results = DictStore()
        self.cas = DictStore()
        self._caller = Caller(
            ActionCacheService(
                {
                    "": ActionCacheInstance(self.results, cas=self.cas),
                    "read/only": ActionCacheInstance(self.results, read_only=True),
                },
                **settings,
            ).methods()
        )

    async def get(self, digest: Digest = ACTION, **fields: Any) -> pb.ActionResult:
        request = pb.GetActionResultRequest(action_digest=digest_message(digest), **fields)
        return await self._caller.unary("GetActionResult", request, pb.ActionResult)

    async def update(
        self, result: pb.ActionResult | None, digest: Digest = ACTION, **fields: Any
    ) -> pb.ActionResult:
        request = pb.UpdateActionResultRequest(
            action_digest=digest_message(digest), action_result=result, **fields
        )
        return await self._caller.unary("UpdateActionResult", request, pb.ActionResult)

    async def store_outputs(self) -> pb.ActionResult:
        """A result whose outputs are in the CAS."""
        for blob in (OUT, ERR, FILE, OTHER):
            await write_bytes(self.cas, SHA256.digest_of(blob), blob)
        result = pb.ActionResult(
            stdout_digest=message(OUT),
            stderr_digest=message(ERR),
            output_files=[
                pb.OutputFile(path="a", digest=message(FILE)),
                pb.OutputFile(path="b", digest=message(OTHER)),
            ],
        )
        await self.update(result)
        return result


def message(data: bytes) -> pb.Digest:
    return digest_message(SHA256.digest_of(data))


@pytest.fixture
def server() -> Server:
    return Server()


def code_of(raised: pytest.ExceptionInfo[NativeLinkError]) -> Code:
    return raised.value.code


class TestGetActionResult:
    async def test_a_result_comes_back_as_the_bytes_that_are_stored(self, server: Server) -> None:
        # Two fields in another order than protobuf writes them, and one that nobody knows.
        stored = b"\x42\x00" + b"\x20\x07" + b"\xfa\x7f\x03abc"
        await write_bytes(server.results, ACTION, stored)
        method = ActionCacheService({"": ActionCacheInstance(server.results)}).methods()[0]
        request = pb.GetActionResultRequest(action_digest=digest_message(ACTION))
        assert await method.handler(request, None) == stored

    async def test_a_result_that_is_not_there_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="no result is cached") as raised:
            await server.get()
        assert code_of(raised) is Code.NOT_FOUND
        assert not raised.value.details

    async def test_a_store_may_say_why_there_is_no_result(self) -> None:
        class IncompleteStore(DelegatingStore):
            async def get(
                self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
            ) -> None:
                raise missing_blob(SHA256.digest_of(FILE))

        service = ActionCacheService({"": ActionCacheInstance(IncompleteStore(DictStore()))})
        request = pb.GetActionResultRequest(action_digest=digest_message(ACTION))
        with pytest.raises(NativeLinkError, match=str(SHA256.digest_of(FILE))):
            await Caller(service.methods()).unary("GetActionResult", request, pb.ActionResult)

    async def test_what_is_no_result_is_not_found_and_logged(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        await write_bytes(server.results, ACTION, b"\xff\xff")
        with pytest.raises(NativeLinkError, match="no ActionResult") as raised:
            await server.get()
        assert code_of(raised) is Code.NOT_FOUND
        assert str(ACTION) in caplog.text

    @pytest.mark.parametrize("function", DigestFunction)
    async def test_the_empty_action_has_no_result(
        self, server: Server, function: DigestFunction
    ) -> None:
        with pytest.raises(NativeLinkError, match="no Action") as raised:
            await server.get(function.digest_of(b""))
        assert code_of(raised) is Code.NOT_FOUND

    async def test_an_unknown_instance_is_not_found(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="instances: '', 'read/only'") as raised:
            await server.get(instance_name="x")
        assert code_of(raised) is Code.NOT_FOUND

    async def test_a_malformed_digest_is_an_invalid_argument(self, server: Server) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.get(Digest("abc", 1))
        assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_nothing_is_inlined_unasked(self, server: Server) -> None:
        result = await server.store_outputs()
        assert await server.get() == result

    async def test_what_is_asked_for_is_inlined(self, server: Server) -> None:
        await server.store_outputs()
        result = await server.get(
            inline_stdout=True, inline_stderr=True, inline_output_files=["b", "elsewhere"]
        )
        assert (result.stdout_raw, result.stderr_raw) == (OUT, ERR)
        assert [file.contents for file in result.output_files] == [b"", OTHER]
        assert result.stdout_digest == message(OUT)

    async def test_what_is_inlined_already_is_not_read(self, server: Server) -> None:
        result = await server.store_outputs()
        result.stdout_raw = b"as it was uploaded"
        await server.update(result)
        assert (await server.get(inline_stdout=True)).stdout_raw == b"as it was uploaded"

    async def test_what_is_missing_is_not_inlined(self, server: Server) -> None:
        await server.store_outputs()
        server.cas.remove(SHA256.digest_of(OUT))
        result = await server.get(inline_stdout=True, inline_stderr=True)
        assert (result.stdout_raw, result.stderr_raw) == (b"", ERR)

    async def test_what_is_cut_off_is_not_inlined(self, server: Server) -> None:
        await server.store_outputs()
        server.cas.blobs[SHA256.digest_of(OUT)] = OUT[:-1]
        result = await server.get(inline_stdout=True, inline_stderr=True)
        assert (result.stdout_raw, result.stderr_raw) == (b"", ERR)

    async def test_a_result_that_names_something_odd_is_found_all_the_same(
        self, server: Server
    ) -> None:
        stored = await server.store_outputs()
        stored.stdout_digest.hash = "not a hash"
        server.results.blobs[ACTION] = stored.SerializeToString()
        result = await server.get(inline_stdout=True, inline_stderr=True)
        assert (result.stdout_raw, result.stderr_raw) == (b"", ERR)

    async def test_what_does_not_fit_is_not_inlined(self) -> None:
        size = len((await Server().store_outputs()).SerializeToString())
        server = Server(max_inlined_bytes=size + len(OUT) + len(FILE))
        await server.store_outputs()
        result = await server.get(
            inline_stdout=True, inline_stderr=True, inline_output_files=["a", "b"]
        )
        assert (result.stdout_raw, result.stderr_raw) == (OUT, b"")
        assert [file.contents for file in result.output_files] == [FILE, b""]

    async def test_an_instance_without_a_cas_inlines_nothing(self, server: Server) -> None:
        await server.store_outputs()
        result = await server.get(instance_name="read/only", inline_stdout=True)
        assert not result.stdout_raw


class TestUpdateActionResult:
    async def test_a_result_is_stored_and_echoed(self, server: Server) -> None:
        result = pb.ActionResult(exit_code=3, stdout_raw=b"out")
        assert await server.update(result) == result
        assert server.results.blobs == {ACTION: result.SerializeToString()}
        assert await server.get() == result

    async def test_fields_that_nobody_knows_are_kept(self, server: Server) -> None:
        unknown = b"\xfa\x7f\x03abc"
        result = pb.ActionResult.FromString(b"\x20\x07" + unknown)
        await server.update(result)
        assert server.results.blobs == {ACTION: b"\x20\x07" + unknown}

    async def test_a_result_that_nobody_could_read_back_is_refused(self, server: Server) -> None:
        largest = pb.ActionResult(stdout_raw=bytes(10 * 2**20 - 100))
        await server.update(largest)
        assert await server.get() == largest
        with pytest.raises(NativeLinkError, match="10485760 are allowed") as raised:
            await server.update(pb.ActionResult(stdout_raw=bytes(10 * 2**20)))
        assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_a_read_only_instance_refuses(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="'read/only' is read-only") as raised:
            await server.update(pb.ActionResult(), instance_name="read/only")
        assert code_of(raised) is Code.PERMISSION_DENIED
        assert not server.results.blobs

    @pytest.mark.parametrize(
        "result",
        [
            None,
            pb.ActionResult(output_files=[pb.OutputFile(path="a")]),
            pb.ActionResult(output_files=[pb.OutputFile(path="a", digest=pb.Digest(hash="x"))]),
            pb.ActionResult(stdout_digest=pb.Digest(hash="x")),
            pb.ActionResult(stderr_digest=pb.Digest(size_bytes=-1)),
            pb.ActionResult(
                output_directories=[pb.OutputDirectory(tree_digest=pb.Digest(hash="x"))]
            ),
            pb.ActionResult(
                output_directories=[pb.OutputDirectory(root_directory_digest=pb.Digest(hash="x"))]
            ),
        ],
    )
    async def test_a_result_that_no_client_could_use_is_refused(
        self, server: Server, result: pb.ActionResult | None
    ) -> None:
        with pytest.raises(NativeLinkError) as raised:
            await server.update(result)
        assert code_of(raised) is Code.INVALID_ARGUMENT
        assert not server.results.blobs

    async def test_empty_digests_of_streams_are_accepted(self, server: Server) -> None:
        result = pb.ActionResult(stdout_digest=pb.Digest(), stderr_digest=pb.Digest())
        assert await server.update(result) == result

    async def test_the_empty_action_is_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="no Action is empty") as raised:
            await server.update(pb.ActionResult(), SHA256.digest_of(b""))
        assert code_of(raised) is Code.INVALID_ARGUMENT

    async def test_other_digest_functions_are_refused(self, server: Server) -> None:
        with pytest.raises(NativeLinkError, match="MD5 is not supported"):
            await server.update(pb.ActionResult(), digest_function=pb.DigestFunction.MD5)
