"""Stores behind another server: gRPC, Redis, MongoDB."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field, field_validator

from nativelink.config.fields import (
    SECRET,
    Flag,
    Items,
    Milliseconds,
    NoEffect,
    Number,
    Number32,
    Seconds,
    Size,
    Spec,
    Text,
    Verbatim,
    Zero,
)
from nativelink.config.specs_common import GrpcEndpointSpec, RetrySpec

__all__ = ["GrpcStoreSpec", "MongoSpec", "ReadBatchingSpec", "RedisMode", "RedisSpec", "StoreType"]


class StoreType(StrEnum):
    """What an upstream server keeps."""

    CAS = "cas"
    AC = "ac"


class ReadBatchingSpec(Spec):
    """How small blobs of an upstream CAS share BatchReadBlobs and BatchUpdateBlobs calls."""

    max_blob_size_bytes: Annotated[Size, Zero(128 * 1024)] = Field(
        default=128 * 1024,
        description="Blobs up to this many bytes travel in batches. Larger ones travel alone.",
    )
    max_batch_bytes: Annotated[Size, Zero(3 * 1024**2)] = Field(
        default=3 * 1024**2, description="Blob bytes of one batch."
    )
    dispatch_slots: Annotated[Number, Zero(4)] = Field(
        default=4, description="Batches in flight at the same time, of reads and of writes."
    )
    max_queued_bytes: Annotated[Size, Zero(32 * 1024**2)] = Field(
        default=32 * 1024**2,
        description="Blob bytes that may wait for a batch; what comes then travels alone.",
    )


class GrpcStoreSpec(Spec):
    """Passes requests on to another remote cache."""

    KIND: ClassVar[str] = "grpc"

    instance_name: Text = Field(
        default="", description="Instance name used upstream, whatever the client asked for."
    )
    endpoints: Annotated[tuple[GrpcEndpointSpec, ...], Items] = Field(
        min_length=1, description="The upstream servers; requests are spread over them."
    )
    store_type: Annotated[StoreType, Items] = Field(
        description="Whether the upstream is asked as a CAS or as an action cache."
    )
    retry: RetrySpec = Field(
        default=RetrySpec(), description="Tries of a failing request upstream."
    )
    max_concurrent_requests: Number = Field(
        default=0,
        description="Requests in flight upstream; further ones wait. 0: no limit.",
    )
    connections_per_endpoint: Annotated[Number, Zero(1)] = Field(
        default=1, description="TCP connections to each endpoint."
    )
    rpc_timeout_s: Seconds = Field(
        default=0,
        description="Seconds that one call upstream may take in all. 0: as long as it needs.",
    )
    use_legacy_resource_names: Flag = Field(
        default=False,
        description="Leave the digest function out of ByteStream resource names, for servers that "
        "do not expect it there. SHA-256 is never named, as the Remote Execution API demands.",
    )
    headers: Annotated[Mapping[str, Verbatim], SECRET] = Field(
        default={}, description="Metadata added to every request upstream. Not expanded."
    )
    forward_headers: Annotated[tuple[Verbatim, ...], Items] = Field(
        default=(),
        description="Names of metadata entries that are copied from the client's request, such as "
        "`authorization`.",
    )
    experimental_read_batching: ReadBatchingSpec | None = Field(
        default=None,
        description="Sizes of batches. Small blobs that are asked for, or written, at the same "
        "moment always share calls. Unset: the sizes below, or less if the upstream says so.",
    )
    experimental_remote_cache_compression: Flag | None = Field(
        default=None,
        description=(
            "Transfer blobs zstd-compressed (CAS only). Unset: true if any capabilities service "
            "or other CAS store of the file has compression on, else false."
        ),
    )


class RedisMode(StrEnum):
    """How the Redis servers work together."""

    STANDARD = "standard"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


class RedisSpec(Spec):
    """Blobs in a server that speaks Redis' protocol. Meant for small blobs."""

    KIND: ClassVar[str] = "redis_store"

    addresses: Annotated[tuple[Text, ...], Items] = Field(
        min_length=1,
        description="URLs such as `redis://user:password@host:6379/0` (`rediss` for TLS); the "
        "path is the database number.",
    )
    mode: Annotated[RedisMode, Items] = Field(
        default=RedisMode.STANDARD, description="One server, a cluster, or sentinels."
    )
    key_prefix: Text = Field(default="", description="Put before every key.")
    experimental_pub_sub_channel: Verbatim | None = Field(
        default=None, description="Channel on which writes are announced. Unset: none."
    )
    command_timeout_ms: Annotated[Milliseconds, Zero(10_000)] = Field(
        default=10_000, description="Milliseconds until a command counts as failed."
    )
    connection_timeout_ms: Annotated[Milliseconds, Zero(3000)] = Field(
        default=3000, description="Milliseconds until an attempt to connect is given up."
    )
    health_check_timeout_ms: Annotated[Milliseconds, Zero(4000)] = Field(
        default=4000, description="Milliseconds that the health check waits for an answer."
    )
    read_chunk_size: Annotated[Size, Zero(65_536)] = Field(
        default=65_536, description="Bytes fetched per command when a blob is read."
    )
    connection_pool_size: Annotated[Number, Zero(3)] = Field(
        default=3, description="Connections kept open."
    )
    key_ttl_s: Seconds = Field(
        default=0,
        description="Seconds that an entry lives after it was put. 0: until Redis evicts it.",
    )
    max_chunk_uploads_per_update: Annotated[Number, Zero(10)] = Field(
        default=10,
        description="Chunks of one upload in flight; times `read_chunk_size` it bounds the memory "
        "of an upload.",
    )
    scan_count: Annotated[Number, Zero(10_000), NoEffect("nothing lists Redis' keys")] = Field(
        default=10_000, description="COUNT hint of SCAN: keys that the server looks at per step."
    )
    retry: RetrySpec = Field(
        default=RetrySpec(max_retries=1, delay=0.1),
        description="Tries of a failing command, each of them five quick ones where that helps; "
        "`delay` 0 means 0.1 s and `max_retries` 0 means one.",
    )
    max_client_permits: Annotated[Number, Zero(500)] = Field(
        default=500, description="Commands in flight; further ones wait."
    )
    max_count_per_cursor: Annotated[Number, Zero(1500)] = Field(
        default=1500, description="Results per step of an index search of the scheduler."
    )
    response_timeout_s: Annotated[Seconds, NoEffect("use command_timeout_ms")] = Field(
        default=0, description="Accepted from old files."
    )
    connection_timeout_s: Annotated[Seconds, NoEffect("use connection_timeout_ms")] = Field(
        default=0, description="Accepted from old files."
    )
    broadcast_channel_capacity: Annotated[Number, NoEffect("nothing replaces it")] = Field(
        default=0, description="Accepted from old files."
    )

    @field_validator("retry")
    @classmethod
    def _retry_at_least_once(cls, retry: RetrySpec) -> RetrySpec:
        return retry.model_copy(
            update={"max_retries": retry.max_retries or 1, "delay": retry.delay or 0.1}
        )


_NO_SCHEDULER: Final = "no scheduler keeps its state in MongoDB"


class MongoSpec(Spec):
    """Blobs in MongoDB."""

    KIND: ClassVar[str] = "experimental_mongo"

    connection_string: Text = Field(description="`mongodb://…` or `mongodb+srv://…`.")
    database: Text = Field(default="nativelink", description="Database.")
    cas_collection: Text = Field(default="cas", description="Collection of the blobs.")
    scheduler_collection: Annotated[Text, NoEffect(_NO_SCHEDULER)] = Field(
        default="scheduler", description="Collection of the scheduler's state."
    )
    key_prefix: Text | None = Field(
        default=None, description="Put before every key. Unset: nothing."
    )
    read_chunk_size: Annotated[Size, Zero(65_536)] = Field(
        default=65_536, description="Bytes of a blob handled at a time."
    )
    connection_timeout_ms: Annotated[Milliseconds, Zero(3000)] = Field(
        default=3000, description="Milliseconds until an attempt to connect is given up."
    )
    command_timeout_ms: Annotated[Milliseconds, Zero(10_000)] = Field(
        default=10_000, description="Milliseconds until a command counts as failed."
    )
    enable_change_streams: Annotated[Flag, NoEffect(_NO_SCHEDULER)] = Field(
        default=False,
        description="Follow changes through a change stream; the scheduler needs it.",
    )
    write_concern_w: Text | None = Field(
        default=None,
        description='Servers that must confirm a write: a number in quotes or `"majority"`. '
        "Unset: the connection string's. Required with the two next keys.",
    )
    write_concern_j: Flag | None = Field(
        default=None, description="Whether a write must be in the journal to be confirmed."
    )
    write_concern_timeout_ms: Number32 | None = Field(
        default=None, description="Milliseconds to wait for the confirmations."
    )
    max_requests: Annotated[Number, Field(ge=1)] | None = Field(
        default=None, description="Requests in flight, at least 1. Unset: no limit."
    )
    max_concurrent_uploads: Annotated[Number, NoEffect("use max_requests")] = Field(
        default=10, description="Accepted from old files."
    )

    @field_validator("write_concern_w", mode="before")
    @classmethod
    def _number_of_servers(cls, raw: object) -> object:
        """A bare number is as good as one in quotes."""
        return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
