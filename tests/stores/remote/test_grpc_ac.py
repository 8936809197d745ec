"""The grpc store of action results."""

from __future__ import annotations

import socket

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError, unavailable
from nativelink.core.retry import Retry
from nativelink.core.rpc import CallContext, Method
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.stores.store import read_bytes, write_bytes
from nativelink.testing.fakes import DictStore
from tests.stores.remote.upstream import ac_of, serving

ACTION = DigestFunction.SHA256.digest_of(b"an action")
OTHER = DigestFunction.SHA256.digest_of(b"another action")
RESULT = pb.ActionResult(stdout_raw=b"hello", exit_code=1).SerializeToString()


async def no_pause(_: float) -> None:
    return


async def test_a_result_travels_as_the_bytes_that_were_stored() -> None:
    backend = DictStore()
    async with serving(DictStore(), backend) as upstream, ac_of(upstream.address) as store:
        assert await store.has([ACTION, OTHER]) == [None, None]
        assert await write_bytes(store, ACTION, RESULT) == len(RESULT)
        assert backend.blobs == {ACTION: RESULT}
        assert await store.has([OTHER, ACTION]) == [None, len(RESULT)]
        assert await read_bytes(store, ACTION) == RESULT


async def test_what_is_no_result_is_refused_before_it_is_sent() -> None:
    async with serving(DictStore()) as upstream, ac_of(upstream.address) as store:
        with pytest.raises(NativeLinkError, match="no ActionResult") as caught:
            await write_bytes(store, ACTION, b"\xff\xff\xff")
        assert upstream.calls == []
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_server_that_is_down_has_no_absent_results() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        async with ac_of(address) as store:
            with pytest.raises(NativeLinkError) as caught:
                await store.has([ACTION])
            assert caught.value.code is Code.UNAVAILABLE
            with pytest.raises(NativeLinkError) as caught:
                await read_bytes(store, ACTION)
            assert caught.value.code is Code.UNAVAILABLE


async def test_a_failing_call_is_tried_again_but_a_miss_is_an_answer() -> None:
    errors: list[NativeLinkError] = [unavailable("busy"), unavailable("busy")]
    asked: list[Digest] = []

    async def flaky(request: pb.GetActionResultRequest, context: CallContext) -> bytes:
        asked.append(Digest(request.action_digest.hash, request.action_digest.size_bytes))
        if errors:
            raise errors.pop()
        if asked[-1] == ACTION:
            return RESULT
        raise NativeLinkError(Code.NOT_FOUND, "nothing")

    instead = Method(
        "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
        flaky,
        parse=pb.GetActionResultRequest.FromString,
    )
    retry = Retry(max_retries=2, sleep=no_pause)
    async with (
        serving(DictStore(), instead=[instead]) as upstream,
        ac_of(upstream.address, retry=retry) as store,
    ):
        assert await read_bytes(store, ACTION) == RESULT
        assert await store.has([OTHER]) == [None]
    assert asked == [ACTION, ACTION, ACTION, OTHER]
