"""The compositions of the documents, and random ones, are as good a store as any of their parts.

The documented ones are made from their configuration, by the ordinary way. Leaves in Redis or in
a cloud's object store are memory or a directory here; all else is as it stands in the documents.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import json5
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.core.digest import Digest, DigestFunction, StoreKey
from nativelink.proto.build.bazel.remote.execution.v2.remote_execution_pb2 import ActionResult
from nativelink.stores.eviction import EvictionPolicy
from nativelink.stores.filesystem import FilesystemStore
from nativelink.stores.join.chunker import Chunker
from nativelink.stores.join.dedup import DedupStore
from nativelink.stores.join.fast_slow import FastSlowStore, StoreDirection
from nativelink.stores.join.shard import ShardStore
from nativelink.stores.join.shard_choice import Bounds, Rendezvous
from nativelink.stores.join.size_partition import SizePartitioningStore
from nativelink.stores.memory import MemoryStore
from nativelink.stores.noop import NoopStore
from nativelink.stores.store import Store
from nativelink.stores.wrap.cache_metrics import CacheMetricsStore
from nativelink.stores.wrap.completeness import CompletenessCheckingStore
from nativelink.stores.wrap.compression import CompressionStore
from nativelink.stores.wrap.compression_codecs import Lz4Codec, ZstdCodec
from nativelink.stores.wrap.existence_cache import ExistenceCacheStore
from nativelink.stores.wrap.verify import VerifyStore
from nativelink.testing.fakes import DictStore, FakeClock
from nativelink.testing.store_contract import (
    DigestKeysOnly,
    StoreContract,
    StreamsBlobs,
    StringKeys,
)
from nativelink.testing.store_machine import StoreMachine
from tests.compose.environment import environment_of

# The documented ones


@functools.cache
def _parsed(stores: str) -> Any:
    return json5.loads(stores)


def _rooted(part: Any, root: str) -> Any:
    """A configuration with `$root` replaced."""
    match part:
        case dict():
            return {key: _rooted(value, root) for key, value in part.items()}
        case list():
            return [_rooted(value, root) for value in part]
        case str():
            return part.replace("$root", root)
        case _:
            return part


@asynccontextmanager
async def composed(configuration: str) -> AsyncIterator[Store]:
    """The first store of a configuration; `$root` in it is a fresh directory."""
    with TemporaryDirectory() as root:
        async with AsyncExitStack() as lifetimes:
            stores = _rooted(_parsed(configuration), root)
            config = Config.model_validate({"stores": stores, "servers": []})
            builder = StoreBuilder(config.stores, environment_of(lifetimes))
            await builder.build_all()
            yield (await builder.named(config.stores[0].name)).store


#: The production CAS of the cluster document: a shared fast tier before the object store, both
#: by reference.
TIERED = """[
  { name: "CAS_TIERED", fast_slow: {
      fast: { ref_store: { name: "CAS_REDIS" } },
      slow: { ref_store: { name: "CAS_S3" } } } },
  { name: "CAS_REDIS", memory: {} },
  { name: "CAS_S3", filesystem: { content_path: "$root/c", temp_path: "$root/t" } },
]"""

#: The production CAS of the deployment guide.
VERIFIED = """[
  { name: "CAS_PRODUCTION", verify: { verify_size: true, backend: { fast_slow: {
      fast: { memory: { eviction_policy: { max_bytes: 2000000000 } } },
      slow: { filesystem: { content_path: "$root/c", temp_path: "$root/t" } } } } } },
]"""

#: The action cache of the S3 example, checked as the reference recommends.
ACTION_CACHE = """[
  { name: "AC_MAIN_STORE", completeness_checking: {
      backend: { fast_slow: {
        fast: { memory: { eviction_policy: { max_bytes: "100mb" } } },
        slow: { filesystem: { content_path: "$root/ac", temp_path: "$root/act" } } } },
      cas_store: { ref_store: { name: "CAS_MAIN_STORE" } } } },
  { name: "CAS_MAIN_STORE", memory: { eviction_policy: { max_bytes: "100mb" } } },
]"""

#: The reference's size_partitioning, with a smaller border and an upper store that keeps.
PARTITIONED = """[
  { name: "CAS", size_partitioning: {
      size: "60kib",
      lower_store: { memory: { eviction_policy: { max_bytes: "100mb" } } },
      upper_store: { filesystem: { content_path: "$root/c", temp_path: "$root/t" } } } },
]"""

#: The reference's existence_cache, over the object store that it is meant for.
EXISTENCE = """[
  { name: "CAS", existence_cache: {
      backend: { filesystem: { content_path: "$root/c", temp_path: "$root/t",
                               eviction_policy: { max_bytes: "500mb" } } },
      eviction_policy: { max_seconds: 100 } } },
]"""

#: The advanced example of the S3 document: a local disk before the object store.
TWO_DISKS = """[
  { name: "CAS", fast_slow: {
      fast: { filesystem: { content_path: "$root/fc", temp_path: "$root/ft",
                            eviction_policy: { max_bytes: "100gb" } } },
      slow: { filesystem: { content_path: "$root/sc", temp_path: "$root/st" } } } },
]"""

#: The reference's cache_metrics.
MEASURED = """[
  { name: "CAS", cache_metrics: {
      cache_type: "cas",
      backend: { filesystem: { content_path: "$root/c", temp_path: "$root/t" } } } },
]"""

#: A worker's CAS: results go to the shared store only, inputs are kept on the local disk.
WORKER = """[
  { name: "WORKER", fast_slow: {
      fast: { filesystem: { content_path: "$root/c", temp_path: "$root/t" } },
      fast_direction: "get",
      slow: { ref_store: { name: "CAS" } } } },
  { name: "CAS", existence_cache: {
      backend: { verify: { verify_size: true, verify_hash: true, backend: { memory: {} } } } } },
]"""


#: The CAS of the S3 document: verified, cut into chunks, compressed, memory over the object store.
DEDUPLICATED = """[
  { name: "CAS_MAIN_STORE", verify: { verify_size: true, verify_hash: true, backend: { dedup: {
      index_store: { fast_slow: {
        fast: { memory: { eviction_policy: { max_bytes: "100mb" } } },
        slow: { filesystem: { content_path: "$root/ic", temp_path: "$root/it" } } } },
      content_store: { compression: {
        compression_algorithm: { lz4: {} },
        backend: { fast_slow: {
          fast: { memory: { eviction_policy: { max_bytes: "100mb" } } },
          slow: { filesystem: { content_path: "$root/c", temp_path: "$root/t" } } } } } } } } } },
]"""

#: The sharded CAS of the cluster document, with fewer shards.
SHARDED = """[
  { name: "CAS", shard: { stores: [
      { weight: 1, store: { fast_slow: { fast: { memory: {} }, slow: {
          filesystem: { content_path: "$root/0", temp_path: "$root/t0" } } } } },
      { weight: 1, store: { ref_store: { name: "SECOND" } } },
      { weight: 2, store: { memory: {} } } ] } },
  { name: "SECOND", compression: {
      compression_algorithm: { lz4: { block_size: "32kib" } },
      backend: { filesystem: { content_path: "$root/1", temp_path: "$root/t1" } } } },
]"""


class Documented(StoreContract):
    configuration: ClassVar[str]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with composed(self.configuration) as store:
            yield store


class DocumentedMachine(StoreMachine):
    configuration: ClassVar[str]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with composed(self.configuration) as store:
            yield store


class Results(StoreContract):
    """Values under digests are action results."""

    def blob(self, size: int, seed: int = 0) -> tuple[StoreKey, bytes]:
        key, data = super().blob(size, seed)
        return key, ActionResult(stdout_raw=data).SerializeToString()


class TestTiered(Documented, StringKeys):
    configuration = TIERED


class TestVerified(Documented, DigestKeysOnly):
    configuration = VERIFIED


class TestActionCache(Documented, Results, StringKeys):
    configuration = ACTION_CACHE


class TestPartitioned(Documented, DigestKeysOnly):
    configuration = PARTITIONED


class TestExistence(Documented, StringKeys, StreamsBlobs):
    configuration = EXISTENCE


class TestTwoDisks(Documented, StringKeys, StreamsBlobs):
    configuration = TWO_DISKS
    #: An upload is on its way to both disks at a time.
    allowed_bytes = 2 * StreamsBlobs.allowed_bytes


class TestMeasured(Documented, StringKeys, StreamsBlobs):
    configuration = MEASURED


class TestWorker(Documented, DigestKeysOnly):
    configuration = WORKER


class TestDeduplicated(Documented, DigestKeysOnly):
    configuration = DEDUPLICATED


class TestSharded(Documented, StringKeys):
    configuration = SHARDED


class TieredMachine(DocumentedMachine):
    configuration = TIERED


class VerifiedMachine(DocumentedMachine):
    string_keys = False
    configuration = VERIFIED


class ResultsMachine(DocumentedMachine):
    configuration = ACTION_CACHE

    def blob(self, index: int) -> tuple[StoreKey, bytes]:
        return result_blob(*super().blob(index))


class PartitionedMachine(DocumentedMachine):
    string_keys = False
    configuration = PARTITIONED


class ExistenceMachine(DocumentedMachine):
    configuration = EXISTENCE


class TwoDisksMachine(DocumentedMachine):
    configuration = TWO_DISKS


class WorkerMachine(DocumentedMachine):
    string_keys = False
    configuration = WORKER


class DeduplicatedMachine(DocumentedMachine):
    string_keys = False
    configuration = DEDUPLICATED


class ShardedMachine(DocumentedMachine):
    configuration = SHARDED


TestDeduplicatedMachine = DeduplicatedMachine.TestCase
TestShardedMachine = ShardedMachine.TestCase
TestTieredMachine = TieredMachine.TestCase
TestVerifiedMachine = VerifiedMachine.TestCase
TestResultsMachine = ResultsMachine.TestCase
TestPartitionedMachine = PartitionedMachine.TestCase
TestExistenceMachine = ExistenceMachine.TestCase
TestTwoDisksMachine = TwoDisksMachine.TestCase
TestWorkerMachine = WorkerMachine.TestCase


def result_blob(_key: StoreKey, data: bytes) -> tuple[StoreKey, bytes]:
    """A blob that is an action result, under its own digest: good for every kind of store."""
    value = ActionResult(stdout_raw=data).SerializeToString()
    return Digest(hashlib.sha256(value).hexdigest(), len(value)), value


# Random ones


@dataclass(frozen=True)
class Recipe:
    """A store to be made: its kind, what it is made of, and its settings."""

    kind: str
    parts: tuple[Recipe, ...] = ()
    settings: tuple[Any, ...] = ()

    @property
    def depth(self) -> int:
        return 1 + max((part.depth for part in self.parts), default=0)


class NullRecorder:
    def record(self, *_args: object, count: int = 1) -> None:
        assert count > 0


async def cook(recipe: Recipe, root: Path, lifetimes: AsyncExitStack) -> Store:
    """Make the store of a recipe."""
    parts = []
    for number, part in enumerate(recipe.parts):
        parts.append(await cook(part, root / str(number), lifetimes))
    clock = FakeClock()
    match recipe.kind, parts, recipe.settings:
        case "dict", [], (chunk_size,):
            return DictStore(chunk_size=chunk_size)
        case "memory", [], ():
            return MemoryStore(eviction=EvictionPolicy(), clock=clock)
        case "filesystem", [], ():
            (root / "c").mkdir(parents=True)
            store = FilesystemStore(
                content_path=root / "c",
                temp_path=root / "t",
                eviction=EvictionPolicy(),
                clock=clock,
            )
            return await lifetimes.enter_async_context(store)
        case "verify", [backend], (size, hash_):
            return VerifyStore(
                backend,
                verify_size=size,
                verify_hash=hash_,
                default_function=DigestFunction.SHA256,
            )
        case "existence_cache", [backend], (max_count,):
            return ExistenceCacheStore(
                backend,
                eviction=EvictionPolicy(max_count=max_count),
                clock=clock,
                removals=None,
            )
        case "cache_metrics", [backend], ():
            return CacheMetricsStore(backend, cache_type="x", recorder=NullRecorder())
        case "completeness_checking", [backend], ():
            return CompletenessCheckingStore(backend, NoopStore())
        case "compression", [backend], (zstd, block_size):
            return CompressionStore(
                backend,
                ZstdCodec(1) if zstd else Lz4Codec(),
                block_size=block_size,
                max_block_size=block_size,
            )
        case "dedup", [index, content], (low, normal, high):
            chunker = Chunker(min_size=low, normal_size=normal, max_size=high)
            return DedupStore(index, content, chunker=chunker, max_concurrent=4)
        case "shard", shards, (choice,):
            return ShardStore(shards, choice(range(1, len(shards) + 1)))
        case "size_partitioning", [lower, upper], (size,):
            return SizePartitioningStore(lower, upper, size=size)
        case "fast_slow", [fast, slow], (fast_direction, slow_direction, bypass):
            return FastSlowStore(
                fast,
                slow,
                fast_direction=fast_direction,
                slow_direction=slow_direction,
                bypass_dedup_threshold_bytes=bypass,
            )
        case "cached", [slow], (max_bytes,):
            fast = MemoryStore(eviction=EvictionPolicy(max_bytes=max_bytes), clock=clock)
            return FastSlowStore(fast, slow)
        case "twice", [store], ():
            return FastSlowStore(store, store)
        case _:
            raise AssertionError(recipe)


LEAVES = st.sampled_from(
    (
        Recipe("dict", (), (30_000,)),
        Recipe("dict", (), (0,)),
        Recipe("memory"),
        Recipe("filesystem"),
    )
)

DIRECTIONS = st.sampled_from(
    [(fast, slow) for fast in StoreDirection for slow in StoreDirection]
).filter(lambda pair: pair[0].keeps_puts or pair[1].keeps_puts)


def compositions(depth: int, *, checked: bool = True) -> st.SearchStrategy[Recipe]:
    """Recipes of stores that keep every blob, up to `depth` deep.

    Stores that look at what a blob is are among them only if `checked`.
    """
    if depth == 1:
        return LEAVES
    part = compositions(depth - 1, checked=checked)
    one, two = st.tuples(part), st.tuples(part, part)
    # What compression and dedup store under a digest is not what the digest says.
    changed = compositions(depth - 1, checked=False) if checked else part
    checks = (
        st.builds(Recipe, st.just("verify"), one, st.tuples(st.booleans(), st.booleans())),
        st.builds(Recipe, st.just("completeness_checking"), one),
    )
    return st.one_of(
        *(checks if checked else ()),
        st.builds(
            Recipe,
            st.just("compression"),
            st.tuples(changed),
            st.tuples(st.booleans(), st.sampled_from((1_000, 65_536))),
        ),
        st.builds(
            Recipe,
            st.just("dedup"),
            st.tuples(changed, changed),
            st.sampled_from(((500, 2_000, 9_000), (20_000, 30_000, 40_000))),
        ),
        st.builds(
            Recipe,
            st.just("shard"),
            st.lists(part, min_size=1, max_size=3).map(tuple),
            st.tuples(st.sampled_from((Bounds, Rendezvous))),
        ),
        st.builds(Recipe, st.just("existence_cache"), one, st.tuples(st.integers(0, 3))),
        st.builds(Recipe, st.just("cache_metrics"), one),
        st.builds(
            Recipe,
            st.just("size_partitioning"),
            two,
            st.tuples(st.sampled_from((1, 5_000, 40_000))),
        ),
        st.builds(
            Recipe,
            st.just("fast_slow"),
            two,
            st.tuples(DIRECTIONS, st.sampled_from((0, 5_000, 100_000))).map(
                lambda drawn: (*drawn[0], drawn[1])
            ),
        ),
        st.builds(Recipe, st.just("cached"), one, st.tuples(st.sampled_from((100, 100_000)))),
        st.builds(Recipe, st.just("twice"), one),
    )


class RandomCompositionMachine(StoreMachine):
    string_keys = False

    @initialize(recipe=compositions(5))
    def start(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._run(self._begin())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        with TemporaryDirectory() as root:
            async with AsyncExitStack() as lifetimes:
                yield await cook(self.recipe, Path(root), lifetimes)

    def blob(self, index: int) -> tuple[StoreKey, bytes]:
        return result_blob(*super().blob(index))


RandomCompositionMachine.TestCase.settings = settings(
    RandomCompositionMachine.TestCase.settings, max_examples=25, stateful_step_count=15
)
TestRandomCompositionMachine = RandomCompositionMachine.TestCase


class TestManyRandomCompositions(RandomCompositionMachine.TestCase):
    settings = settings(
        RandomCompositionMachine.TestCase.settings, max_examples=275, stateful_step_count=12
    )
