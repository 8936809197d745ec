"""Services of a server, one spec each."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from nativelink.config.fields import (
    EXTENSION,
    Flag,
    Items,
    NullIsEmpty,
    Number,
    Seconds,
    Size,
    Spec,
    Text,
    Verbatim,
    Zero,
)
from nativelink.config.specs_downloads import DownloadsSpec

__all__ = [
    "AcServiceSpec",
    "AdminSpec",
    "BepSpec",
    "ByteStreamServiceSpec",
    "CapabilitiesServiceSpec",
    "CasServiceSpec",
    "ChunkingSpec",
    "ExecutionServiceSpec",
    "FetchServiceSpec",
    "HealthSpec",
    "HttpCacheSpec",
    "InstanceSpec",
    "PushServiceSpec",
    "RemoteExecutionSpec",
    "ServicesSpec",
    "WorkerApiSpec",
]


class InstanceSpec(Spec):
    """What the services have in common that serve several instances."""

    instance_name: Verbatim = Field(
        default="",
        description="The instance that clients ask for; may contain slashes.",
    )


class ChunkingSpec(Spec):
    """Lets clients transfer large blobs in content-defined chunks (SplitBlob, SpliceBlob)."""

    index_store: Text | None = Field(
        default=None,
        description="Name of the store that remembers the chunks of a blob, under the blob's "
        "digest: a store of its own, and no `verify`. Unset: 64 MiB of the process's "
        "memory.",
    )
    avg_chunk_size_bytes: Annotated[Size, Zero(512 * 1024)] = Field(
        default=512 * 1024,
        description="Bytes of a chunk on average, 1 KiB to 1 MiB; a power of two, or Bazel cuts "
        "chunks of 512 KiB. Chunks have a quarter of it at least and four times it at most.",
    )
    max_chunk_count: Annotated[Number, Zero(50_000)] = Field(
        default=50_000,
        description="Chunks that one blob may have; a blob that has more is transferred whole. "
        "50,000 are about what an answer of 4 MiB, the limit of most clients, can list.",
    )


class CasServiceSpec(InstanceSpec):
    """Content-addressable storage for one instance."""

    cas_store: Text = Field(description="Name of the store.")
    experimental_chunking: ChunkingSpec | None = Field(
        default=None, description="Offer split and splice. Unset: no."
    )


class AcServiceSpec(InstanceSpec):
    """Action cache for one instance."""

    ac_store: Text = Field(description="Name of the store.")
    read_only: Flag = Field(default=False, description="Refuse updates by clients.")


class RemoteExecutionSpec(Spec):
    """Announces remote execution."""

    scheduler: Text = Field(description="Name of the scheduler whose properties are announced.")


class CapabilitiesServiceSpec(InstanceSpec):
    """Tells clients of one instance what the server can do. Bazel asks for it first."""

    remote_execution: RemoteExecutionSpec | None = Field(
        default=None, description="Announce remote execution. Unset: a cache only."
    )
    remote_cache_compression: Flag = Field(
        default=False, description="Offer zstd-compressed transfers of blobs."
    )


class ExecutionServiceSpec(InstanceSpec):
    """Remote execution for one instance."""

    cas_store: Text = Field(description="Name of the CAS store that has the actions' inputs.")
    scheduler: Text = Field(description="Name of the scheduler.")


class ByteStreamServiceSpec(InstanceSpec):
    """Streamed transfers of blobs for one instance."""

    cas_store: Verbatim = Field(description="Name of the store.")
    max_bytes_per_stream: Annotated[Size, Zero(64 * 1024)] = Field(
        default=64 * 1024, description="Blob bytes in one message of a download."
    )
    persist_stream_on_disconnect_timeout_s: Annotated[Seconds, Zero(60)] = Field(
        default=60,
        description="Seconds that an upload whose client went away can be resumed.",
    )


_ASSET_CAS = (
    "Name of the CAS store with the contents, which must be there before they are named to anyone. "
    "Unset: that of the instance's `cas` service on the same server; without one, nothing is "
    "looked for."
)


class FetchServiceSpec(InstanceSpec):
    """Remote asset downloads for one instance."""

    fetch_store: Text = Field(description="Name of the store that maps assets to blobs.")
    cas_store: Annotated[Text, EXTENSION] | None = Field(default=None, description=_ASSET_CAS)
    downloads: Annotated[DownloadsSpec, EXTENSION] | None = Field(
        default=None,
        description="Download what nobody pushed. Unset: only what was pushed is found.",
    )


class PushServiceSpec(InstanceSpec):
    """Remote asset registrations for one instance."""

    push_store: Text = Field(description="Name of the store that maps assets to blobs.")
    cas_store: Annotated[Text, EXTENSION] | None = Field(default=None, description=_ASSET_CAS)
    read_only: Flag = Field(default=False, description="Refuse registrations by clients.")


class HttpCacheSpec(InstanceSpec):
    """A cache by plain HTTP for one instance: Bazel, ccache, sccache, Gradle, Turborepo."""

    cas_store: Text | None = Field(
        default=None,
        description="Name of the store of what is below `/cas/`. Unset: that of the instance's "
        "`cas` service on the same server; without one there is no `/cas/`.",
    )
    ac_store: Text | None = Field(
        default=None,
        description="Name of the store of everything else. Unset: that of the instance's `ac` "
        "service on the same server.",
    )
    read_only: Flag | None = Field(
        default=None,
        description="Refuse whatever clients put. Unset: as the instance's `ac` service.",
    )


class WorkerApiSpec(Spec):
    """Where workers connect. Give it a port of its own that clients cannot reach."""

    scheduler: Text = Field(description="Name of the scheduler that the workers serve.")
    ac_store: Annotated[Verbatim, EXTENSION] | None = Field(
        default=None,
        description="Name of the action cache that this server writes the workers' successful "
        "results to, before clients get them, so that workers need no access to it. Unset: "
        "workers write there themselves (`upload_action_result`).",
    )
    disable_kill_revoked_operations: Flag = Field(
        default=False,
        description="Let a worker finish an action that was taken from it, instead of stopping it.",
    )
    kill_revoked_operations_interval_s: Annotated[Seconds, Zero(5)] = Field(
        default=5,
        description="Seconds between orders to stop such an action; the first goes out at once.",
    )


class BepSpec(Spec):
    """Takes build events (Bazel's `--bes_backend`)."""

    store: Text = Field(description="Name of the store that keeps the events.")


class AdminSpec(Spec):
    """Administration over HTTP."""

    path: Annotated[Verbatim, AfterValidator(lambda path: path or "/admin")] = Field(
        default="/admin", description="Where. Empty: `/admin`."
    )


class HealthSpec(Spec):
    """Health over HTTP, for load balancers."""

    path: Annotated[Verbatim, AfterValidator(lambda path: path or "/status")] = Field(
        default="/status", description="Where. Empty: `/status`."
    )
    timeout_seconds: Annotated[Seconds, Zero(5)] = Field(
        default=5, description="Seconds that a component's check may take."
    )


class ServicesSpec(Spec):
    """What a server offers."""

    cas: Annotated[tuple[CasServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Content-addressable storage."
    )
    ac: Annotated[tuple[AcServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Action cache."
    )
    capabilities: Annotated[tuple[CapabilitiesServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="What the server can do; Bazel needs it."
    )
    execution: Annotated[tuple[ExecutionServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Remote execution."
    )
    bytestream: Annotated[tuple[ByteStreamServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Streamed transfers of blobs; Bazel needs it."
    )
    fetch: Annotated[tuple[FetchServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Remote asset downloads."
    )
    push: Annotated[tuple[PushServiceSpec, ...], Items, NullIsEmpty] = Field(
        default=(), description="Remote asset registrations."
    )
    http_cache: Annotated[tuple[HttpCacheSpec, ...], Items, NullIsEmpty, EXTENSION] = Field(
        default=(),
        description="A cache by plain HTTP on the same port (docs/http-cache.md).",
    )
    worker_api: WorkerApiSpec | None = Field(
        default=None, description="Connections of workers. Not for a public port."
    )
    experimental_bep: BepSpec | None = Field(default=None, description="Build events.")
    admin: AdminSpec | None = Field(default=None, description="Administration over HTTP.")
    health: HealthSpec | None = Field(default=None, description="Health over HTTP.")
