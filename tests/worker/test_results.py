"""Which results are kept, and what the client is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from nativelink.core.digest import DigestFunction, StoreKey
from nativelink.core.errors import Code, unavailable
from nativelink.core.streams import Source
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.com.github.trace_machina.nativelink.remote_execution import (
    worker_api_pb2 as worker_pb,
)
from nativelink.testing.fakes import DictStore
from nativelink.worker.results import Publication, Publisher, UploadStrategy

SHA = DigestFunction.SHA256
ACTION = SHA.digest_of(b"an action")


class Broken(DictStore):
    async def put(self, key: StoreKey, source: Source) -> int:
        raise unavailable("the disk is on fire")

    async def has(self, keys: Sequence[StoreKey]) -> list[int | None]:
        raise unavailable("the disk is on fire")


class World:
    def __init__(self, **changes: object) -> None:
        self.cache = DictStore()
        self.history = DictStore()
        self.publication = replace(
            Publication(
                action_cache=self.cache,
                action_cache_strategy=UploadStrategy.SUCCESS_ONLY,
                history=self.history,
                history_strategy=UploadStrategy.FAILURES_ONLY,
            ),
            **changes,
        )

    async def publish(
        self, exit_code: int = 0, code: Code = Code.OK, *, cacheable: bool = True
    ) -> pb.ExecuteResponse:
        response = pb.ExecuteResponse()
        response.result.exit_code = exit_code
        response.status.code = code
        await Publisher(self.publication).publish(ACTION, SHA, response, cacheable=cacheable)
        return response


async def test_a_success_is_cached_as_the_result_alone() -> None:
    world = World()
    response = await world.publish()
    assert world.cache.blobs == {ACTION: response.result.SerializeToString()}
    assert world.history.blobs == {}
    assert response.message == ""


@pytest.mark.parametrize(
    ("strategy", "exit_code", "code", "kept"),
    [
        (UploadStrategy.SUCCESS_ONLY, 0, Code.OK, True),
        (UploadStrategy.SUCCESS_ONLY, 1, Code.OK, False),
        # A time-out that was reported through the side channel exits with 0.
        (UploadStrategy.SUCCESS_ONLY, 0, Code.DEADLINE_EXCEEDED, False),
        (UploadStrategy.FAILURES_ONLY, 0, Code.OK, False),
        (UploadStrategy.FAILURES_ONLY, 1, Code.OK, True),
        (UploadStrategy.FAILURES_ONLY, 0, Code.DEADLINE_EXCEEDED, True),
        (UploadStrategy.EVERYTHING, 0, Code.OK, True),
        (UploadStrategy.EVERYTHING, 1, Code.OK, True),
        (UploadStrategy.NEVER, 0, Code.OK, False),
        (UploadStrategy.NEVER, 1, Code.OK, False),
    ],
)
async def test_each_strategy_keeps_what_its_name_says(
    strategy: UploadStrategy, exit_code: int, code: Code, kept: bool
) -> None:
    world = World(action_cache_strategy=strategy, history_strategy=strategy)
    await world.publish(exit_code, code)
    assert bool(world.cache.blobs) is kept
    assert bool(world.history.blobs) is kept


async def test_what_must_not_be_cached_is_not_whatever_the_strategy() -> None:
    world = World(
        action_cache_strategy=UploadStrategy.EVERYTHING,
        history_strategy=UploadStrategy.EVERYTHING,
    )
    await world.publish(cacheable=False)
    assert world.cache.blobs == {}
    assert world.history.blobs


async def test_the_history_is_content_addressed_and_its_digest_is_in_the_message() -> None:
    world = World(
        failure_message=(
            "see https://example.com/{digest_function}/{action_digest_hash}/{action_digest_size}"
            "#{historical_results_hash}-{historical_results_size} {other}"
        )
    )
    response = await world.publish(1)
    [(key, data)] = world.history.blobs.items()
    assert key == SHA.digest_of(data)
    record = worker_pb.HistoricalExecuteResponse.FromString(data)
    assert record.action_digest.hash == ACTION.hash
    assert record.execute_response.result.exit_code == 1
    assert response.message == (
        f"see https://example.com/sha256/{ACTION.hash}/{ACTION.size_bytes}#{key} {{other}}"
    )


async def test_a_success_has_a_message_of_its_own() -> None:
    world = World(success_message="well done {historical_results_hash}.", failure_message="oh")
    assert (await world.publish()).message == "well done ."


async def test_there_is_no_message_when_nothing_was_kept() -> None:
    world = World(
        action_cache=None,
        history_strategy=UploadStrategy.NEVER,
        success_message="well done",
    )
    assert (await world.publish()).message == ""


async def test_a_store_that_fails_costs_the_client_nothing() -> None:
    world = World(
        action_cache=Broken(),
        history=Broken(),
        history_strategy=UploadStrategy.EVERYTHING,
        success_message="{historical_results_hash}",
    )
    response = await world.publish()
    assert response.message == ""
