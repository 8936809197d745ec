"""A cache behind gRPC keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nativelink.core.digest import StoreKey
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import ActionResult
from nativelink.stores.remote.grpc_ac import GrpcAcStore
from nativelink.stores.remote.grpc_cas import GrpcCasStore
from nativelink.stores.store import Store
from nativelink.testing.store_contract import (
    DigestKeysOnly,
    StreamsBlobs,
)
from nativelink.testing.store_machine import StoreMachine
from tests.contract.parts import memory, on_disk
from tests.stores.remote.upstream import NO_BATCHES, ac_of, cas_of, serving


class TestGrpcCas(DigestKeysOnly, StreamsBlobs):
    """Over the real transport."""

    kind = GrpcCasStore
    # A message of 1 MiB is in the store, in grpcio, and in the server, which runs here too.
    allowed_bytes = 12 * 1024 * 1024

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with (
            on_disk() as backend,
            serving(backend) as upstream,
            cas_of(upstream.address) as store,
        ):
            yield store


class TestGrpcCasWithoutBatches(DigestKeysOnly):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with (
            serving(memory()) as upstream,
            cas_of(upstream.address, batching=NO_BATCHES) as store,
        ):
            yield store


class TestGrpcCasBehindAnother(DigestKeysOnly):
    """A chain of two servers."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with (
            serving(memory()) as last,
            cas_of(last.address) as between,
            serving(between) as first,
            cas_of(first.address) as store,
        ):
            yield store


class TestGrpcAc(DigestKeysOnly):
    """Values are action results."""

    kind = GrpcAcStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with serving(memory()) as upstream, ac_of(upstream.address) as store:
            yield store

    def blob(self, size: int, seed: int = 0) -> tuple[StoreKey, bytes]:
        key, data = super().blob(size, seed)
        return key, ActionResult(stdout_raw=data).SerializeToString()


class GrpcCasMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with serving(memory()) as upstream, cas_of(upstream.address) as store:
            yield store


TestGrpcCasMachine = GrpcCasMachine.TestCase


class GrpcAcMachine(StoreMachine):
    string_keys = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with serving(memory()) as upstream, ac_of(upstream.address) as store:
            yield store

    def blob(self, index: int) -> tuple[StoreKey, bytes]:
        key, data = super().blob(index)
        return key, ActionResult(stdout_raw=data).SerializeToString()


TestGrpcAcMachine = GrpcAcMachine.TestCase
