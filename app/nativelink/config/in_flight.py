"""How many requests at a time the stores below a store take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from nativelink.config.fields import Spec
from nativelink.config.problems import Path
from nativelink.config.sections import inner_specs
from nativelink.config.specs_cloud import ObjectStoreSpec, OntapExistenceCacheSpec
from nativelink.config.specs_remote import GrpcStoreSpec
from nativelink.config.specs_stores import DedupSpec, RefSpec

__all__ = ["LEAST_REQUESTS", "limited_stores"]

#: What cutting or joining a blob takes: one request transfers the blob, another one its chunks.
LEAST_REQUESTS: Final = 2


def limited_stores(
    spec: Spec, path: Path, stores: Mapping[str, Spec | None]
) -> Iterator[tuple[Path, int]]:
    """The stores that keep what is put, where a whole transfer counts as one request.

    Others take any number of transfers (memory, filesystem), or count each round trip of a
    transfer by itself (redis_store, experimental_mongo), or transfer blobs in pieces of their own
    (dedup).

    Args:
        spec: of a store.
        path: where it stands.
        stores: what references mean; None for one that is not valid.

    Yields:
        The path of a store, and its bound. No bound, no entry; twice the same for a store that is
        reached in two ways.
    """
    match spec:
        case RefSpec():
            target = stores.get(spec.name)
            if target is not None:
                # A circle of references is for others to find.
                others = {name: each for name, each in stores.items() if name != spec.name}
                yield from limited_stores(target, (spec.name,), others)
        case DedupSpec():
            pass
        case GrpcStoreSpec():
            bounds = [each.concurrency_limit for each in spec.endpoints if each.concurrency_limit]
            if spec.max_concurrent_requests:
                bounds.append(spec.max_concurrent_requests)
            if bounds:
                yield path, min(bounds)
        case ObjectStoreSpec():
            if spec.max_concurrent_requests:
                yield path, spec.max_concurrent_requests
        case OntapExistenceCacheSpec():
            yield from limited_stores(spec.backend, (*path, "backend"), stores)
        case _:
            for inner_path, inner in inner_specs(spec, path):
                yield from limited_stores(inner, inner_path, stores)
