"""Checks of stores by themselves and in their roles."""

from __future__ import annotations

from collections.abc import Iterator

from nativelink.config.fields import Spec
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, walk_specs
from nativelink.config.specs_common import EvictionSpec
from nativelink.config.specs_remote import GrpcStoreSpec, MongoSpec, StoreType
from nativelink.config.specs_services import AcServiceSpec, CapabilitiesServiceSpec
from nativelink.config.specs_stores import (
    CompletenessCheckingSpec,
    CompressionSpec,
    DedupSpec,
    ExistenceCacheSpec,
    FastSlowSpec,
    FilesystemSpec,
    MemorySpec,
    NoopSpec,
    RefSpec,
    ShardSpec,
    SizePartitioningSpec,
    VerifySpec,
)

__all__ = ["check_stores", "reached"]


def check_stores(sections: Sections) -> Iterator[Problem]:
    """Findings about single stores and about the roles they are used in."""
    for entry in sections.stores:
        if entry.spec is not None:
            for path, spec in walk_specs(entry.spec, entry.kind_path):
                yield from _store(path, spec)
                yield from _eviction(path, spec)
    yield from _action_caches(sections)
    yield from _transfer_compression(sections)


def _store(path: Path, spec: Spec) -> Iterator[Problem]:
    match spec:
        case ShardSpec():
            yield from _shard(path, spec)
        case DedupSpec():
            yield from _dedup(path, spec)
        case CompressionSpec():
            lz4 = spec.compression_algorithm.lz4
            if lz4 is not None and lz4.max_decode_block_size < lz4.block_size:
                yield error(
                    (*path, "compression_algorithm", "lz4", "max_decode_block_size"),
                    "the store could not read what it wrote",
                    got=str(lz4.max_decode_block_size),
                    allowed=f"at least block_size, {lz4.block_size}",
                )
            if isinstance(spec.backend, DedupSpec):
                yield warning(
                    (*path, "backend", "dedup"),
                    "compressed blobs have hardly any chunk in common",
                    hint="put compression into the content_store of dedup",
                    at_key=True,
                )
        case VerifySpec(verify_size=False, verify_hash=False):
            yield warning(path, "verifies nothing", hint="set verify_size, verify_hash or both")
        case ExistenceCacheSpec(backend=NoopSpec()):
            yield warning(path, "a noop store has nothing whose existence could be remembered")
        case SizePartitioningSpec(size=0):
            yield warning((*path, "size"), "every blob goes to upper_store")
        case FastSlowSpec():
            if isinstance(spec.fast, RefSpec) and spec.fast == spec.slow:
                yield warning(path, "both sides are the same store")
        case MongoSpec():
            yield from _mongo(path, spec)
        case _:
            pass


def _shard(path: Path, spec: ShardSpec) -> Iterator[Problem]:
    weights = [item.weight for item in spec.stores]
    if not any(weights):
        yield error((*path, "stores"), "the weights are all 0, so no shard would get a blob")
        return
    for index, weight in enumerate(weights):
        if weight == 0:
            yield warning((*path, "stores", index, "weight"), "this shard gets no blob")


def _dedup(path: Path, spec: DedupSpec) -> Iterator[Problem]:
    if not spec.min_size < spec.normal_size < spec.max_size:
        yield error(
            path,
            "the chunk sizes are out of order",
            got=f"min_size {spec.min_size}, normal_size {spec.normal_size}, "
            f"max_size {spec.max_size}",
            allowed="min_size < normal_size < max_size",
        )


def _mongo(path: Path, spec: MongoSpec) -> Iterator[Problem]:
    if spec.write_concern_w is not None:
        return
    for key in ("write_concern_j", "write_concern_timeout_ms"):
        if getattr(spec, key) is not None:
            yield error((*path, key), 'has no meaning without "write_concern_w"', at_key=True)


def _eviction(path: Path, spec: Spec) -> Iterator[Problem]:
    if not isinstance(spec, MemorySpec | FilesystemSpec | ExistenceCacheSpec):
        return
    policy = spec.eviction_policy
    if policy is None or policy == EvictionSpec():
        lost = "disk fills up" if isinstance(spec, FilesystemSpec) else "memory grows without bound"
        yield warning(
            path if policy is None else (*path, "eviction_policy"),
            f"nothing is ever evicted, so the {lost}",
            hint='set "max_bytes" in "eviction_policy"'
            if not isinstance(spec, ExistenceCacheSpec)
            else 'set "max_count" or "max_seconds" in "eviction_policy"',
        )
        return
    place = (*path, "eviction_policy", "evict_bytes")
    if policy.evict_bytes and not policy.max_bytes:
        yield warning(place, 'has no effect without "max_bytes"', at_key=True)
    elif policy.evict_bytes and policy.evict_bytes >= policy.max_bytes:
        yield error(
            place,
            "every eviction would empty the store",
            got=str(policy.evict_bytes),
            allowed=f"less than max_bytes, {policy.max_bytes}",
        )


def _action_caches(sections: Sections) -> Iterator[Problem]:
    """Stores whose purpose does not fit the role in which a service uses them."""
    for service in sections.services:
        key = "ac_store" if isinstance(service.spec, AcServiceSpec) else "cas_store"
        name = getattr(service.spec, key, None)
        if isinstance(name, str):
            unfit = _unfit_for_ac if key == "ac_store" else _unfit_for_cas
            for spec in reached(sections, name):
                if (why := unfit(spec)) is not None:
                    yield warning((*service.path, key), f'"{name}" contains {spec.KIND}, but {why}')


def reached(sections: Sections, name: str) -> Iterator[Spec]:
    """The stores that hold what is put into `name`, wrappers included."""
    visited: set[str] = set()
    by_name = {entry.name: entry for entry in sections.stores}
    waiting: list[Spec] = []
    if (entry := by_name.get(name)) is not None and entry.spec is not None:
        visited.add(name)
        waiting.append(entry.spec)
    while waiting:
        spec = waiting.pop()
        if isinstance(spec, RefSpec):
            target = by_name.get(spec.name)
            if target is not None and target.spec is not None and spec.name not in visited:
                visited.add(spec.name)
                waiting.append(target.spec)
            continue
        yield spec
        match spec:
            case CompletenessCheckingSpec():
                waiting.append(spec.backend)
            case FastSlowSpec():
                waiting += [spec.slow, spec.fast]
            case SizePartitioningSpec():
                waiting += [spec.upper_store, spec.lower_store]
            case ShardSpec():
                waiting += [item.store for item in reversed(spec.stores)]
            case _:
                backend = getattr(spec, "backend", None)
                if isinstance(backend, Spec) and backend.KIND:
                    waiting.append(backend)


def _unfit_for_ac(spec: Spec) -> str | None:
    match spec:
        case VerifySpec(verify_size=True) | VerifySpec(verify_hash=True):
            return "an action result is not the content of its key: every update would be refused"
        case SizePartitioningSpec():
            return "the size in an action cache's key is not that of the action result"
        case ExistenceCacheSpec():
            return "it is made for a CAS: it would not notice that a result was replaced"
        case GrpcStoreSpec(store_type=StoreType.CAS):
            return 'its upstream is asked as a CAS: set "store_type" to "ac"'
        case _:
            return None


def _unfit_for_cas(spec: Spec) -> str | None:
    match spec:
        case CompletenessCheckingSpec():
            return "it is made for an action cache: it would read every blob as an action result"
        case GrpcStoreSpec(store_type=StoreType.AC):
            return 'its upstream is asked as an action cache: set "store_type" to "cas"'
        case _:
            return None


def _transfer_compression(sections: Sections) -> Iterator[Problem]:
    """Where zstd transfers are wanted somewhere, and upstream stores that do not take part."""
    key = "experimental_remote_cache_compression"
    upstream = [
        ((*path, key), spec)
        for entry in sections.stores
        if entry.spec is not None
        for path, spec in walk_specs(entry.spec, entry.kind_path)
        if isinstance(spec, GrpcStoreSpec)
    ]
    wanted = any(
        isinstance(service.spec, CapabilitiesServiceSpec) and service.spec.remote_cache_compression
        for service in sections.services
    ) or any(
        spec.store_type is StoreType.CAS and spec.experimental_remote_cache_compression
        for _, spec in upstream
    )
    for place, spec in upstream:
        chosen = spec.experimental_remote_cache_compression
        if spec.store_type is StoreType.AC and chosen:
            yield warning(place, "has no effect on an action cache", at_key=True)
        elif spec.store_type is StoreType.CAS and chosen is False and wanted:
            yield warning(
                place, "transfers to this upstream stay uncompressed, unlike the others of the file"
            )
