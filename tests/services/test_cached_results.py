from __future__ import annotations

import pytest

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.errors import NativeLinkError, unavailable
from nativelink.core.streams import Sink
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.google.rpc import status_pb2
from nativelink.scheduler.action import ActionKey
from nativelink.services.cached_results import CachedResults
from nativelink.stores.store import DelegatingStore, write_bytes
from nativelink.testing.fakes import DictStore

DIGEST = DigestFunction.SHA256.digest_of(b"an action")
KEY = ActionKey("", DigestFunction.SHA256, DIGEST)


async def test_a_cached_result_becomes_a_response() -> None:
    store = DictStore()
    result = pb.ActionResult(exit_code=1, stdout_raw=b"x" * 300)
    await write_bytes(store, DIGEST, result.SerializeToString())
    response = await CachedResults(store).lookup(KEY)
    assert response is not None
    decoded = pb.ExecuteResponse.FromString(response)
    assert decoded.result == result
    assert decoded.cached_result
    assert decoded.HasField("status")
    assert decoded.status.code == 0


async def test_older_symlink_lists_are_completed() -> None:
    store = DictStore()
    link = pb.OutputSymlink(path="a", target="b")
    await write_bytes(
        store, DIGEST, pb.ActionResult(output_directory_symlinks=[link]).SerializeToString()
    )
    response = await CachedResults(store).lookup(KEY)
    assert response is not None
    assert list(pb.ExecuteResponse.FromString(response).result.output_symlinks) == [link]


async def test_what_is_absent_or_no_result_is_none(caplog: pytest.LogCaptureFixture) -> None:
    store = DictStore()
    assert await CachedResults(store).lookup(KEY) is None
    assert not caplog.text
    await write_bytes(store, DIGEST, b"\xff\xff")
    assert await CachedResults(store).lookup(KEY) is None
    assert "no ActionResult" in caplog.text


async def test_a_store_that_fails_is_told() -> None:
    class Broken(DelegatingStore):
        async def get(
            self, key: StoreKey, sink: Sink, *, offset: int = 0, limit: int | None = None
        ) -> None:
            raise unavailable("down")

    with pytest.raises(NativeLinkError, match="down"):
        await CachedResults(Broken(DictStore())).lookup(KEY)


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        (pb.ExecuteResponse(result=pb.ActionResult(stdout_raw=b"x")), True),
        (pb.ExecuteResponse(result=pb.ActionResult(exit_code=1)), False),
        (pb.ExecuteResponse(), False),
        (
            pb.ExecuteResponse(
                result=pb.ActionResult(), status=status_pb2.Status(code=4, message="timed out")
            ),
            False,
        ),
    ],
)
async def test_only_successes_are_kept_under_their_action(
    response: pb.ExecuteResponse, kept: bool
) -> None:
    store = DictStore()
    results = CachedResults(store)
    key = ActionKey("main", DigestFunction.SHA256, DigestFunction.SHA256.digest_of(b"an action"))
    await results.keep(key, response.SerializeToString())
    expected = {key.digest: response.result.SerializeToString()} if kept else {}
    assert store.blobs == expected
