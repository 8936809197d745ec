"""What the server can do: REAPI's Capabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nativelink.core.digest import DigestFunction
from nativelink.core.rpc import CallContext, Method, Reply
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.proto.build.bazel.semver import semver_pb2
from nativelink.services.instances import Instances
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.services.methods import method, service

__all__ = ["NODE_PROPERTIES", "CapabilitiesInstance", "CapabilitiesService"]

_SERVICE: Final = service(pb.DESCRIPTOR, "Capabilities")
#: Bazel up to version 6 asks for 2.0 and refuses servers that start later.
_LOW_VERSION: Final = semver_pb2.SemVer(major=2, minor=0)
_HIGH_VERSION: Final = semver_pb2.SemVer(major=2, minor=3)
_MAX_PRIORITY: Final = 2**31 - 1
#: Of files, directories and symbolic links, which workers honour (REAPI v2, NodeProperties).
NODE_PROPERTIES: Final = ("mtime", "unix_mode")


@dataclass(frozen=True, slots=True)
class CapabilitiesInstance:
    """What is configured for one instance.

    Attributes:
        action_cache_updates: whether clients may write results.
        platform_properties: gives the names of the properties that the instance's scheduler
            knows; None if it has no scheduler, so that nothing can be executed.
        zstd: whether blobs may be transferred zstd-compressed.
        average_chunk_size: bytes of a chunk that SplitBlob cuts, on average; None if clients are
            not offered chunks.
    """

    action_cache_updates: bool
    platform_properties: Callable[[], Sequence[str]] | None = None
    zstd: bool = False
    average_chunk_size: int | None = None


class CapabilitiesService:
    """Answers from what is configured. Answers are made once, or when a scheduler learns more.

    Args:
        instances: by name.
        default_function: the preferred digest function, and that of requests that name none.
        max_batch_total_size_bytes: as the CAS enforces it.
    """

    def __init__(
        self,
        instances: Mapping[str, CapabilitiesInstance],
        *,
        default_function: DigestFunction = DigestFunction.SHA256,
        max_batch_total_size_bytes: int = MAX_BATCH_TOTAL_SIZE_BYTES,
    ) -> None:
        self._answers = Instances(
            "capabilities",
            {
                name: _Answer(instance, default_function, max_batch_total_size_bytes)
                for name, instance in instances.items()
            },
        )

    def methods(self) -> Sequence[Method]:
        """The methods to serve."""
        return [method(_SERVICE, "GetCapabilities", self._get_capabilities)]

    async def _get_capabilities(
        self, request: pb.GetCapabilitiesRequest, _context: CallContext
    ) -> Reply:
        return self._answers.get(request.instance_name).encoded()


class _Answer:
    """The encoded capabilities of one instance."""

    def __init__(
        self, instance: CapabilitiesInstance, default: DigestFunction, max_batch_bytes: int
    ) -> None:
        self._instance = instance
        self._default = default
        self._max_batch_bytes = max_batch_bytes
        self._properties: Sequence[str] | None = None
        self._encoded = b""

    def encoded(self) -> bytes:
        """As it is now."""
        ask = self._instance.platform_properties
        properties = () if ask is None else ask()
        if properties != self._properties:
            self._properties = properties
            self._encoded = _capabilities(
                self._instance, properties, self._default, self._max_batch_bytes
            ).SerializeToString()
        return self._encoded


def _capabilities(
    instance: CapabilitiesInstance,
    properties: Sequence[str],
    default: DigestFunction,
    max_batch_total_size_bytes: int,
) -> pb.ServerCapabilities:
    # Some clients take the first one that they know.
    functions = [
        pb.DigestFunction.Value.Name(function)
        for function in sorted(DigestFunction, key=lambda function: function is not default)
    ]
    compressors = [pb.Compressor.ZSTD] if instance.zstd else []
    chunks = instance.average_chunk_size
    return pb.ServerCapabilities(
        cache_capabilities=pb.CacheCapabilities(
            digest_functions=functions,
            action_cache_update_capabilities=pb.ActionCacheUpdateCapabilities(
                update_enabled=instance.action_cache_updates
            ),
            max_batch_total_size_bytes=max_batch_total_size_bytes,
            # Directories and results are kept as they come: nothing here refuses a target.
            symlink_absolute_path_strategy=pb.SymlinkAbsolutePathStrategy.ALLOWED,
            # IDENTITY is never named (REAPI v2, CacheCapabilities).
            supported_compressors=compressors,
            supported_batch_update_compressors=compressors,
            split_blob_support=chunks is not None,
            splice_blob_support=chunks is not None,
            fast_cdc_2020_params=None
            if chunks is None
            else pb.FastCdc2020Params(avg_chunk_size_bytes=chunks, seed=0),
        ),
        execution_capabilities=None
        if instance.platform_properties is None
        else pb.ExecutionCapabilities(
            digest_function=pb.DigestFunction.Value.Name(default),
            digest_functions=functions,
            exec_enabled=True,
            execution_priority_capabilities=pb.PriorityCapabilities(
                priorities=[
                    pb.PriorityCapabilities.PriorityRange(
                        min_priority=0, max_priority=_MAX_PRIORITY
                    )
                ]
            ),
            # The platform properties stand there too because NativeLink's schedulers look for
            # them in the answer of the one that they forward to.
            supported_node_properties=[*NODE_PROPERTIES, *properties],
        ),
        low_api_version=_LOW_VERSION,
        high_api_version=_HIGH_VERSION,
    )
