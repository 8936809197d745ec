"""Store kinds: leaves, wrappers, joins, and the union of them all."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo
from typing_extensions import TypeAliasType

from nativelink.config.choices import Named, OneKey, Variant, key_of
from nativelink.config.fields import (
    EXTENSION,
    Flag,
    Items,
    NullIs,
    Number,
    Number32,
    PathText,
    Size,
    Size32,
    Spec,
    Text,
    Verbatim,
    Zero,
)
from nativelink.config.specs_cloud import CloudObjectSpec, OntapExistenceCacheSpec
from nativelink.config.specs_common import EvictionSpec
from nativelink.config.specs_remote import GrpcStoreSpec, MongoSpec, RedisSpec

__all__ = [
    "CacheMetricsSpec",
    "CompletenessCheckingSpec",
    "CompressionAlgorithmSpec",
    "CompressionSpec",
    "DedupSpec",
    "ExistenceCacheSpec",
    "FastSlowSpec",
    "FilesystemSpec",
    "Lz4Spec",
    "MemorySpec",
    "NamedStore",
    "NoopSpec",
    "RefSpec",
    "ShardItemSpec",
    "ShardSpec",
    "SizePartitioningSpec",
    "StoreDirection",
    "StoreSpec",
    "VerifySpec",
    "ZstdSpec",
]


class MemorySpec(Spec):
    """Keeps blobs in this process's memory; they are gone when it ends."""

    KIND: ClassVar[str] = "memory"

    eviction_policy: EvictionSpec | None = Field(
        default=None, description="When blobs leave. Unset: never, so memory grows without bound."
    )


class FilesystemSpec(Spec):
    """Keeps blobs as files; they survive a restart."""

    KIND: ClassVar[str] = "filesystem"

    content_path: PathText = Field(
        description=(
            "Directory of the finished blobs. It belongs to the store: at start it is scanned, "
            "and files that are not blobs are deleted."
        )
    )
    temp_path: PathText = Field(
        description=(
            "Directory of blobs that are being written or deleted, on the same device as "
            "`content_path`, because files are moved between them. Emptied at every start."
        )
    )
    read_buffer_size: Annotated[Size32, Zero(32 * 1024)] = Field(
        default=32 * 1024, description="Bytes read from a file at a time."
    )
    eviction_policy: EvictionSpec | None = Field(
        default=None, description="When blobs leave. Unset: never, so the disk fills up."
    )
    block_size: Annotated[Size, Zero(4096)] = Field(
        default=4096,
        description="Block size of the file system in bytes: a file counts as whole blocks.",
    )
    max_concurrent_writes: Number = Field(
        default=0,
        description="Writes of large blobs to the disk at the same time; further ones wait. An "
        "upload that waits for its client does not count. 0, or more than 4: 4.",
    )
    evict_page_cache: Flag = Field(
        default=False,
        description="Ask the kernel to drop a file from its cache after it was read or written.",
    )


class StoreDirection(StrEnum):
    """What a side of fast_slow takes part in."""

    BOTH = "both"
    UPDATE = "update"
    GET = "get"
    READ_ONLY = "read_only"


class FastSlowSpec(Spec):
    """A fast store in front of a slow one: reads fill the fast side, writes go to both.

    Whether a blob is there is asked of the slow side alone: what only the fast side has could not
    be read by anyone else, so it counts as absent and is uploaded again.
    """

    KIND: ClassVar[str] = "fast_slow"

    fast: StoreSpec = Field(description="Asked first.")
    fast_direction: Annotated[StoreDirection, Items] = Field(
        default=StoreDirection.BOTH,
        description=(
            "What the fast side keeps. `both`: uploads, and what reads fetched. `update`: only "
            "uploads. `get`: only what reads fetched. `read_only`: nothing."
        ),
    )
    slow: StoreSpec = Field(description="Asked for what the fast side lacks.")
    slow_direction: Annotated[StoreDirection, Items] = Field(
        default=StoreDirection.BOTH,
        description="What the slow side keeps: uploads with `both` and `update`, else nothing.",
    )
    bypass_dedup_threshold_bytes: Size = Field(
        default=0,
        description=(
            "Blobs of at least this many bytes are read straight from the slow side: concurrent "
            "readers do not share one download, and the fast side is not filled. 0: all share."
        ),
    )


class ShardItemSpec(Spec):
    """One part of a sharded store."""

    store: StoreSpec = Field(description="Holds this part.")
    weight: Annotated[Number32, NullIs(1)] = Field(
        default=1,
        description="Share of the keys that come here, compared with the weights of the others. "
        "0: none.",
    )


class ShardSpec(Spec):
    """Spreads blobs over several stores by their hash."""

    KIND: ClassVar[str] = "shard"

    stores: Annotated[tuple[ShardItemSpec, ...], Items] = Field(
        min_length=1,
        description="The parts. Their order and weights decide where a blob lies: changing either "
        "makes blobs unreachable.",
    )
    rendezvous: Annotated[Flag, EXTENSION] = Field(
        default=False,
        description="Place blobs by rendezvous hashing: a part that is added at the end takes its "
        "share from all others, and all other blobs stay where they are. Take a part away by "
        "giving it the weight 0. Blobs that were placed without it are not found.",
    )


class SizePartitioningSpec(Spec):
    """Small blobs to one store, large ones to another. Only for a CAS."""

    KIND: ClassVar[str] = "size_partitioning"

    size: Size = Field(description="Blobs of fewer bytes are small, of as many or more large.")
    lower_store: StoreSpec = Field(description="Gets the small ones.")
    upper_store: StoreSpec = Field(description="Gets the large ones.")


class DedupSpec(Spec):
    """Cuts blobs into chunks by their content and keeps equal chunks once. Only for a CAS."""

    KIND: ClassVar[str] = "dedup"

    index_store: StoreSpec = Field(
        description="Keeps the list of chunks of every blob; best fast and small."
    )
    content_store: StoreSpec = Field(
        description="Keeps the chunks; the place for a compression store."
    )
    min_size: Annotated[Size32, Zero(64 * 1024)] = Field(
        default=64 * 1024, description="No chunk but the last has fewer bytes."
    )
    normal_size: Annotated[Size32, Zero(256 * 1024)] = Field(
        default=256 * 1024, description="Bytes that chunks have on average, roughly."
    )
    max_size: Annotated[Size32, Zero(512 * 1024)] = Field(
        default=512 * 1024, description="No chunk has more bytes."
    )
    max_concurrent_fetch_per_get: Annotated[Number32, Zero(10)] = Field(
        default=10, description="Chunks fetched ahead when a blob is read."
    )


class Lz4Spec(Spec):
    """LZ4 blocks: little CPU, moderate ratio."""

    block_size: Annotated[Size32, Zero(65_536)] = Field(
        default=65_536, description="Bytes compressed together; more need more memory."
    )
    max_decode_block_size: Size32 = Field(
        default=0,
        description=(
            "Refuse stored data whose blocks claim more than this many bytes, so that a forged "
            "blob cannot make the server allocate at will. Default, and 0: `block_size`."
        ),
    )

    @field_validator("max_decode_block_size")
    @classmethod
    def _as_large_as_a_block(cls, size: int, info: ValidationInfo) -> int:
        return size or int(info.data.get("block_size", 0))


class ZstdSpec(Spec):
    """Zstandard frames: smaller than LZ4 at a multiple of its CPU. NativeLink cannot read them."""

    block_size: Annotated[Size32, Zero(1024 * 1024)] = Field(
        default=1024 * 1024, description="Bytes compressed together; more need more memory."
    )
    level: Annotated[Number32, Zero(3)] = Field(
        default=3, le=22, description="1 is fast, 22 compresses most."
    )


class CompressionAlgorithmSpec(Spec):
    """The algorithm, under the key that names it; exactly one.

    What was written with the other one is read too, if its blocks are not too large.
    """

    lz4: Lz4Spec | None = Field(default=None, description="LZ4.")
    zstd: Annotated[ZstdSpec, EXTENSION] | None = Field(default=None, description="Zstandard.")

    @model_validator(mode="after")
    def _exactly_one(self) -> CompressionAlgorithmSpec:
        if (self.lz4 is None) == (self.zstd is None):
            raise PydanticCustomError("one_algorithm", "exactly one of lz4 and zstd is needed")
        return self


class CompressionSpec(Spec):
    """Compresses what passes through to its backend."""

    KIND: ClassVar[str] = "compression"

    backend: StoreSpec = Field(description="Keeps the compressed blobs.")
    compression_algorithm: CompressionAlgorithmSpec = Field(description="The algorithm.")


class VerifySpec(Spec):
    """Refuses uploads whose content is not what their digest says. Only for a CAS."""

    KIND: ClassVar[str] = "verify"

    backend: StoreSpec = Field(description="Gets what passed.")
    verify_size: Flag = Field(default=False, description="Compare the number of bytes.")
    verify_hash: Flag = Field(
        default=False,
        description="Compute and compare the hash, with the digest function of the request or "
        "else the default one.",
    )


class ExistenceCacheSpec(Spec):
    """Remembers which blobs its backend has. Only for a CAS."""

    KIND: ClassVar[str] = "existence_cache"

    backend: StoreSpec = Field(description="Asked for what is not remembered.")
    eviction_policy: EvictionSpec | None = Field(
        default=None,
        description="When something is forgotten, not when blobs leave the backend. Unset: never.",
    )


class CompletenessCheckingSpec(Spec):
    """Answers an action result only if the CAS has all its outputs. Only for an action cache."""

    KIND: ClassVar[str] = "completeness_checking"

    backend: StoreSpec = Field(description="Keeps the action results.")
    cas_store: StoreSpec = Field(description="Must have their outputs.")


class CacheMetricsSpec(Spec):
    """Counts and times the operations of its backend."""

    KIND: ClassVar[str] = "cache_metrics"

    cache_type: Text = Field(description="Label of the metrics, such as `cas` or `ac`.")
    backend: StoreSpec = Field(description="Does the work.")


class RefSpec(Spec):
    """Stands for a store of the `stores` list, which is then shared."""

    KIND: ClassVar[str] = "ref_store"

    name: Text = Field(description="Name of the store.")


class NoopSpec(Spec):
    """Accepts everything and has nothing."""

    KIND: ClassVar[str] = "noop"


#: Any store, under the single key that names its kind.
StoreSpec = TypeAliasType(
    "StoreSpec",
    Annotated[
        Annotated[MemorySpec, Variant(), Tag("memory")]
        | Annotated[FilesystemSpec, Variant(), Tag("filesystem")]
        | Annotated[FastSlowSpec, Variant(), Tag("fast_slow")]
        | Annotated[ShardSpec, Variant(), Tag("shard")]
        | Annotated[SizePartitioningSpec, Variant(), Tag("size_partitioning")]
        | Annotated[DedupSpec, Variant(), Tag("dedup")]
        | Annotated[CompressionSpec, Variant(), Tag("compression")]
        | Annotated[VerifySpec, Variant(), Tag("verify")]
        | Annotated[ExistenceCacheSpec, Variant(), Tag("existence_cache")]
        | Annotated[CompletenessCheckingSpec, Variant(), Tag("completeness_checking")]
        | Annotated[CacheMetricsSpec, Variant(), Tag("cache_metrics")]
        | Annotated[RefSpec, Variant(), Tag("ref_store")]
        | Annotated[NoopSpec, Variant(), Tag("noop")]
        | Annotated[GrpcStoreSpec, Variant(), Tag("grpc")]
        | Annotated[RedisSpec, Variant(), Tag("redis_store")]
        | Annotated[MongoSpec, Variant(), Tag("experimental_mongo")]
        | Annotated[CloudObjectSpec, Variant(), Tag("experimental_cloud_object_store")]
        | Annotated[OntapExistenceCacheSpec, Variant(), Tag("ontap_s3_existence_cache")],
        Discriminator(key_of),
        OneKey("store"),
    ],
)


class NamedStore(Named):
    """A store of the `stores` list: `name` beside the key of its kind."""

    name: Verbatim = Field(description="Other parts of the file refer to the store by it.")
    spec: StoreSpec = Field(description="The store.")
